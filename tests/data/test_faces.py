import numpy as np
import pytest
import torch
from PIL import Image

from dpmi.data import ImageSet, load
from dpmi.data.read_faces import read_att_faces, read_faces94, read_gt_faces


@pytest.fixture(scope="module")
def few(data_root):
    return load("faces94", root=data_root, people=4)


def photographs(data_root, person: str) -> np.ndarray:
    """A person's 20 photographs by another way than the reader's: numpy's weights, no PIL greys."""
    colour = [
        np.asarray(Image.open(data_root / "faces94" / person / f"{person}.{i}.jpg")) for i in range(1, 21)
    ]
    grey = np.stack(colour) @ np.array([0.299, 0.587, 0.114]) / 255
    # 3 divides 180: the mean of three columns is the antialiased column.
    return grey.reshape(20, 200, 60, 3).mean(3)


def test_faces94_counts_and_shape(few):
    assert few.image_shape == (1, 70, 60)
    assert few.train.labels.bincount().tolist() == [190] * 4
    assert few.test.labels.bincount().tolist() == [30] * 4
    assert few.distance == "ssim"
    assert few.class_names == ("9326871", "9332898", "9336923", "9338446")
    assert few.public.shape == (400 + 750, 1, 70, 60)


def test_the_people_of_two_public_sets_are_numbered_on(data_root, few):
    assert few.public_labels.bincount().tolist() == [10] * 40 + [15] * 50
    assert few.public_class_names[:2] == ("att-faces/s1", "att-faces/s2")
    assert few.public_class_names[40:42] == ("gt-faces/1", "gt-faces/2")
    photos = read_gt_faces(data_root, height=70, width=60, dataset="faces94").pixels
    last = few.public[few.public_labels == 89]
    np.testing.assert_array_equal((last[:, 0] * 255).round().byte().numpy(), photos[-15:])


def test_faces94_by_image_shows_the_same_photographs_in_train_and_test(data_root, few):
    # No image is in both, but nearly every test image is a variant of a photograph that train holds too.
    nearest = torch.cdist(few.test.images.flatten(1), few.train.images.flatten(1)).amin(1)
    by_photo = load("faces94", root=data_root, people=4, split="by-photo")
    unseen = torch.cdist(by_photo.test.images.flatten(1), by_photo.train.images.flatten(1)).amin(1)
    assert nearest.min() > 0
    assert nearest.median() < unseen.median()


def test_faces94_photographs_are_grey_and_whole(data_root):
    photos = read_faces94(data_root, height=70, width=60, people=2, dataset="faces94")
    ours = torch.from_numpy(photos.pixels[20:] / 255).unsqueeze(1)
    theirs = torch.from_numpy(photographs(data_root, photos.names[1])).unsqueeze(1)
    theirs = torch.nn.functional.interpolate(theirs, size=(70, 60), mode="bicubic", antialias=True)
    assert (ours - theirs).abs().mean() < 0.01
    assert photos.people.tolist() == [0] * 20 + [1] * 20


def test_faces94_holds_every_photograph_among_its_images(data_root, few):
    photos = read_faces94(data_root, height=70, width=60, people=4, dataset="faces94")
    kept = {
        image.tobytes()
        for part in (few.train, few.test)
        for image in (part.images * 255).round().byte().numpy()
    }
    assert all(photo.tobytes() in kept for photo in photos.pixels)


def test_faces94_by_photo_holds_photographs_out(data_root):
    split = load("faces94", root=data_root, people=3, split="by-photo")
    photos = read_faces94(data_root, height=70, width=60, people=3, dataset="faces94").pixels.reshape(
        3, 20, -1
    )

    def unchanged(part: ImageSet, person: int) -> set[int]:
        """The photographs of a person that are in the part as they were taken."""
        images = (part.images[part.labels == person] * 255).round().byte().numpy()
        found = {image.tobytes() for image in images}
        return {index for index, photo in enumerate(photos[person]) if photo.tobytes() in found}

    for person in range(3):
        train, test = unchanged(split.train, person), unchanged(split.test, person)
        assert (len(train), len(test), train & test) == (17, 3, set())
    assert split.train.labels.bincount().tolist() == [190] * 3
    assert split.test.labels.bincount().tolist() == [30] * 3


def test_faces94_of_fewer_people_are_the_first_people(data_root, few):
    fewer = load("faces94", root=data_root, people=2)
    torch.testing.assert_close(fewer.train.images, few.train.images[: 2 * 190], rtol=0, atol=0)
    assert fewer.class_names == few.class_names[:2]


def test_faces94_is_drawn_by_its_seed_alone(data_root):
    state = torch.get_rng_state()
    first, again, other = (load("faces94", root=data_root, people=2, seed=seed) for seed in (0, 0, 1))
    torch.testing.assert_close(first.train.images, again.train.images, rtol=0, atol=0)
    assert not torch.equal(first.test.images, other.test.images)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"people": 1}, "people must be from 2 to 152; got 1"),
        ({"people": 153}, "people must be from 2 to 152; got 153"),
        ({"size": 0}, "size must be at least 1; got 0"),
        ({"split": "by-person"}, r"split must be one of \('by-image', 'by-photo'\); got 'by-person'"),
    ],
)
def test_faces94_refuses_options_out_of_range(data_root, options, message):
    with pytest.raises(ValueError, match=message):
        load("faces94", root=data_root, **options)


def test_a_person_without_20_photographs_is_named(tmp_path):
    for person in ("anna", "berta"):
        (tmp_path / "faces94" / person).mkdir(parents=True)
        Image.new("RGB", (180, 200)).save(tmp_path / "faces94" / person / f"{person}.1.jpg")
    with pytest.raises(ValueError, match="anna must contain 20 jpg files; got 1"):
        read_faces94(tmp_path, height=70, width=60, people=None, dataset="faces94")


def test_att_faces_are_the_files_as_they_are(data_root):
    photos = read_att_faces(data_root, height=112, width=92, dataset="att-faces")
    raw = (data_root / "att_faces" / "s3" / "10.pgm").read_bytes()
    np.testing.assert_array_equal(photos.pixels[29].ravel(), np.frombuffer(raw[-92 * 112 :], dtype=np.uint8))
    assert photos.names[2] == "s3"
    assert photos.people[29] == 2


def test_gt_faces_are_the_files_as_they_are(data_root):
    photos = read_gt_faces(data_root, height=40, width=30, dataset="gt-faces")
    with np.load(data_root / "gt_faces" / "gt_faces_40x30.npz") as arrays:
        np.testing.assert_array_equal(photos.pixels, arrays["images"])
        np.testing.assert_array_equal(photos.people, arrays["labels"].astype(int) - 1)


def test_fitting_a_face_keeps_its_proportions(data_root):
    # 92x112 has more height than 60x70 needs: fitting takes the middle 108 rows, and squeezes nothing.
    whole = read_att_faces(data_root, height=112, width=92, dataset="faces94").pixels[0]
    fitted = read_att_faces(data_root, height=70, width=60, dataset="faces94").pixels[0]
    middle = Image.fromarray(whole[2:110]).resize((60, 70), Image.Resampling.BICUBIC)
    stretched = Image.fromarray(whole).resize((60, 70), Image.Resampling.BICUBIC)
    to_middle, to_stretched = (
        np.abs(fitted - np.asarray(other, float)).mean() for other in (middle, stretched)
    )
    assert to_middle < 3 < to_stretched


@pytest.mark.parametrize(
    ("name", "shape", "people", "parts"),
    [("att-faces", (1, 56, 46), 40, (8, 2, 750)), ("gt-faces", (1, 40, 30), 50, (12, 3, 400))],
)
def test_the_small_face_sets_are_split_alike_for_everybody(data_root, name, shape, people, parts):
    train, test, public = parts
    split = load(name, root=data_root)
    assert split.image_shape == shape
    assert split.train.labels.bincount().tolist() == [train] * people
    assert split.test.labels.bincount().tolist() == [test] * people
    assert len(split.public) == public
    (collection,) = {name.split("/")[0] for name in split.public_class_names}
    assert {name, collection} == {"att-faces", "gt-faces"}
    assert len(split.public_labels.bincount()) == len(split.public_class_names) == 90 - people
    assert split.distance == "ssim"
    assert not torch.equal(load(name, root=data_root, seed=1).test.images, split.test.images)


@pytest.mark.parametrize("size", [32, 64])
def test_square_faces_are_the_same_photographs_of_the_same_people(data_root, size):
    usual, square = (load("att-faces", root=data_root, **options) for options in ({}, {"size": size}))
    assert square.image_shape == (1, size, size)
    # Fitted, not squeezed: the middle 92 of the 112 rows that the file has, resized alone but for the border.
    raw = Image.open(data_root / "att_faces" / "s1" / "1.pgm").crop((0, 10, 92, 102))
    middle = torch.from_numpy(np.array(raw.resize((size, size), Image.Resampling.LANCZOS))) / 255
    images = torch.cat([square.train.images, square.test.images])
    nearest = (images[:, 0] - middle).abs().mean(dim=(1, 2)).sort()
    assert nearest.values[0] < 0.002
    assert nearest.values[1] > 0.02
    assert torch.cat([square.train.labels, square.test.labels])[nearest.indices[0]] == 0
    for part in ("train", "test"):
        torch.testing.assert_close(getattr(square, part).labels, getattr(usual, part).labels, rtol=0, atol=0)
    torch.testing.assert_close(square.public_labels, usual.public_labels, rtol=0, atol=0)
    assert square.class_names == usual.class_names


@pytest.mark.parametrize(
    ("name", "options"), [("faces94", {"people": 2}), ("att-faces", {}), ("gt-faces", {})]
)
def test_every_face_set_comes_in_squares(data_root, name, options):
    split = load(name, root=data_root, size=32, **options)
    assert {part.shape[1:] for part in (split.train.images, split.test.images, split.public)} == {(1, 32, 32)}


@pytest.mark.parametrize("name", ["att-faces", "gt-faces"])
def test_the_small_face_sets_refuse_a_size_of_nothing(data_root, name):
    with pytest.raises(ValueError, match="size must be at least 1; got 0"):
        load(name, root=data_root, size=0)
