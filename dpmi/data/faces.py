"""Three data sets of faces: each person is a class, and the public images show other people."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from dpmi.data.augment import augment
from dpmi.data.images import to_images, to_labels
from dpmi.data.read_faces import FACES94_PHOTOS, Photos, read_att_faces, read_faces94, read_gt_faces
from dpmi.data.split import ImageSet, Split

Faces94Split = Literal["by-image", "by-photo"]

#: Images of one person after augmentation, train and test: [Z20] section V.
FACES94_TRAIN, FACES94_TEST = 190, 30
#: Number of photographs of one person that are held out, with all their variants, if the split is by photograph.
FACES94_TEST_PHOTOS = 3
#: Height and width: of Faces94 as in [Z20], of AT&T half the original resolution, of Georgia Tech the full resolution.
FACES94_SHAPE, ATT_SHAPE, GT_SHAPE = (70, 60), (56, 46), (40, 30)
#: Share of test images of each person in the AT&T and the Georgia Tech faces: 2 of 10 and 3 of 15.
TEST_SHARE = 0.2

FACES94_CITATION = (
    "L. Spacek, Collection of Facial Images: Faces94, University of Essex; "
    "https://cmp.felk.cvut.cz/~spacelib/faces/faces94.html"
)
ATT_CITATION = (
    "F. Samaria, A. Harter, Parameterisation of a stochastic model for human face identification, IEEE "
    "Workshop on Applications of Computer Vision, 1994; The Database of Faces, AT&T Laboratories Cambridge"
)
GT_CITATION = "A. V. Nefian, Georgia Tech face database, 1999; http://www.anefian.com/research/face_reco.htm"


def load_faces94(
    root: Path | None,
    *,
    size: int | None = None,
    people: int | None = None,
    split: Faces94Split = "by-image",
    seed: int = 0,
) -> Split:
    """Load Faces94 as in [Z20]: grey (1, 70, 60), 152 people, 190 train and 30 test images of each.

    Each person's 20 photographs, taken in one sitting, are augmented to 220 images. The paper then divides *the images*
    at random, so train and test contain variants of the same photographs, and the test accuracy does not measure the
    accuracy on a new photograph. ``by-image`` follows the paper; ``by-photo`` holds out 3 photographs first and
    augments 17 photographs to 190 images and 3 to 30.

    The public images are the AT&T and Georgia Tech faces of other people: 1,150 images fitted to the same shape with
    their aspect ratio. Their heads fill the frame; Faces94 also shows the shoulders.

    Args:
        root: data root with ``faces94``, ``att_faces`` and ``gt_faces``.
        size: side of square images (1, size, size), which generators need, e.g. 32 or 64; None keeps the shape above.
        people: number of people, the first ones, for a small run; their images do not depend on it.
        split: ``by-image`` or ``by-photo``.
        seed: seed of the variants and of the split.

    Raises:
        ValueError: an option is out of range, or a person does not have 20 photographs.
        FileNotFoundError: a file or folder does not exist below the root.
    """
    if split not in get_args(Faces94Split):
        raise ValueError(f"split must be one of {get_args(Faces94Split)}; got {split!r}")
    height, width = _shape(size, FACES94_SHAPE)
    photos = read_faces94(root, height=height, width=width, people=people, dataset="faces94")
    others = {
        "att-faces": read_att_faces(root, height=height, width=width, dataset="faces94"),
        "gt-faces": read_gt_faces(root, height=height, width=width, dataset="faces94"),
    }
    public, public_names = _join(others)
    divide = _by_image if split == "by-image" else _by_photo
    generator = torch.Generator().manual_seed(seed)
    persons = len(photos.names)
    # Filled person by person to avoid a second copy of half a gigabyte.
    train = torch.empty(persons, FACES94_TRAIN, 1, height, width)
    test = torch.empty(persons, FACES94_TEST, 1, height, width)
    by_person = to_images(photos.pixels).reshape(persons, FACES94_PHOTOS, 1, height, width)
    for person, own in enumerate(by_person):
        train[person], test[person] = divide(own, generator)
    return Split(
        name="faces94",
        train=ImageSet(train.flatten(0, 1), torch.arange(persons).repeat_interleave(FACES94_TRAIN)),
        test=ImageSet(test.flatten(0, 1), torch.arange(persons).repeat_interleave(FACES94_TEST)),
        public=public.images,
        class_names=photos.names,
        distance="ssim",
        citation=FACES94_CITATION,
        public_labels=public.labels,
        public_class_names=public_names,
    )


def load_att_faces(root: Path | None, *, size: int | None = None, seed: int = 0) -> Split:
    """Load the AT&T faces: grey (1, 56, 46), half the original size; 40 people, 8 train and 2 test images of each.

    The public images are the Georgia Tech faces, which are framed similarly, fitted to the same shape.

    Args:
        root: data root with ``att_faces`` and ``gt_faces``.
        size: side of square images (1, size, size), which generators need, e.g. 32 or 64; None keeps the shape above.
        seed: seed of the split.

    Raises:
        ValueError: the size is below 1.
        FileNotFoundError: a file or folder does not exist below the root.
    """
    height, width = _shape(size, ATT_SHAPE)
    photos = read_att_faces(root, height=height, width=width, dataset="att-faces")
    others = {"gt-faces": read_gt_faces(root, height=height, width=width, dataset="att-faces")}
    return _by_person("att-faces", photos, others, citation=ATT_CITATION, seed=seed)


def load_gt_faces(root: Path | None, *, size: int | None = None, seed: int = 0) -> Split:
    """Load the Georgia Tech faces: grey (1, 40, 30); 50 people, 12 train and 3 test images of each.

    The public images are the AT&T faces, which are framed similarly, fitted to the same shape.

    Args:
        root: data root with ``gt_faces`` and ``att_faces``.
        size: side of square images (1, size, size), which generators need, e.g. 32 or 64; None keeps the shape above.
        seed: seed of the split.

    Raises:
        ValueError: the size is below 1.
        FileNotFoundError: a file or folder does not exist below the root.
    """
    height, width = _shape(size, GT_SHAPE)
    photos = read_gt_faces(root, height=height, width=width, dataset="gt-faces")
    others = {"att-faces": read_att_faces(root, height=height, width=width, dataset="gt-faces")}
    return _by_person("gt-faces", photos, others, citation=GT_CITATION, seed=seed)


def _shape(size: int | None, usual: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a square of this size, or the usual ones if it is None."""
    if size is None:
        return usual
    if size < 1:
        raise ValueError(f"size must be at least 1; got {size}")
    return size, size


def _by_image(photos: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Augment one person's photographs, then divide the images."""
    images = augment(photos, FACES94_TRAIN + FACES94_TEST, generator)
    images = images[torch.randperm(len(images), generator=generator)]
    return images[:FACES94_TRAIN], images[FACES94_TRAIN:]


def _by_photo(photos: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Divide one person's photographs, then augment each part."""
    photos = photos[torch.randperm(len(photos), generator=generator)]
    train, test = photos[FACES94_TEST_PHOTOS:], photos[:FACES94_TEST_PHOTOS]
    return augment(train, FACES94_TRAIN, generator), augment(test, FACES94_TEST, generator)


def _join(others: Mapping[str, Photos]) -> tuple[ImageSet, tuple[str, ...]]:
    """Join the photographs of several collections; return them with consecutive labels, and the people's names."""
    images, labels, names = [], [], list[str]()
    for collection, photos in others.items():
        images.append(to_images(photos.pixels))
        labels.append(to_labels(photos.people) + len(names))
        names += [f"{collection}/{name}" for name in photos.names]
    return ImageSet(torch.cat(images), torch.cat(labels)), tuple(names)


def _by_person(name: str, photos: Photos, others: Mapping[str, Photos], *, citation: str, seed: int) -> Split:
    """Return a split that holds out the same share of each person's photographs."""
    images, labels = to_images(photos.pixels), to_labels(photos.people)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=TEST_SHARE, stratify=photos.people, random_state=seed
    )
    public, public_names = _join(others)
    return Split(
        name=name,
        train=ImageSet(images[train], labels[train]),
        test=ImageSet(images[test], labels[test]),
        public=public.images,
        class_names=photos.names,
        distance="ssim",
        citation=citation,
        public_labels=public.labels,
        public_class_names=public_names,
    )
