"""Reads Omniglot's handwritten characters directly from the zip files."""

import io
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dpmi.data.files import data_folder, missing

SIDE = 28
WRITERS = 20

#: The alphabets of the two small background sets. The full background set has more; only these are read, so that both
#: archives give the same data set.
ALPHABETS = (
    "Balinese",
    "Early_Aramaic",
    "Greek",
    "Japanese_(katakana)",
    "Korean",
    "Latin",
    "Sanskrit",
    "Tagalog",
)

_SMALL = ("images_background_small1.zip", "images_background_small2.zip")
#: Path of the full background set in torchvision's download.
_FULL = "omniglot-py/images_background.zip"


class Characters(NamedTuple):
    """Every drawing of every character, ordered by character and then writer.

    ``pixels`` are bytes ``(4840, 28, 28)``, light strokes on black; ``names`` contains one name per drawing, such as
    ``Greek/character07``; ``writers`` are numbered 1..20 within an alphabet.

    >>> drawn = Characters(
    ...     pixels=np.zeros((3, 28, 28), dtype=np.uint8),
    ...     names=("Greek/character07", "Greek/character07", "Latin/character01"), writers=np.array([1, 2, 1]))
    >>> drawn.pixels[[name.startswith("Greek/") for name in drawn.names]].shape, set(drawn.writers.tolist())
    ((2, 28, 28), {1, 2})
    """

    pixels: NDArray[np.uint8]
    names: tuple[str, ...]
    writers: NDArray[np.int64]


def read_characters(root: Path | None, *, dataset: str) -> Characters:
    """Read the 242 characters, each drawn once by 20 writers, for the data set ``dataset``.

    Greek and Latin are in both small zip files and are read once.

    Raises:
        FileNotFoundError: a zip file does not exist.
        ValueError: a zip file is truncated or corrupt.
    """
    drawings: dict[tuple[str, int], NDArray[np.uint8]] = {}
    for archive in _archives(root, dataset=dataset):
        try:
            with zipfile.ZipFile(archive) as zipped:
                drawings |= _drawings(zipped)
        except (zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{archive} is truncated or corrupt: {error}. Download it again.") from error
    order = sorted(drawings)
    return Characters(
        pixels=np.stack([drawings[drawing] for drawing in order]),
        names=tuple(name for name, _ in order),
        writers=np.array([writer for _, writer in order], dtype=np.int64),
    )


def _archives(root: Path | None, *, dataset: str) -> list[Path]:
    if root is not None and (root / _FULL).is_file():
        return [root / _FULL]
    holds = " and ".join(_SMALL)
    folder = data_folder(root, "omniglot", dataset=dataset, holds=holds)
    archives = [folder / name for name in _SMALL]
    if not all(archive.is_file() for archive in archives):
        raise missing(folder, dataset=dataset, holds=holds)
    return archives


def _drawings(zipped: zipfile.ZipFile) -> dict[tuple[str, int], NDArray[np.uint8]]:
    """Return the drawings by character and writer."""
    drawings = {}
    for entry in map(PurePosixPath, zipped.namelist()):
        match entry.parts:
            # The file is named <character id>_<writer>.png.
            case (_, alphabet, character, _) if alphabet in ALPHABETS and entry.suffix == ".png":
                writer = int(entry.stem.split("_")[1])
                drawings[f"{alphabet}/{character}", writer] = _light_on_black(zipped.read(str(entry)))
    return drawings


def _light_on_black(png: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(png)) as image:
        inverted = ImageOps.invert(image.convert("L"))
    return np.asarray(inverted.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
