"""A data set's files: finding them, saying what is missing, and fetching what torchvision can fetch."""

from pathlib import Path
from typing import Literal

Downloadable = Literal["MNIST", "FashionMNIST", "Omniglot", "CIFAR10", "CelebA"]


def data_folder(root: Path | None, folder: str, *, dataset: str, holds: str) -> Path:
    """Return ``root / folder``, where the files of ``dataset`` are.

    Args:
        root: the data root, or None when the user named none.
        folder: the folder of these files below the root.
        dataset: the name to put into the error.
        holds: what is expected in the folder, for the error.

    Raises:
        FileNotFoundError: there is no root or no such folder; the message says what to set.
    """
    if root is None:
        raise FileNotFoundError(f"data set {dataset!r} needs {holds} in {folder}/ of a data root. {_HOW}")
    if not (root / folder).is_dir():
        raise missing(root / folder, dataset=dataset, holds=holds)
    return root / folder


def missing(looked_in: Path, *, dataset: str, holds: str) -> FileNotFoundError:
    """Return the error for files that are not where they belong."""
    return FileNotFoundError(f"data set {dataset!r} needs {holds} in {looked_in}, not found there. {_HOW}")


def download(root: Path | None, *datasets: Downloadable) -> None:
    """Let torchvision fetch and unpack data sets into ``root``; files that are there already are kept.

    Nothing else writes to a data root.

    Without a root nothing is fetched, and the reader that follows says how to name one.
    """
    # Imported here because it takes as long as torch itself, and hardly any run downloads.
    import torchvision  # noqa: PLC0415

    if root is not None:
        for dataset in datasets:
            getattr(torchvision.datasets, dataset)(root, download=True)


_HOW = "Name the data root with --data-root, root=... or the environment variable DPMI_DATA."
