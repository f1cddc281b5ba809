"""From the bytes that files hold to the tensors that models take."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_images(pixels: NDArray[np.uint8]) -> Tensor:
    """Turn grey bytes ``(N, H, W)`` into images, float32 ``(N, 1, H, W)`` in [0, 1].

    >>> to_images(np.array([[[0, 255]]], dtype=np.uint8))
    tensor([[[[0., 1.]]]])
    """
    # A copy: arrays parsed from a file's bytes are read-only, and tensors cannot be.
    return torch.from_numpy(pixels.astype(np.float32)).div_(255).unsqueeze(1)


def to_labels(labels: NDArray[np.integer]) -> Tensor:
    """Turn integer labels ``(N,)`` of any width into int64."""
    return torch.from_numpy(labels.astype(np.int64))
