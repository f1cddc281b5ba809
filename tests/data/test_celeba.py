import numpy as np
import pytest
import torchvision
from PIL import Image

from dpmi.data import load
from dpmi.data.celeba import read_identities

#: Images of each person. 7 and 9 have equally many.
IMAGES = {3: 1, 9: 12, 7: 12, 11: 20, 5: 2}


@pytest.fixture
def root(tmp_path):
    """A CelebA of 47 images, in torchvision's layout; the 108 pixels in the middle are the person's grey."""
    folder = tmp_path / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    people = np.random.default_rng(0).permutation([person for person, n in IMAGES.items() for _ in range(n)])
    lines = []
    for number, person in enumerate(people.tolist(), start=1):
        pixels = np.full((218, 178, 3), 255, dtype=np.uint8)
        # Top 55 and left 35: where GMI and KED-MI crop.
        pixels[55:163, 35:143] = (10 * person, number, 0)
        Image.fromarray(pixels).save(folder / f"{number:06}.png")
        lines.append(f"{number:06}.png {person}\n")
    (tmp_path / "celeba" / "identity_CelebA.txt").write_text("".join(lines))
    return tmp_path


def test_people_with_most_images_are_private_and_cropped(root):
    split = load("celeba", root=root, private=2)
    # Of 7 and 9, the smaller number.
    assert split.class_names == ("7", "11")
    assert split.train.labels.bincount().tolist() == [10, 18]
    assert split.test.labels.bincount().tolist() == [2, 2]
    assert split.public_class_names == ("celeba/3", "celeba/5", "celeba/9")
    assert split.public_labels.bincount().tolist() == [1, 2, 12]
    assert split.image_shape == (3, 64, 64)
    for part in (split.train, split.test):
        red = part.images[:, 0] * 255
        assert [round(value) for value in red.amax((1, 2)).tolist()] == [(70, 110)[k] for k in part.labels]
        np.testing.assert_array_equal(red.amin((1, 2)), red.amax((1, 2)))
    assert (split.public[:, 0].amax((1, 2)) * 25.5).round().tolist() == [3, 5, 5] + [9] * 12


def test_public_images_are_drawn(root):
    split = load("celeba", root=root, private=2, public_images=3, size=8)
    assert len(split.public) == 3
    assert split.image_shape == (3, 8, 8)
    other = load("celeba", root=root, private=2, public_images=3, size=8, seed=1)
    assert not np.array_equal(other.public, split.public)


@pytest.mark.parametrize("private", [1, 6])
def test_the_number_of_people_is_checked(root, private):
    with pytest.raises(ValueError, match=f"private must be from 2 to the 5 people; got {private}"):
        load("celeba", root=root, private=private)


def test_an_image_that_is_listed_but_missing_is_named(root):
    (root / "celeba" / "img_align_celeba" / "000007.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"'celeba' needs 000007\.png in .*img_align_celeba"):
        load("celeba", root=root, private=4)


def test_an_image_smaller_than_the_crop_is_named(root):
    Image.new("RGB", (100, 218)).save(root / "celeba" / "img_align_celeba" / "000007.png")
    with pytest.raises(ValueError, match=r"000007\.png must be at least 108x108"):
        load("celeba", root=root, private=4)


@pytest.mark.parametrize("line", ["000001.jpg", "000001.jpg x", "000001.jpg 2 3", ""])
def test_a_damaged_listing_is_refused_by_its_line(tmp_path, line):
    listing = tmp_path / "identity_CelebA.txt"
    listing.write_text(f"000000.jpg 5\n{line}\n")
    with pytest.raises(
        ValueError, match=r"line 2 of .*identity_CelebA\.txt must be a file name and a number"
    ):
        read_identities(listing, tmp_path)


def test_a_download_is_torchvisions(root, monkeypatch):
    fetched = []
    monkeypatch.setattr(
        torchvision.datasets, "CelebA", lambda root, download: fetched.append((root, download))
    )
    load("celeba", root=root, private=2, size=8)
    assert fetched == []
    load("celeba", root=root, private=2, size=8, download=True)
    assert fetched == [(root, True)]
