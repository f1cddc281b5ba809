"""Images by rows: what tensors and images outside the memory have in common, and how both are used block by block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ImageShape = tuple[int, int, int]
"""Channels, height and width of every image."""

Index = int | slice | Sequence[int] | Tensor | NDArray[np.integer]
"""What names rows of images outside the memory."""

BLOCK = 2**22
"""Number of values, 16 MiB, in a block of images."""

IN_MEMORY = 2**27
"""Most bytes of float32 images from files that are kept as a tensor."""

WHOLE = 2**26
"""Number of values, 256 MiB, in a block where rounding depends on the blocks, so that few images are one block."""


class Images(Protocol):
    """Images (N, C, H, W), of which a slice or an int64 tensor of rows is a tensor.

    A :class:`torch.Tensor` is one. A large data set from image files is another, whose images stay on the disk; it has
    nothing but what is listed here. ``images[:]`` is a tensor of all images, in memory.

    >>> def darkest(images: Images) -> float:
    ...     return min(float(block.mean()) for block in blocks(images, 2))
    >>> darkest(torch.tensor([0.5, 0.5, 0.25, 0.25]).view(4, 1, 1, 1))  # a tensor, or images on the disk
    0.25
    """

    @property
    def shape(self) -> torch.Size:
        """The shape (N, C, H, W)."""

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the rows, float32."""

    @property
    def device(self) -> torch.device:
        """Device of the rows."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor: ...


class LazyImages(ABC):
    """Images that are read or computed when rows of them are taken: float32 in [0, 1].

    An index is a row, a slice, a list, array or tensor of rows, or a bool tensor (N,). The images of an index are a new
    tensor, in memory.

    Args:
        count: N, 0 or more.
        image_shape: shape of every image.
    """

    dtype = torch.float32

    def __init__(self, count: int, image_shape: ImageShape) -> None:
        self.shape = torch.Size([count, *image_shape])
        self.device = torch.device("cpu")

    @abstractmethod
    def read(self, rows: Tensor) -> Tensor:
        """Return the images at ``rows``, int64 (n,) from 0 to N-1, float32 (n, C, H, W)."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Index, /) -> Tensor:
        chosen = self.rows_of(rows)
        return self.read(chosen.reshape(-1)).reshape(*chosen.shape, *self.shape[1:])

    def rows_of(self, rows: Index) -> Tensor:
        """Return the rows of an index, int64 from 0 to N-1, of the shape of the index.

        Raises:
            IndexError: a row is not in the images.
            TypeError: the index is of another type.
        """
        count = len(self)
        if isinstance(rows, slice):
            start, stop, step = rows.indices(count)
            return torch.arange(start, max(start, stop), step)
        found = torch.as_tensor(rows).cpu()
        if found.dtype == torch.bool:
            if found.shape != (count,):
                raise IndexError(f"the mask must have shape ({count},); got {tuple(found.shape)}")
            return found.nonzero()[:, 0]
        if found.numel() == 0:
            return found.long()
        if found.is_floating_point() or found.is_complex():
            raise TypeError(f"rows must be integers; got {found.dtype}")
        if not -count <= int(found.min()) <= int(found.max()) < count:
            raise IndexError(f"rows must be from {-count} to {count - 1}; got {found.min()} to {found.max()}")
        return torch.where(found < 0, found + count, found).long()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "images outside the memory belong to one process and cannot be pickled or copied; load the data set again "
            "in the other process"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} images of {tuple(self.shape[1:])})"


class _Rows(LazyImages):
    """Some rows of other images."""

    def __init__(self, images: Images, rows: Tensor) -> None:
        super().__init__(len(rows), shape_of(images))
        self.images = images
        self.rows = rows

    def read(self, rows: Tensor) -> Tensor:
        return self.images[self.rows[rows]]


class _Joined(LazyImages):
    """The images of several parts, one after the other."""

    def __init__(self, parts: Sequence[Images]) -> None:
        super().__init__(sum(map(len, parts)), shape_of(parts[0]))
        self.parts = tuple(parts)

    def read(self, rows: Tensor) -> Tensor:
        found = torch.empty(len(rows), *self.shape[1:])
        first = 0
        for part in self.parts:
            own = ((rows >= first) & (rows < first + len(part))).nonzero()[:, 0]
            if len(own):
                found[own] = part[rows[own] - first]
            first += len(part)
        return found


class _Changed(LazyImages):
    """Images that a function computes from others."""

    def __init__(
        self, images: Images, change: Callable[[Tensor, Tensor], Tensor], image_shape: ImageShape
    ) -> None:
        super().__init__(len(images), image_shape)
        self.images = images
        self.change = change

    def read(self, rows: Tensor) -> Tensor:
        return self.change(self.images[rows], rows)


class _Placed(LazyImages):
    """Images whose rows are moved to a device when they are taken."""

    def __init__(self, images: Images, device: torch.device) -> None:
        super().__init__(len(images), shape_of(images))
        self.images = images
        self.device = device

    def read(self, rows: Tensor) -> Tensor:
        return self.images[rows].to(self.device)


def shape_of(images: Images) -> ImageShape:
    """Return channels, height and width of images (N, C, H, W)."""
    channels, height, width = images.shape[1:]
    return channels, height, width


def blocks(images: Images, size: int | None = None) -> Iterator[Tensor]:
    """Yield the images in their order, at most ``size`` at a time; one empty block if there are none.

    Args:
        images: (N, ...).
        size: at least 1; default: as many as have :data:`BLOCK` values.

    >>> [len(block) for block in blocks(torch.zeros(5, 1, 2, 2), 2)]
    [2, 2, 1]
    """
    size = at_once(images, BLOCK) if size is None else size
    for start in range(0, max(1, len(images)), size):
        yield images[start : start + size]


def at_once(images: Images, values: int) -> int:
    """Return how many of the images (N, ...) have this many values, at least 1."""
    return max(1, values // max(1, images.shape[1:].numel()))


def taken(images: Images, rows: Tensor) -> Images:
    """Return some of the images; those outside the memory stay there, where indexing would read them.

    Args:
        images: (N, C, H, W).
        rows: int64 (n,), or bool (N,).
    """
    if isinstance(images, Tensor):
        return images[rows]
    if rows.dtype == torch.bool:
        rows = rows.nonzero()[:, 0]
    if isinstance(images, _Rows):
        return _Rows(images.images, images.rows[rows])
    return _Rows(images, rows)


def joined(*parts: Images) -> Images:
    """Return the images of all parts, one part after the other; a tensor if all are.

    Args:
        parts: (N, C, H, W) each, at least one, of one shape of images.
    """
    tensors = [part for part in parts if isinstance(part, Tensor)]
    return torch.cat(tensors) if len(tensors) == len(parts) else _Joined(parts)


def changed(
    images: Images, change: Callable[[Tensor, Tensor], Tensor], image_shape: ImageShape | None = None
) -> Images:
    """Return images that a function computes; those of a tensor at once, others whenever rows of them are taken.

    Args:
        images: (N, C, H, W).
        change: maps images (n, C, H, W) and their rows int64 (n,) to images in [0, 1]; each image by itself.
        image_shape: shape of the computed images; None if it stays the same.
    """
    if isinstance(images, Tensor):
        return change(images, torch.arange(len(images)))
    return _Changed(images, change, shape_of(images) if image_shape is None else image_shape)


def placed(images: Images, device: torch.device) -> Images:
    """Return the images on a device; of those outside the memory, only rows that are taken go there."""
    if images.device == device:
        return images
    return images.to(device) if isinstance(images, Tensor) else _Placed(images, device)


def mean_image(images: Images) -> Tensor:
    """Return the mean of the images (N, C, H, W), float64 (C, H, W), on their device.

    Float64 holds the sum of up to four million 8-bit images exactly, whatever the blocks.
    """
    total = torch.zeros(images.shape[1:], dtype=torch.float64, device=images.device)
    for block in blocks(images):
        total += block.sum(dim=0, dtype=torch.float64)
    return total / len(images)
