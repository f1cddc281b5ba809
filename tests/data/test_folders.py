import numpy as np
import pytest
import torch
from PIL import Image

from dpmi.data import load

PEOPLE = ("anna", "berta", "clara", "doris", "elsa")


def photograph(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    width, height = size
    pixels = np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def root(tmp_path):
    """FaceScrub with 5 people, 11 images of each."""
    for person, name in enumerate(PEOPLE):
        folder = tmp_path / "facescrub" / name
        folder.mkdir(parents=True)
        for number in range(11):
            photograph(100 * person + number).save(folder / f"{name}_{number:02}.png")
    return tmp_path


def pixels_of(images: torch.Tensor) -> set[bytes]:
    return {image.tobytes() for image in (images * 255).round().byte().numpy()}


def test_every_image_is_read_once_with_its_class(root):
    split = load("facescrub", root=root, private=3, size=30)
    # ceil(0.1 x 11) = 2 of each person are held out.
    assert split.train.labels.tolist() == [0] * 9 + [1] * 9 + [2] * 9
    assert split.test.labels.tolist() == [0] * 2 + [1] * 2 + [2] * 2
    assert split.public_labels.tolist() == [0] * 11 + [1] * 11
    assert split.image_shape == (3, 30, 30)
    assert {*split.identities, *split.public_class_names} == {f"facescrub/{name}" for name in PEOPLE}
    expected = {
        name: {
            np.asarray(photograph(100 * person + number).crop((5, 0, 35, 30))).transpose(2, 0, 1).tobytes()
            for number in range(11)
        }
        for person, name in enumerate(PEOPLE)
    }
    for label, name in enumerate(split.class_names):
        own = [part.images[part.labels == label] for part in (split.train, split.test)]
        assert pixels_of(torch.cat(own)) == expected[name]
    for label, identity in enumerate(split.public_class_names):
        assert pixels_of(split.public[split.public_labels == label]) == expected[identity.split("/")[1]]


def test_the_seed_decides(root):
    splits = [load("facescrub", root=root, private=2, size=8, seed=seed) for seed in (0, 0, *range(1, 9))]
    assert torch.equal(splits[0].train.images, splits[1].train.images)
    assert len({split.class_names for split in splits}) > 1
    alike = [split for split in splits[1:] if split.class_names == splits[0].class_names]
    assert any(not torch.equal(split.test.images, splits[0].test.images) for split in [*alike, splits[-1]])


def test_options_decide_how_much_of_each(root):
    split = load("facescrub", root=root, private=0.4, test_share=0.5, public_images=4, size=8)
    assert (split.num_classes, len(split.train), len(split.test), len(split.public)) == (2, 10, 12, 4)
    assert sorted(set(split.public_labels.tolist())) == list(range(len(split.public_class_names)))


@pytest.mark.parametrize("options", [{"private": 5}, {"private": 2, "public_images": 0}])
def test_there_may_be_no_public_images(root, options):
    split = load("facescrub", root=root, size=8, **options)
    assert split.public.shape == (0, 3, 8, 8)
    assert split.labelled_public is None


def test_a_photograph_that_everybody_has_is_in_one_part_only(root):
    for name in PEOPLE:
        photograph(0).save(root / "facescrub" / name / f"{name}_00.png")
    sizes = set()
    for seed in range(6):
        split = load("facescrub", root=root, private=2, test_share=0.5, size=30, seed=seed)
        train, test, public = map(pixels_of, (split.train.images, split.test.images, split.public))
        assert len(train | test | public) == len(train) + len(test) + len(public)
        assert (len(split.train), len(split.public)) == (10, 3 * 11 - 3)
        sizes.add(len(split.test))
    # Of 12 test images one is left out where the two private people's copies fell into train and test.
    assert sizes == {11, 12}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "private must be from 2 to the 5 classes, or a share below 1 of at least 2 of them; got 100"),
        ({"private": 1}, "got 1"),
        ({"private": 2.5}, "got 2.5"),
        ({"private": 0.1}, "got 0.1"),
        ({"private": -3}, "got -3"),
        ({"private": 2, "size": 0}, "size must be at least 1; got 0"),
        ({"private": 2, "test_share": 1.0}, "test_share must be between 0 and 1; got 1.0"),
        ({"private": 2, "public_images": -1}, "public_images must be 0 or more; got -1"),
    ],
)
def test_options_out_of_range_are_refused(root, options, message):
    with pytest.raises(ValueError, match=message):
        load("facescrub", root=root, **options)


def test_a_folder_without_images_is_named(root):
    (root / "facescrub" / "frieda").mkdir()
    (root / "facescrub" / "frieda" / "notes.txt").write_text("none yet")
    with pytest.raises(ValueError, match=r"facescrub/frieda must contain the jpg or png files of a class"):
        load("facescrub", root=root, private=2)


def test_a_private_class_of_one_image_is_named(root):
    for number in range(1, 11):
        (root / "facescrub" / "clara" / f"clara_{number:02}.png").unlink()
    with pytest.raises(
        ValueError, match=r"'clara' of 'facescrub' must have at least 2 .* only .*clara_00\.png"
    ):
        load("facescrub", root=root, private=5)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize(
    "damage", [lambda content: content[: len(content) // 2], lambda _: b"<html>", lambda _: b""]
)
def test_a_damaged_file_is_named(root, suffix, damage):
    file = root / "facescrub" / "doris" / f"doris_99.{suffix}"
    photograph(0).save(file)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(
        ValueError, match=rf"doris_99\.{suffix} is corrupt or not an image: .+ Download it again"
    ):
        load("facescrub", root=root, private=5, size=8)


@pytest.mark.parametrize(
    ("name", "folder"), [("vggface2", "vggface2/train"), ("stanford-dogs", "stanford-dogs/Images")]
)
def test_other_collections_lie_alike(tmp_path, name, folder):
    for number, class_name in enumerate(("n000002", "n02085620-Chihuahua")):
        (tmp_path / folder / class_name).mkdir(parents=True)
        for image in range(2):
            photograph(2 * number + image).save(tmp_path / folder / class_name / f"{image}.JPG")
    split = load(name, root=tmp_path, private=2)
    assert split.class_names == ("n000002", "n02085620-Chihuahua")
    assert split.image_shape == (3, 64, 64)
    assert (len(split.train), len(split.test)) == (2, 2)
