from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dpmi.data import ImageSet, Split
from dpmi.data.lazy import LazyImages
from dpmi.data.public_set import shaped, with_public_folder, with_public_of
from dpmi.data.stored_images import StoredImages


def images(count: int, channels: int = 3, side: int = 8, seed: int = 0) -> torch.Tensor:
    """With the values of bytes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, side, side), generator=generator) / 255


def split_of(name: str, *, channels: int = 3, side: int = 8, seed: int = 0) -> Split:
    found = images(9, channels, side, seed)
    return Split(
        name=name,
        train=ImageSet(found[:4], torch.tensor([0, 0, 1, 1])),
        test=ImageSet(found[4:6], torch.tensor([0, 1])),
        public=found[6:],
        class_names=("a", "b"),
        distance="ssim",
        citation="",
        public_labels=torch.tensor([0, 1, 1]),
        public_class_names=(f"{name}/c", f"{name}/d"),
    )


def save(image: torch.Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path)


def test_a_flat_folder_has_images_without_classes(tmp_path: Path) -> None:
    split, others = split_of("own"), images(3, seed=1)
    for index, image in enumerate(others):
        save(image, tmp_path / "ffhq" / f"{index:05}.png")
    found = with_public_folder(split, str(tmp_path / "ffhq"))
    torch.testing.assert_close(found.public, others)
    assert found.public_labels is None
    assert found.public_class_names is None
    assert found.train is split.train
    assert found.digest != split.digest


def test_subfolders_are_classes_and_private_images_are_left_out(tmp_path: Path) -> None:
    """The class that has only private images is no class."""
    split, others = split_of("own"), images(3, seed=1)
    for name, image in (("x", split.train.images[2]), ("y", others[0]), ("z", others[1])):
        save(image, tmp_path / "more" / name / "0.png")
    save(split.test.images[1], tmp_path / "more" / "z" / "1.png")
    found = with_public_folder(split, str(tmp_path / "more"))
    torch.testing.assert_close(found.public, others[:2])
    assert found.public_class_names == ("more/y", "more/z")
    assert found.public_labels is not None
    assert found.public_labels.tolist() == [0, 1]


@pytest.mark.parametrize("channels", [1, 3])
def test_files_get_the_private_shape_after_the_crop(channels: int, tmp_path: Path) -> None:
    """White inside of the crop, black outside."""
    pixels = np.zeros((20, 16, 3), dtype=np.uint8)
    pixels[5:15, 3:13] = 255
    (tmp_path / "ffhq").mkdir()
    Image.fromarray(pixels).save(tmp_path / "ffhq" / "0.png")
    split = split_of("own", channels=channels)
    cropped = with_public_folder(split, str(tmp_path / "ffhq"), crop=10)
    assert torch.equal(cropped.public, torch.ones(1, channels, 8, 8))
    assert with_public_folder(split, str(tmp_path / "ffhq")).public.mean() < 0.8


@pytest.mark.parametrize(("channels", "side"), [(3, 8), (1, 8), (3, 5), (1, 12)])
def test_another_data_set_gives_train_and_test_in_the_private_shape(channels: int, side: int) -> None:
    split, other = split_of("own", channels=channels, side=side), split_of("other", seed=3)
    found = with_public_of(split, other)
    both = torch.cat([other.train.images, other.test.images])
    grey = both.mean(1, keepdim=True) if channels == 1 else both
    expected = grey
    if side != 8:
        expected = torch.stack([torch.stack([by_pillow(one, side) for one in each]) for each in grey])
    torch.testing.assert_close(found.public, expected, atol=1e-5, rtol=0)
    assert found.public_class_names == ("other/a", "other/b")
    assert found.public_labels is not None
    assert found.public_labels.tolist() == [0, 0, 1, 1, 0, 1]


def by_pillow(channel: torch.Tensor, side: int) -> torch.Tensor:
    image = Image.fromarray(channel.numpy(), mode="F").resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image))


@pytest.mark.parametrize(("channels", "side"), [(3, 8), (1, 8), (3, 5)])
def test_a_data_set_on_the_disk_gives_the_same_and_stays_there(channels: int, side: int) -> None:
    split, other = split_of("own", channels=channels, side=side), split_of("other", seed=3)
    stored = StoredImages(4, (3, 8, 8))
    for row, image in enumerate(other.train.images):
        stored.write(row, (image * 255).round().byte().numpy())
    found = with_public_of(split, replace(other, train=ImageSet(stored, other.train.labels)))
    assert isinstance(found.public, LazyImages)
    assert torch.equal(found.public[:], with_public_of(split, other).public)


def test_images_that_are_private_too_are_left_out() -> None:
    split = split_of("own")
    other = split_of("other", seed=3)
    other.test.images[0] = split.train.images[1]
    other.train.images[0] = split.test.images[0]
    found = with_public_of(split, other)
    assert torch.equal(found.public, torch.cat([other.train.images[1:], other.test.images[1:]]))


def test_the_same_collection_is_refused_by_its_names() -> None:
    with pytest.raises(ValueError, match="own/a, own/b of 'own' must not be both private and public"):
        with_public_of(split_of("own"), split_of("own", seed=3))


def test_many_shared_names_are_counted() -> None:
    names = tuple("abcde")
    labels = torch.arange(5)
    parts = [ImageSet(images(5, seed=seed), labels) for seed in (0, 1)]
    split = Split("own", *parts, images(0), names, "ssim", "")
    other = Split("own", *(ImageSet(images(5, seed=s), labels) for s in (2, 3)), images(0), names, "ssim", "")
    with pytest.raises(ValueError, match="own/a, own/b, own/c and 2 more of 'own' must not be both"):
        with_public_of(split, other)


def test_more_images_than_are_resized_at_once() -> None:
    many = images(2050, 1, 2)
    found = shaped(many, (1, 1, 2))
    torch.testing.assert_close(found, many.mean(2, keepdim=True))


def test_bad_input_is_named(tmp_path: Path) -> None:
    split = split_of("own")
    with pytest.raises(FileNotFoundError, match="public is 'nowhere', which is no folder"):
        with_public_folder(split, "nowhere")
    with pytest.raises(ValueError, match="has no images, and no subfolders of images"):
        with_public_folder(split, str(tmp_path))
    with pytest.raises(ValueError, match="crop must be at least 1, got 0"):
        with_public_folder(split, str(tmp_path), crop=0)
    save(images(1)[0], tmp_path / "0.png")
    with pytest.raises(ValueError, match="at least 88x88 pixels, the size of the central crop"):
        with_public_folder(split, str(tmp_path), crop=88)
