"""CelebA: faces of celebrities, the task that most of the papers attack."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from dpmi.data.files import data_folder, missing
from dpmi.data.files import download as fetch
from dpmi.data.image_files import split_files
from dpmi.data.split import Split

#: GMI and KED-MI: the 1,000 people with most images, a tenth of each held out; 30,000 images of others.
PRIVATE_PEOPLE = 1000
TEST_SHARE = 0.1
PUBLIC_IMAGES = 30_000
#: In pixels, cut from the centre of the aligned 178x218 images.
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
    """Load CelebA as the papers do: colour (3, 64, 64), 1,000 people, 30,000 public images; judged by SSIM.

    Private are the people with most images; of people with equally many, those with the smaller number. The
    centre of 108x108 pixels is resized to 64x64. As in the papers (27,018 train and 3,009 test images) a tenth
    of each person's images is held out, rounded up; which images these are is drawn here.

    Args:
        root: holds ``celeba``, as torchvision lays it out: ``identity_CelebA.txt``, ``img_align_celeba``.
        size: the height and width that the centre is resized to.
        private: how many people are private, at least 2.
        public_images: draw so many images of the other people, or take all if there are fewer.
        seed: draws the test and the public images.
        download: let torchvision fetch it into ``root`` first.
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
    """Read whose each image is: the files in ``folder`` of each person, in the order of their numbers.

    Raises:
        ValueError: a line that is not a file name and a number.
    """
    files = defaultdict[int, list[Path]](list)
    for number, line in enumerate(listing.read_text().splitlines(), start=1):
        match line.split():
            case [name, person] if person.isdecimal():
                files[int(person)].append(folder / name)
            case _:
                raise ValueError(f"line {number} of {listing} must be a file name and a number; got {line!r}")
    return {person: files[person] for person in sorted(files)}
