import dataclasses

import pytest
import torch

from dpmi.data import ImageSet, Split
from dpmi.data.roles import Roles
from dpmi.metrics.backdoor import TRIGGERS, poison

IMAGES = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 0, 1, 0, 1])


def a_split(**changes: object) -> Split:
    parts = {
        "name": "squares",
        "train": ImageSet(IMAGES[:2], LABELS[:2]),
        "test": ImageSet(IMAGES[2:4], LABELS[2:4]),
        "public": IMAGES[4:],
        "class_names": ("left", "right"),
        "distance": "euclidean",
        "citation": "",
    }
    return Split(**(parts | changes))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[0], LABELS, r"images must be float32 of shape \(N, C, H, W\)"),
        (IMAGES.double(), LABELS, "torch.float64"),
        (IMAGES * 2, LABELS, r"in \[0, 1\]"),
        (IMAGES - 0.5, LABELS, r"in \[0, 1\]"),
        (IMAGES / 0, LABELS, "finite"),
        (torch.where(IMAGES.max() == IMAGES, torch.nan, IMAGES), LABELS, "finite"),
        (IMAGES[:0], LABELS[:0], "empty"),
        (IMAGES, LABELS[:5], r"labels must be int64 of shape \(6,\)"),
        (IMAGES, LABELS.int(), "torch.int32"),
        (IMAGES, LABELS - 1, "the smallest is -1"),
    ],
)
def test_an_image_set_refuses_what_is_not_labelled_images(images, labels, message):
    with pytest.raises(ValueError, match=message):
        ImageSet(images, labels)


def test_an_image_set_has_a_length_and_cannot_be_changed():
    image_set = ImageSet(IMAGES, LABELS)
    assert len(image_set) == 6
    with pytest.raises(dataclasses.FrozenInstanceError):
        image_set.labels = LABELS


def test_a_split_knows_its_classes_and_shape():
    split = a_split()
    assert (split.num_classes, split.image_shape) == (2, (1, 4, 4))
    assert repr(split) == "Split('squares', train=2, test=2, public=2, classes=2, image_shape=(1, 4, 4))"


def test_the_attacker_may_have_no_public_images():
    assert len(a_split(public=torch.empty(0, 1, 4, 4)).public) == 0


def test_a_split_names_its_private_classes_for_every_data_set():
    assert a_split().identities == ("squares/left", "squares/right")
    assert a_split(collection="shapes").identities == ("shapes/left", "shapes/right")


def test_public_images_may_have_classes():
    assert a_split().labelled_public is None
    split = a_split(public_labels=LABELS[4:], public_class_names=("shapes/top", "shapes/bottom"))
    assert torch.equal(split.labelled_public.images, IMAGES[4:])
    assert split.labelled_public.labels.tolist() == [0, 1]


def test_a_test_image_cannot_be_a_train_image():
    again = torch.cat([IMAGES[2:4], IMAGES[:1]])
    with pytest.raises(ValueError, match="1 test images of 'squares' are also among the train images"):
        a_split(test=ImageSet(again, LABELS[:3]))


@pytest.mark.parametrize(("part", "image"), [("train", IMAGES[1:2]), ("test", IMAGES[3:4])])
def test_a_private_image_cannot_be_public(part, image):
    with pytest.raises(
        ValueError, match=f"1 {part} images of 'squares' are also among the attacker's public"
    ):
        a_split(public=torch.cat([IMAGES[4:], image]))


def public_classes(labels: torch.Tensor, *names: str) -> dict[str, object]:
    return {"public_labels": labels, "public_class_names": names or ("shapes/top", "shapes/bottom")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"public": torch.rand(2, 1, 5, 4)}, r"public images of 'squares' have shape \(1, 5, 4\)"),
        ({"test": ImageSet(torch.rand(2, 3, 4, 4), LABELS[:2])}, r"test images .* \(3, 4, 4\)"),
        ({"public": IMAGES[4:] + 1}, "public must be finite"),
        ({"class_names": ("left",)}, "label 1 of 'squares' has no name: 1 class names"),
        ({"distance": "cosine"}, "got 'cosine'"),
        ({"public_labels": LABELS[:2]}, "public_class_names of 'squares' must be given together"),
        ({"public_class_names": ("shapes/top",)}, "must be given together"),
        (public_classes(LABELS[:3]), r"public_labels must be int64 of shape \(2,\)"),
        (public_classes(LABELS[:2].int()), "public_labels .* torch.int32"),
        (public_classes(LABELS[:2] - 1), "public_labels must be 0 or more; the smallest is -1"),
        (public_classes(LABELS[:2], "shapes/top"), "public label 1 of 'squares' has no name: 1 public class"),
        (
            public_classes(LABELS[:2], "shapes/top", "squares/right"),
            "squares/right of 'squares' must not be both private and public",
        ),
        (
            public_classes(LABELS[:2], "shapes/top", "shapes/left") | {"collection": "shapes"},
            "shapes/left of 'squares' must not be both private and public",
        ),
    ],
)
def test_a_split_refuses_parts_that_disagree(changes, message):
    with pytest.raises(ValueError, match=message):
        a_split(**changes)


UNITS = torch.tensor([4, 4, 0, 1, 4, 0])


@pytest.mark.parametrize(
    ("units", "message"),
    [
        (UNITS[:5], r"units must be int64 of shape \(6,\), one for each image"),
        (UNITS.float(), "units .* torch.float32"),
        (UNITS - 1, "units must be 0 or more; the smallest is -1"),
    ],
)
def test_an_image_set_refuses_what_are_no_units(units, message):
    with pytest.raises(ValueError, match=message):
        ImageSet(IMAGES, LABELS, units)


def test_units_go_with_their_images():
    kept = torch.tensor([True, False, False, True, True, False])
    cut = ImageSet(IMAGES, LABELS, UNITS).cut(kept)
    assert torch.equal(cut.images, IMAGES[kept])
    assert (cut.labels.tolist(), cut.units.tolist()) == ([0, 1, 0], [4, 1, 4])
    assert ImageSet(IMAGES, LABELS).cut(kept).units is None
    with pytest.raises(ValueError, match="empty"):
        cut.cut(torch.zeros(3, dtype=torch.bool))

    classes = torch.arange(6) % 4
    four = a_split(
        train=ImageSet(IMAGES[:4], classes[:4], UNITS[:4]),
        class_names=("a", "b", "c", "d"),
        test=ImageSet(IMAGES[4:5], LABELS[4:5]),
        public=IMAGES[5:],
    )
    target = Roles((2, 0), (1, 3)).of(four)
    assert (target.train.labels.tolist(), target.train.units.tolist()) == ([1, 0], [4, 0])
    poisoned = poison(ImageSet(IMAGES, LABELS, UNITS), TRIGGERS["badnets"], seed=0)
    assert torch.equal(poisoned.units, UNITS)


def test_units_are_in_the_digest_if_there_are_any():
    images = torch.arange(96).reshape(6, 1, 4, 4) / 96

    def digest(train=None, test=None):
        return a_split(
            train=ImageSet(images[:2], LABELS[:2], train),
            test=ImageSet(images[2:4], LABELS[2:4], test),
            public=images[4:],
        ).digest

    # That of the versions before there were units: stored results stay valid.
    assert digest() == "318435909e5e1656335e09f176d6017e34a763ea402465584fe05b501678b3c5"
    found = [
        digest(),
        digest(UNITS[:2]),
        digest(UNITS[1:3]),
        digest(None, UNITS[:2]),
        digest(UNITS[:2], UNITS[:2]),
    ]
    assert len(set(found)) == 5
