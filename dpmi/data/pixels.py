"""From the bytes that files hold to the tensors that models take."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_images(pixels: NDArray[np.uint8]) -> Tensor:
    """Turn bytes, grey ``(N, H, W)`` or colour ``(N, H, W, C)``, into images, float32 ``(N, C, H, W)`` in [0, 1].

    >>> to_images(np.array([[[0, 255]]], dtype=np.uint8))
    tensor([[[[0., 1.]]]])
    """
    channels_last = pixels[..., np.newaxis] if pixels.ndim == 3 else pixels
    # A copy: arrays parsed from a file's bytes are read-only, and tensors cannot be.
    images = channels_last.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    return torch.from_numpy(images).div_(255)


def to_labels(labels: NDArray[np.integer]) -> Tensor:
    """Turn integer labels ``(N,)`` of any width into int64."""
    return torch.from_numpy(labels.astype(np.int64))
