"""Conversion of image arrays to tensors, and detection of equal images."""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpmi.data.lazy import Images, blocks, taken


def to_images(pixels: NDArray[np.uint8]) -> Tensor:
    """Convert bytes, grey ``(N, H, W)`` or colour ``(N, H, W, C)``, to images, float32 ``(N, C, H, W)`` in [0, 1].

    >>> to_images(np.array([[[0, 255]]], dtype=np.uint8))
    tensor([[[[0., 1.]]]])
    """
    channels_last = pixels[..., np.newaxis] if pixels.ndim == 3 else pixels
    # Copied, because arrays parsed from the bytes of a file are read-only, which tensors do not support.
    images = channels_last.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    return torch.from_numpy(images).div_(255)


def to_labels(labels: NDArray[np.integer]) -> Tensor:
    """Convert integer labels ``(N,)`` of any width to int64."""
    return torch.from_numpy(labels.astype(np.int64))


def digests(images: Images) -> Iterator[bytes]:
    """Yield a digest of each image's pixels, equal exactly if the images are equal.

    Args:
        images: ``(N, C, H, W)``.
    """
    for block in blocks(images):
        for pixels in block.detach().cpu().contiguous().flatten(1).numpy():
            yield hashlib.blake2b(pixels, digest_size=16).digest()


def evenly(count: int, most: int) -> Tensor:
    """Return at most ``most`` of the rows 0..count-1, evenly spread from the first to the last, without repetition.

    >>> evenly(3, 5), evenly(9, 3)
    (tensor([0, 1, 2]), tensor([0, 4, 8]))
    """
    return torch.linspace(0, max(count - 1, 0), min(count, most)).round().long()


def without(images: Images, labels: Tensor, *others: Images) -> tuple[Images, Tensor]:
    """Remove the images, with their labels, that are among others; nothing is copied if there are none.

    Args:
        images: ``(N, C, H, W)``.
        labels: ``(N,)``.
        others: ``(M, C, H, W)`` each.

    >>> images = torch.arange(3.0).reshape(3, 1, 1, 1)
    >>> without(images, torch.tensor([5, 6, 7]), images[1:2])[1]
    tensor([5, 7])
    """
    found = {digest for other in others for digest in digests(other)}
    keep = torch.tensor([digest not in found for digest in digests(images)], dtype=torch.bool)
    if bool(keep.all()):
        return images, labels
    return taken(images, keep), labels[keep]


def renumbered(labels: Tensor, names: tuple[str, ...]) -> tuple[Tensor, tuple[str, ...]]:
    """Return labels and names without the classes that have no image.

    A class whose images are all private, or of which none was drawn, would otherwise leave a gap in the labels.

    >>> renumbered(torch.tensor([2, 0, 2]), ("a", "b", "c"))
    (tensor([1, 0, 1]), ('a', 'c'))
    """
    kept, found = np.unique(labels.numpy(), return_inverse=True)
    return to_labels(found), tuple(names[label] for label in kept.tolist())
