"""A folder of the user: classes, sizes, colours, public images, and everything that is wrong with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dpmi.data import Split, load


def picture(seed: int, *, size: tuple[int, int] = (56, 48), grey: bool = False) -> Image.Image:
    """Height x width, as the options have it."""
    shape = size if grey else (*size, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8))


def write(
    folder: Path, *classes: str, count: int = 5, first: int = 0, suffix: str = "png", **options: Any
) -> Path:
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            picture(first + 100 * number + index, **options).save(folder / name / f"{index}.{suffix}")
    return folder


def from_folder(path: Path, **options: Any) -> Split:
    return load("folder", folder=str(path), **options)


def test_classes_are_subfolders_and_the_size_is_that_of_the_images(tmp_path: Path) -> None:
    folder = write(tmp_path / "faces", "b", "a", "c")
    (folder / ".hidden").mkdir()
    (folder / "a" / "notes.txt").write_text("no image")
    split = from_folder(folder)
    assert split.class_names == ("a", "b", "c")
    assert split.image_shape == (3, 56, 48)
    assert split.identities == ("faces/a", "faces/b", "faces/c")
    # ceil(0.2 x 5) = 1 of each class is held out.
    assert torch.bincount(split.train.labels).tolist() == [4, 4, 4]
    assert torch.bincount(split.test.labels).tolist() == [1, 1, 1]
    # Class a is the second one that was written.
    written = {picture(100 + index).tobytes() for index in range(5)}
    own = torch.cat([part.images[part.labels == 0] for part in (split.train, split.test)])
    assert {(image * 255).round().byte().permute(1, 2, 0).numpy().tobytes() for image in own} == written
    assert (len(split.public), split.public_labels) == (0, None)


@pytest.mark.parametrize(("size", "shape"), [(20, (20, 20)), ((14, 12), (14, 12)), ([14, 12], (14, 12))])
def test_images_are_fitted_to_a_size(tmp_path: Path, size: Any, shape: tuple[int, int]) -> None:
    folder = write(tmp_path / "faces", "a", "b")
    picture(9, size=(30, 90)).save(folder / "a" / "wide.jpg")
    with pytest.raises(
        ValueError, match=r"the images have several sizes, such as 56 x 48 .*wide.jpg.* give size = 64"
    ):
        from_folder(folder)
    assert from_folder(folder, size=size).image_shape == (3, *shape)


def test_grey_images_are_grey_and_one_in_colour_makes_all_coloured(tmp_path: Path) -> None:
    folder = write(tmp_path / "faces", "a", "b", grey=True)
    assert from_folder(folder).image_shape == (1, 56, 48)
    picture(9).save(folder / "b" / "colour.png")
    assert from_folder(folder).image_shape == (3, 56, 48)


def test_an_image_that_lies_on_its_side_counts_as_a_viewer_shows_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "faces", "a", "b")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(9, size=(48, 56)).save(folder / "a" / "turned.png", exif=exif)
    assert from_folder(folder).image_shape == (3, 56, 48)


def test_public_images_with_and_without_classes(tmp_path: Path) -> None:
    folder = write(tmp_path / "faces", "a", "b")
    labelled = write(tmp_path / "others", "x", "y", first=1000)
    picture(0).save(labelled / "x" / "copy_of_a_private_one.png")
    split = from_folder(folder, public=str(labelled))
    assert split.public_class_names == ("others/x", "others/y")
    assert split.public_labels is not None
    assert torch.bincount(split.public_labels).tolist() == [5, 5]
    plain = tmp_path / "plain"
    plain.mkdir()
    for index in range(3):
        picture(2000 + index, size=(30, 30)).save(plain / f"{index}.bmp")
    split = from_folder(folder, public=str(plain))
    assert (tuple(split.public.shape), split.public_labels) == ((3, 3, 56, 48), None)


def test_the_seed_draws_the_test_images(tmp_path: Path) -> None:
    folder = write(tmp_path / "faces", "a", "b", count=12)
    one, again, other = (from_folder(folder, seed=seed, test=0.5) for seed in (0, 0, 1))
    assert one.digest == again.digest != other.digest
    assert len(one.test) == 12


def test_a_copy_is_never_in_training_and_test(tmp_path: Path) -> None:
    folder = write(tmp_path / "faces", "a", "b", count=2)
    for index in range(30):
        picture(0).save(folder / "a" / f"copy{index}.png")
    split = from_folder(folder, test=0.5)
    assert int((split.test.labels == 0).sum()) <= 2


def test_the_path_does_not_count(tmp_path: Path) -> None:
    digests = {from_folder(write(tmp_path / place / "faces", "a", "b")).digest for place in ("here", "there")}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": 0.0}, "test must be between 0 and 1; got 0.0"),
        ({"test": 1.0}, "test must be between 0 and 1; got 1.0"),
        ({"size": 0}, "size must be one number or .* got 0"),
        ({"size": (8, 8, 8)}, "size must be one number or"),
        ({"public": "nowhere"}, "public is 'nowhere', which is no folder"),
        ({"distance": "cosine"}, "distance must be one of"),
        ({"sizes": 8}, "data set 'folder' has no option 'sizes'; its options are folder, size, test, public"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    folder = write(tmp_path / "faces", "a", "b")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        from_folder(folder, **options)


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data set 'folder' needs the option 'folder'"):
        load("folder")
    with pytest.raises(FileNotFoundError, match="which is no folder; a relative path begins at"):
        from_folder(tmp_path / "none")
    with pytest.raises(
        ValueError, match="must have a subfolder of images for each class, at least two; it has 1"
    ):
        from_folder(write(tmp_path / "one", "a"))
    folder = write(tmp_path / "faces", "a", "b")
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="empty must hold the images of a class, but has none"):
        from_folder(folder)
    (folder / "empty" / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png is corrupt or not an image"):
        from_folder(folder)
    (folder / "empty" / "text.png").unlink()
    picture(5).save(folder / "empty" / "single.png")
    with pytest.raises(ValueError, match="private class 'empty' of 'faces' must have at least 2 images"):
        from_folder(folder)
    with pytest.raises(ValueError, match="has no images, and no subfolders of images"):
        (tmp_path / "void").mkdir()
        from_folder(write(tmp_path / "good", "a", "b"), public=str(tmp_path / "void"))


def test_decoys_follow_the_classes(tmp_path: Path) -> None:
    folder = write(tmp_path / "faces", "b", "d")
    others = write(tmp_path / "more", "a", "c", first=1000)
    split, alone = from_folder(folder, decoys=str(others)), from_folder(folder)
    assert split.class_names == ("b", "d", "a", "c")
    own = split.train.labels < 2
    assert torch.equal(split.train.images[own], alone.train.images), (
        "decoys do not change what trained the model"
    )
    assert torch.bincount(split.train.labels).tolist() == [4, 4, 4, 4]


@pytest.mark.parametrize(
    ("names", "message"), [(("b",), "'b' is also a class of"), ((), "must have subfolders of other classes")]
)
def test_wrong_decoys_are_named(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    folder = write(tmp_path / "faces", "b", "d")
    (tmp_path / "more").mkdir()
    write(tmp_path / "more", *names, first=1000)
    with pytest.raises(ValueError, match=message):
        from_folder(folder, decoys=str(tmp_path / "more"))
