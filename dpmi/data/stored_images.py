"""Images from files: a tensor if they are few, else in a temporary file, so that memory does not grow with them."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from dpmi.data.lazy import IN_MEMORY, Images, ImageShape, LazyImages

#: Number of files that wait for a thread at once; a waiting one takes about two kilobytes.
_WAITING = 1024

Pixels = NDArray[np.uint8] | NDArray[np.float32]


class StoredImages(LazyImages):
    """Images in a temporary file that no other program sees, which ends with this object, or with the process.

    The file is in the system's folder of temporary files, which the environment variable TMPDIR names.

    Args:
        count: N, at least 1.
        image_shape: shape of every image.
        dtype: uint8, for pixels from 0 to 255, which become 0 to 1 as by :func:`~dpmi.data.images.to_images`; or
            float32, for pixels in [0, 1].

    Raises:
        OSError: the folder has not enough room.
    """

    def __init__(self, count: int, image_shape: ImageShape, *, dtype: DTypeLike = np.uint8) -> None:
        super().__init__(count, image_shape)
        self._pixels = np.dtype(dtype)
        self._moving = threading.Lock()
        self._image_bytes = self.shape[1:].numel() * self._pixels.itemsize
        size = count * self._image_bytes
        try:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - open as long as this object lives
            _reserve(self._file.fileno(), size)
        except OSError as error:
            raise OSError(
                f"{count:,} images of shape {image_shape} need {size / 2**30:.2g} GiB for every worker in the folder "
                f"of temporary files, {tempfile.gettempdir()}: {error.strerror or error}. Set the environment variable "
                "TMPDIR to a folder with more room"
            ) from error

    def write(self, row: int, pixels: Pixels) -> None:
        """Write one image, (C, H, W); several threads may write different rows at once."""
        content = np.ascontiguousarray(pixels, dtype=self._pixels).tobytes()
        written = 0
        while written < len(content):  # a signal may end a call early
            at = row * self._image_bytes + written
            written += self._write_at(content[written:], at)

    def read(self, rows: Tensor) -> Tensor:
        """Return the images at ``rows``, int64 (n,) from 0 to N-1, float32 (n, C, H, W)."""
        places = rows.numpy()
        pixels = np.empty((len(places), *self.shape[1:]), self._pixels)
        content = pixels.reshape(-1).view(np.uint8).data
        # One call reads a run of rows. A memory map has the pages that it has read in the memory of the process.
        starts = np.flatnonzero(np.diff(places, prepend=-2) != 1).tolist()
        for start, end in pairwise([*starts, len(places)]):
            run = content[start * self._image_bytes : end * self._image_bytes]
            self._fill(run, at=int(places[start]) * self._image_bytes)
        found = torch.from_numpy(pixels)
        return found.float().div_(255) if self._pixels == np.uint8 else found

    def _fill(self, buffer: memoryview, at: int) -> None:
        """Read bytes of the file, from ``at`` on, into all of a buffer."""
        done = 0
        while done < len(buffer):  # a call reads at most 2 GiB
            read = self._read_at(buffer[done:], at + done)
            if read == 0:
                raise OSError("the temporary file of the images is shorter than what was written to it")
            done += read

    def _write_at(self, content: bytes, at: int) -> int:
        """Write what one call takes, and return the number of bytes."""
        if hasattr(os, "pwrite"):
            return int(os.pwrite(self._file.fileno(), content, at))
        with self._moving:  # Windows, which has no forks: only threads share the position
            self._file.seek(at)
            return int(self._file.write(content))

    def _read_at(self, buffer: memoryview, at: int) -> int:
        """Read what one call gives, and return the number of bytes."""
        if hasattr(os, "preadv"):
            return int(os.preadv(self._file.fileno(), [buffer], at))
        with self._moving:
            self._file.seek(at)
            return int(self._file.readinto(buffer))


def collected(
    count: int, image_shape: ImageShape, pixels: Callable[[int], Pixels], *, dtype: DTypeLike = np.uint8
) -> Images:
    """Collect images that a function makes: as a tensor up to :data:`~dpmi.data.lazy.IN_MEMORY`, else on the disk.

    Args:
        count: N, 0 or more.
        image_shape: shape of every image.
        pixels: makes the image of a row, (C, H, W); several threads call it.
        dtype: of what ``pixels`` returns, as for :class:`StoredImages`.

    Raises:
        OSError: the images do not fit on the disk.
        Exception: what ``pixels`` raises.
    """
    if 4 * count * torch.Size(image_shape).numel() > IN_MEMORY:
        stored = StoredImages(count, image_shape, dtype=dtype)
        _in_threads(lambda row: stored.write(row, pixels(row)), count)
        return stored
    images = torch.empty(count, *image_shape)

    def fill(row: int) -> None:
        images[row] = torch.from_numpy(pixels(row))

    _in_threads(fill, count)
    return images.div_(255) if np.dtype(dtype) == np.uint8 else images


def _in_threads(do: Callable[[int], Any], count: int) -> None:
    with ThreadPoolExecutor() as pool:
        for start in range(0, count, _WAITING):
            for _ in pool.map(do, range(start, min(start + _WAITING, count))):
                pass


def _reserve(file: int, size: int) -> None:
    """Make room for a file now, because a page that does not fit would end the process later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:  # macOS and Windows; a write that does not fit raises
        os.ftruncate(file, size)
