"""Judged by strangers: face recognisers that neither the study nor dpmi trained judge reconstructions of faces.

An evaluator that was trained for the same task as the target can take a picture for the class in which nobody else
sees it [HKN25]. A stranger was trained on other people, by others, and knows a class by its private images only.
Their files are not part of dpmi; the user installs them (docs/attacks.md).
"""

from .judging import class_similarities, type_one_errors
from .networks import STRANGERS, Stranger, load_stranger

__all__ = [
    "STRANGERS",
    "Stranger",
    "class_similarities",
    "load_stranger",
    "type_one_errors",
]
