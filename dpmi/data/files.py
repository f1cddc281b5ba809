"""The files of a data set: their location, the error for missing files, and downloads by torchvision."""

from pathlib import Path
from typing import Literal

Downloadable = Literal["MNIST", "FashionMNIST", "Omniglot", "CIFAR10", "CelebA"]


def data_folder(root: Path | None, folder: str, *, dataset: str, holds: str) -> Path:
    """Return ``root / folder``, the folder with the files of ``dataset``.

    Args:
        root: the data root; None if the user named none.
        folder: the folder of these files below the root.
        dataset: name of the data set, for the error.
        holds: the expected content of the folder, for the error.

    Raises:
        FileNotFoundError: there is no root or no such folder; the message says what to set.
    """
    if root is None:
        raise FileNotFoundError(f"data set {dataset!r} needs {holds} in {folder}/ of a data root. {_HOW}")
    if not (root / folder).is_dir():
        raise missing(root / folder, dataset=dataset, holds=holds)
    return root / folder


def missing(looked_in: Path, *, dataset: str, holds: str) -> FileNotFoundError:
    """Return the error for missing files."""
    return FileNotFoundError(
        f"data set {dataset!r} needs {holds} in {looked_in}, but they are missing. {_HOW}"
    )


def download(root: Path | None, *datasets: Downloadable) -> None:
    """Download and unpack data sets into ``root`` with torchvision; existing files are kept.

    No other function writes to a data root. Without a root nothing is downloaded, and the subsequent reader raises an
    error that explains how to name one.
    """
    # Imported here because the import takes as long as that of torch, and few runs download.
    import torchvision  # noqa: PLC0415

    if root is not None:
        for dataset in datasets:
            getattr(torchvision.datasets, dataset)(root, download=True)


_HOW = "Name the data root with --data-root, root=... or the environment variable DPMI_DATA."
