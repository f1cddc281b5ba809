"""Images outside the memory against a tensor of the same pixels."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from dpmi.data import ImageSet, blocks
from dpmi.data.images import digests, without
from dpmi.data.lazy import BLOCK, LazyImages, changed, joined, mean_image, placed, taken
from dpmi.data.stored_images import StoredImages

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 3, 4, 5), dtype=np.uint8)
TENSOR = torch.from_numpy(PIXELS).float().div_(255)


def stored(pixels: np.ndarray = PIXELS) -> StoredImages:
    found = StoredImages(len(pixels), pixels.shape[1:], dtype=pixels.dtype)
    for row, image in enumerate(pixels):
        found.write(row, image)
    return found


LAZY = stored()


@pytest.mark.parametrize(
    "index",
    [
        3,
        -1,
        np.int64(2),
        slice(None),
        slice(2, 5),
        slice(-3, None),
        slice(0, 100, 3),
        slice(5, 2),
        [4, 0, 0, -2],
        [],
        np.array([6, 1]),
        torch.tensor(5),
        torch.tensor([2, 2, 6]),
        torch.tensor([[0, 1], [2, 3]]),
        torch.tensor([], dtype=torch.int64),
        torch.tensor([2, 3], dtype=torch.int32),
        torch.arange(7) % 2 == 0,
        torch.zeros(7, dtype=torch.bool),
    ],
    ids=str,
)
def test_an_index_gives_what_it_gives_for_a_tensor(index):
    expected = TENSOR[index]
    found = LAZY[index]
    assert torch.equal(found, expected)
    assert found.dtype == torch.float32
    assert found.is_contiguous()


@pytest.mark.parametrize(
    ("index", "error"),
    [
        (7, IndexError),
        (-8, IndexError),
        ([0, 7], IndexError),
        (torch.tensor([0.0]), TypeError),
        (torch.zeros(6, dtype=torch.bool), IndexError),
    ],
    ids=str,
)
def test_an_index_that_a_tensor_refuses_is_refused(index, error):
    with pytest.raises(error):
        LAZY[index]
    with pytest.raises(IndexError):  # torch's error is this one for all
        TENSOR[index]


def test_it_has_the_shape_of_the_tensor():
    assert (LAZY.shape, LAZY.dtype, LAZY.device, len(LAZY)) == (
        TENSOR.shape,
        TENSOR.dtype,
        TENSOR.device,
        len(TENSOR),
    )
    assert repr(LAZY) == "StoredImages(7 images of (3, 4, 5))"
    assert torch.equal(torch.stack(list(LAZY)), TENSOR)


def test_a_part_stays_outside_the_memory():
    even, last = torch.arange(7) % 2 == 0, torch.tensor([3, 1, 1])
    part = taken(taken(LAZY, even), last)
    assert isinstance(part, LazyImages)
    assert part.images is LAZY, "a part of a part reads the file directly"
    assert torch.equal(part[:], TENSOR[even][last])
    assert torch.equal(taken(TENSOR, even), TENSOR[even])


def test_parts_are_joined_in_their_order():
    rows = torch.tensor([9, 0, 6, 7, 3, 9])
    for parts in ((LAZY, TENSOR[:3]), (TENSOR[:3], LAZY), (LAZY, taken(LAZY, torch.tensor([5, 4])))):
        both = joined(*parts)
        expected = torch.cat([part[:] for part in parts])
        assert isinstance(both, LazyImages)
        assert len(both) == len(expected)
        assert torch.equal(both[:], expected)
        assert torch.equal(both[rows % len(both)], expected[rows % len(both)])
    assert torch.equal(joined(TENSOR, TENSOR[:1]), torch.cat([TENSOR, TENSOR[:1]]))


def test_changed_images_are_those_of_a_changed_tensor():
    def cropped(images, rows):
        return images[..., 1:] * (rows / 7).view(-1, 1, 1, 1)

    found = changed(LAZY, cropped, (3, 4, 4))
    assert isinstance(found, LazyImages)
    assert found.shape == (7, 3, 4, 4)
    assert torch.equal(found[[6, 2]], changed(TENSOR, cropped)[[6, 2]])
    assert changed(LAZY, lambda images, _: images).shape == LAZY.shape


def test_rows_are_moved_to_a_device():
    assert placed(LAZY, torch.device("cpu")) is LAZY
    assert placed(TENSOR, torch.device("cpu")) is TENSOR
    moved = placed(LAZY, torch.device("meta"))
    assert moved.device == moved[2:4].device == placed(TENSOR, torch.device("meta")).device
    assert moved.shape == LAZY.shape


def test_blocks_are_the_images_in_their_order():
    for images in (LAZY, TENSOR):
        assert [len(block) for block in blocks(images, 3)] == [3, 3, 1]
        assert torch.equal(torch.cat(list(blocks(images, 3))), TENSOR)
        assert [len(block) for block in blocks(images)] == [7]
    large = torch.zeros(3, 1, BLOCK // 2)
    assert [len(block) for block in blocks(large)] == [2, 1]
    assert [block.shape for block in blocks(TENSOR[:0])] == [TENSOR[:0].shape]


def test_the_mean_is_exact_whatever_the_blocks():
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (5, 1, 1024, 1024), dtype=np.uint8)  # two blocks
    exact = torch.from_numpy(pixels).float().div_(255).double().numpy()
    expected = exact.sum(axis=0) / 5  # NumPy adds row by row
    for images in (stored(pixels), torch.from_numpy(pixels).float().div_(255)):
        found = mean_image(images)
        assert found.dtype == torch.float64
        np.testing.assert_array_equal(found.numpy(), expected)


def test_digests_and_copies_are_those_of_a_tensor():
    assert list(digests(LAZY)) == list(digests(TENSOR))
    labels = torch.arange(7)
    for others in (TENSOR[2:4], taken(LAZY, torch.tensor([2, 3]))):
        images, kept = without(LAZY, labels, others)
        assert isinstance(images, LazyImages)
        assert kept.tolist() == [0, 1, 4, 5, 6]
        assert torch.equal(images[:], TENSOR[kept])
    assert without(LAZY, labels, TENSOR[:0])[0] is LAZY


def test_a_set_of_them_is_cut_and_drawn_without_reading_all():
    images = ImageSet(LAZY, torch.arange(7), torch.arange(7) // 2)
    kept = torch.arange(7) > 2
    part = images.cut(kept)
    assert isinstance(part.images, LazyImages)
    assert torch.equal(part.images[:], TENSOR[kept])
    assert (part.labels.tolist(), part.units.tolist()) == ([3, 4, 5, 6], [1, 2, 2, 3])
    chosen, labels = images.rows(torch.tensor([5, 1]), torch.device("cpu"))
    assert torch.equal(chosen, TENSOR[[5, 1]])
    assert labels.tolist() == [5, 1]
    with pytest.raises(ValueError, match=r"labels must be int64 of shape \(7,\)"):
        ImageSet(LAZY, torch.arange(6))


def test_they_belong_to_one_process():
    for copied in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="load the data set again in the other process"):
            copied(LAZY)
