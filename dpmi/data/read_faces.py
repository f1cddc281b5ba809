"""Reads the three face data sets. They show real people, who are identified only by a folder or a number."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dpmi.data.files import data_folder, missing
from dpmi.data.open_image import open_image

FACES94_PHOTOS = 20

_GT_FILE = "gt_faces_40x30.npz"


class Photos(NamedTuple):
    """Grey photographs, bytes ``(N, H, W)``; the person on each, integers ``(N,)``; and the people's names."""

    pixels: NDArray[np.uint8]
    people: NDArray[np.int64]
    names: tuple[str, ...]


def read_faces94(root: Path | None, *, height: int, width: int, people: int | None, dataset: str) -> Photos:
    """Read Faces94: 20 photographs of each person, or of the first ``people``, in the order of their folders.

    The 180x200 colour photographs are converted to grey and resized without a crop, so the aspect ratio may change.

    Raises:
        FileNotFoundError: there are no folders of people.
        ValueError: ``people`` is not from 2 to the number of folders, or a person does not have 20 photographs.
    """
    folder = data_folder(root, "faces94", dataset=dataset, holds="a folder of 20 jpg files for each person")
    persons = sorted(path for path in folder.iterdir() if path.is_dir())
    if not persons:
        raise missing(folder, dataset=dataset, holds="a folder of 20 jpg files for each person")
    if people is not None:
        if not 2 <= people <= len(persons):
            raise ValueError(f"people must be from 2 to {len(persons)}; got {people}")
        persons = persons[:people]
    photos = []
    for person in persons:
        # <person>.<1..20>.jpg, in the order they were taken
        files = sorted(person.glob("*.jpg"), key=lambda file: int(file.stem.rpartition(".")[2]))
        if len(files) != FACES94_PHOTOS:
            raise ValueError(f"{person} must contain {FACES94_PHOTOS} jpg files; got {len(files)}")
        for file in files:
            photos.append(open_image(file, "L").resize((width, height), Image.Resampling.LANCZOS))
    return _photos(photos, [person.name for person in persons])


def read_att_faces(root: Path | None, *, height: int, width: int, dataset: str) -> Photos:
    """Read the AT&T faces: 40 people, 10 photographs of 112x92 each, fitted to ``height`` x ``width``."""
    holds = "s1..s40, each with 1.pgm..10.pgm"
    folder = data_folder(root, "att_faces", dataset=dataset, holds=holds)
    names = [f"s{person}" for person in range(1, 41)]
    photos = []
    for name in names:
        for number in range(1, 11):
            file = folder / name / f"{number}.pgm"
            if not file.is_file():
                raise missing(file.parent, dataset=dataset, holds=file.name)
            photos.append(_fit(open_image(file, "L"), height, width))
    return _photos(photos, names)


def read_gt_faces(root: Path | None, *, height: int, width: int, dataset: str) -> Photos:
    """Read the Georgia Tech faces: 50 people, 15 photographs of 40x30 each, fitted to ``height`` x ``width``."""
    folder = data_folder(root, "gt_faces", dataset=dataset, holds=_GT_FILE)
    if not (folder / _GT_FILE).is_file():
        raise missing(folder, dataset=dataset, holds=_GT_FILE)
    with np.load(folder / _GT_FILE) as arrays:
        # Sorted by person, like the photographs of the other readers.
        order = np.argsort(arrays["labels"], kind="stable")
        photos = [_fit(Image.fromarray(pixels), height, width) for pixels in arrays["images"][order]]
        names = [str(person) for person in np.unique(arrays["labels"])]
    return _photos(photos, names)


def _fit(image: Image.Image, height: int, width: int) -> Image.Image:
    """Crop the centre to the new aspect ratio and resize, without distortion."""
    return ImageOps.fit(image, (width, height), method=Image.Resampling.LANCZOS)


def _photos(photos: Sequence[Image.Image], names: Sequence[str]) -> Photos:
    """Stack photographs in the order of people, with the same number of each."""
    people = np.repeat(np.arange(len(names)), len(photos) // len(names))
    return Photos(np.stack([np.asarray(photo) for photo in photos]), people, tuple(names))
