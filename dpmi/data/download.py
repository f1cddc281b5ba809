"""Fetching what torchvision can fetch: the only place where a data root is written to."""

from pathlib import Path
from typing import Literal

Downloadable = Literal["MNIST", "FashionMNIST", "Omniglot", "CIFAR10", "CelebA"]


def download(root: Path | None, *datasets: Downloadable) -> None:
    """Let torchvision fetch and unpack data sets into ``root``; files that are there already are kept.

    Without a root nothing is fetched, and the reader that follows says how to name one.
    """
    # Imported here because it takes as long as torch itself, and hardly any run downloads.
    import torchvision  # noqa: PLC0415

    if root is not None:
        for dataset in datasets:
            getattr(torchvision.datasets, dataset)(root, download=True)
