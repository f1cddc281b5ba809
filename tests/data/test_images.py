"""Bytes become images and labels, and equal images are found in two places."""

import numpy as np
import pytest
import torch

from dpmi.data.images import digests, evenly, to_images, to_labels, without


def test_grey_bytes_become_one_channel_and_colours_come_first() -> None:
    rng = np.random.default_rng(0)
    for shape in ((2, 3, 5), (2, 3, 5, 3)):
        pixels = rng.integers(256, size=shape, dtype=np.uint8)
        pixels.setflags(write=False)
        images = to_images(pixels)
        assert (images.dtype, images.shape[2:]) == (torch.float32, (3, 5))
        assert images.is_contiguous()
        assert (
            pixels.reshape(2, 3, 5, -1).transpose(0, 3, 1, 2) == (images * 255).round().byte().numpy()
        ).all()
        assert images.max() <= 1


@pytest.mark.parametrize("kind", [np.uint8, np.int32, ">i2"])
def test_labels_of_any_width_are_int64(kind: str | type[np.integer]) -> None:
    labels = to_labels(np.array([3, 0, 72], dtype=kind))
    assert (labels.dtype, labels.tolist()) == (torch.int64, [3, 0, 72])


def test_digests_are_equal_exactly_where_images_are() -> None:
    images = torch.rand(4, 2, 3, 3)
    images[3] = images[1]
    changed = images.clone()
    changed[2, 1, 2, 2] = torch.nextafter(images[2, 1, 2, 2], torch.tensor(2.0))
    before, after = list(digests(images)), list(digests(changed))
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, True, False, True]
    assert len(set(before)) == 3
    assert list(digests(images.to(memory_format=torch.channels_last))) == before


def test_what_is_among_others_is_left_out_with_its_label() -> None:
    images, labels = torch.rand(5, 1, 2, 2), torch.arange(5)
    kept, of_kept = without(images, labels, images[3:4], torch.cat([images[:1], torch.rand(2, 1, 2, 2)]))
    assert of_kept.tolist() == [1, 2, 4]
    assert torch.equal(kept, images[[1, 2, 4]])
    same, of_same = without(images, labels, torch.rand(3, 1, 2, 2))
    assert same is images
    assert of_same is labels


@pytest.mark.parametrize(("count", "most"), [(0, 5), (1, 5), (5, 5), (7, 5), (20, 5), (1000, 100)])
def test_even_rows_are_all_different_and_reach_both_ends(count: int, most: int) -> None:
    rows = evenly(count, most).tolist()
    assert len(rows) == len(set(rows)) == min(count, most)
    assert rows == sorted(rows)
    if count:
        assert (rows[0], rows[-1]) == (0, count - 1)
        assert max(np.diff(rows), default=1) <= np.ceil(count / most) + 1
