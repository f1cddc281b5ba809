"""The classifiers of the papers, built by name."""

from dpmi.models.registry import MODELS, build, names

__all__ = ["MODELS", "build", "names"]
