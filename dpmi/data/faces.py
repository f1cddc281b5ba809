"""Three sets of faces, each person a class, each set's attacker holding faces of other people."""

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

#: Images of one person after augmentation, train and test: Class DP, section V.
FACES94_TRAIN, FACES94_TEST = 190, 30
#: The photographs of one person that are held out, with all their variants, when the split is by photograph.
FACES94_TEST_PHOTOS = 3
#: Height and width: of Faces94 those of Class DP, of the others half and all of the pixels that their files have.
FACES94_SHAPE, ATT_SHAPE, GT_SHAPE = (70, 60), (56, 46), (40, 30)
#: Of the AT&T and the Georgia Tech faces of each person: 2 of 10, 3 of 15.
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
    """Load Faces94 as Class DP does: grey (1, 70, 60), 152 people, 190 train and 30 test images of each.

    Each person's 20 photographs, taken in one sitting, are augmented to 220 images. The paper then divides
    *the images* at random, so train and test hold variants of the same photographs and test accuracy says
    little about a new photograph of the person. ``by-image`` follows the paper; ``by-photo`` holds 3
    photographs out first and augments 17 to 190 and 3 to 30.

    The attacker's public images are the AT&T and Georgia Tech faces, other people: 1,150 images fitted to the
    same shape, the aspect ratio kept. Their heads fill the frame; Faces94 shows the shoulders too.

    Args:
        root: holds ``faces94``, ``att_faces`` and ``gt_faces``.
        size: make square images (1, size, size) of them instead, as generators do; 32 or 64, say.
        people: take only the first so many people, for a small run; their images do not depend on it.
        split: ``by-image`` or ``by-photo``.
        seed: draws the variants and the split.

    Raises:
        ValueError: an option out of range, or a person without 20 photographs.
        FileNotFoundError: a file or folder that is not below the root.
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
    # Filled person by person: at half a gigabyte, a second copy would be felt.
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
    """Load the AT&T faces: grey (1, 56, 46), half the original size; 40 people, 8 train and 2 test of each.

    The attacker's public images are the Georgia Tech faces, framed as closely, fitted to that shape.

    Args:
        root: holds ``att_faces`` and ``gt_faces``.
        size: make square images (1, size, size) of them instead, as generators do; 32 or 64, say.
        seed: which photographs of a person are held out.

    Raises:
        ValueError: a size below 1.
        FileNotFoundError: a file or folder that is not below the root.
    """
    height, width = _shape(size, ATT_SHAPE)
    photos = read_att_faces(root, height=height, width=width, dataset="att-faces")
    others = {"gt-faces": read_gt_faces(root, height=height, width=width, dataset="att-faces")}
    return _by_person("att-faces", photos, others, citation=ATT_CITATION, seed=seed)


def load_gt_faces(root: Path | None, *, size: int | None = None, seed: int = 0) -> Split:
    """Load the Georgia Tech faces: grey (1, 40, 30); 50 people, 12 train and 3 test of each.

    The attacker's public images are the AT&T faces, framed as closely, fitted to that shape.

    Args:
        root: holds ``gt_faces`` and ``att_faces``.
        size: make square images (1, size, size) of them instead, as generators do; 32 or 64, say.
        seed: which photographs of a person are held out.

    Raises:
        ValueError: a size below 1.
        FileNotFoundError: a file or folder that is not below the root.
    """
    height, width = _shape(size, GT_SHAPE)
    photos = read_gt_faces(root, height=height, width=width, dataset="gt-faces")
    others = {"att-faces": read_att_faces(root, height=height, width=width, dataset="gt-faces")}
    return _by_person("gt-faces", photos, others, citation=GT_CITATION, seed=seed)


def _shape(size: int | None, usual: tuple[int, int]) -> tuple[int, int]:
    """Return height and width: of a square, or the usual ones."""
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
    """Join the photographs of several collections: the people numbered on from each to the next, and named."""
    images, labels, names = [], [], list[str]()
    for collection, photos in others.items():
        images.append(to_images(photos.pixels))
        labels.append(to_labels(photos.people) + len(names))
        names += [f"{collection}/{name}" for name in photos.names]
    return ImageSet(torch.cat(images), torch.cat(labels)), tuple(names)


def _by_person(name: str, photos: Photos, others: Mapping[str, Photos], *, citation: str, seed: int) -> Split:
    """Hold out the same share of everybody's photographs."""
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
