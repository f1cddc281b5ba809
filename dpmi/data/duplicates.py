"""Images that are in two places: pixel by pixel the same, whatever file they come from."""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor


def digests(images: Tensor) -> Iterator[bytes]:
    """Return a digest of each image's pixels, equal exactly when the images are equal.

    Args:
        images: ``(N, C, H, W)``.
    """
    for pixels in images.detach().cpu().contiguous().flatten(1).numpy():
        yield hashlib.blake2b(pixels, digest_size=16).digest()


def without(images: Tensor, labels: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
    """Leave out the images that are among others, and their labels; nothing is copied if there are none.

    Args:
        images: ``(N, C, H, W)``.
        labels: ``(N,)``.
        others: each ``(M, C, H, W)``.

    >>> images = torch.arange(3.0).reshape(3, 1, 1, 1)
    >>> without(images, torch.tensor([5, 6, 7]), images[1:2])[1]
    tensor([5, 7])
    """
    found = {digest for other in others for digest in digests(other)}
    keep = torch.tensor([digest not in found for digest in digests(images)], dtype=torch.bool)
    if bool(keep.all()):
        return images, labels
    return images[keep], labels[keep]
