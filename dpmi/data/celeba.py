"""CelebA: faces of celebrities, the most frequent data set in papers on model inversion."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from dpmi.data.files import data_folder, missing
from dpmi.data.files import download as fetch
from dpmi.data.image_files import split_files
from dpmi.data.split import Split

#: As in GMI and KED-MI: the 1,000 people with the most images, a tenth of each held out; 30,000 images of other people.
PRIVATE_PEOPLE = 1000
TEST_SHARE = 0.1
PUBLIC_IMAGES = 30_000
#: Side of the central crop of the aligned 178x218 images, in pixels.
CROP = 108

_FOLDER, _IDENTITIES, _IMAGES = "celeba", "identity_CelebA.txt", "img_align_celeba"

CITATION = (
    "Z. Liu, P. Luo, X. Wang, X. Tang, Deep learning face attributes in the wild, ICCV, 2015; "
    "http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
)


def load_celeba(
    root: Path | None,
    *,
    size: int = 64,
    private: int = PRIVATE_PEOPLE,
    public_images: int = PUBLIC_IMAGES,
    seed: int = 0,
    download: bool = False,
) -> Split:
    """Load CelebA as in the papers: colour (3, 64, 64), 1,000 people, 30,000 public images; the MIA distance is SSIM.

    The private people are those with the most images; ties go to the smaller number. The central crop of 108x108 pixels
    is resized to 64x64. A tenth of each person's images is held out, rounded up, as in the papers (27,018 train and
    3,009 test images); the selection is random.

    Args:
        root: data root with ``celeba`` in torchvision's layout: ``identity_CelebA.txt``, ``img_align_celeba``.
        size: height and width of the images after resizing.
        private: number of private people, at least 2.
        public_images: number of images of other people to draw; all of them if there are fewer.
        seed: seed of the test images and the public images.
        download: whether torchvision downloads the files into ``root`` first.
    """
    if download:
        fetch(root, "CelebA")
    folder = data_folder(root, _FOLDER, dataset="celeba", holds=f"{_IDENTITIES} and {_IMAGES}/")
    if not (folder / _IDENTITIES).is_file():
        raise missing(folder, dataset="celeba", holds=_IDENTITIES)
    files = read_identities(folder / _IDENTITIES, folder / _IMAGES)
    if not 2 <= private <= len(files):
        raise ValueError(f"private must be from 2 to the {len(files)} people; got {private}")
    by_images = sorted(files, key=lambda person: (-len(files[person]), person))
    chosen = set(by_images[:private])
    return split_files(
        "celeba",
        {str(person): own for person, own in files.items() if person in chosen},
        {str(person): own for person, own in files.items() if person not in chosen},
        size=size,
        crop=CROP,
        test_share=TEST_SHARE,
        public_images=public_images,
        generator=np.random.default_rng(seed),
        distance="ssim",
        citation=CITATION,
    )


def read_identities(listing: Path, folder: Path) -> dict[int, list[Path]]:
    """Return the files in ``folder`` of each person, in ascending order of the people's numbers.

    Raises:
        ValueError: a line is not a file name and a number.
    """
    files = defaultdict[int, list[Path]](list)
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), start=1):
        match line.split():
            case [name, person] if person.isdecimal():
                files[int(person)].append(folder / name)
            case _:
                raise ValueError(f"line {number} of {listing} must be a file name and a number; got {line!r}")
    return {person: files[person] for person in sorted(files)}
