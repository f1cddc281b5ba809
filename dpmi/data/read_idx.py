"""The idx format of MNIST and Fashion-MNIST, gzipped or not.

A header of big-endian fields (two zero bytes, the type code, the number of axes, each axis's length), then
the values; described at the end of http://yann.lecun.com/exdb/mnist/. torchvision reads it only after writing
an unpacked copy next to the files; here they are read in place, so that a data root can be read-only.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path, *, axes: int) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes with ``axes`` axes; a name ending in ``.gz`` is unzipped on the fly.

    Raises:
        ValueError: not an idx file of bytes with that many axes, or one that is truncated or corrupted.
    """
    content = _content(path)
    header = 4 + 4 * axes
    expected_magic = bytes([0, 0, _UNSIGNED_BYTE, axes])
    if content[:4] != expected_magic:
        raise ValueError(
            f"{path} is not an idx file of bytes with {axes} axes: it starts with {content[:4].hex()!r}, "
            f"not {expected_magic.hex()!r}"
        )
    if len(content) < header:
        raise ValueError(f"{path} is truncated: {len(content)} bytes, shorter than its {header}-byte header")
    shape = struct.unpack(f">{axes}I", content[4:header])
    values = len(content) - header
    if values != math.prod(shape):
        raise ValueError(
            f"{path} is truncated or corrupted: {values} values where its header says "
            f"{' x '.join(map(str, shape))} = {math.prod(shape)}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is truncated or corrupted: {error}. Fetch it again.") from error
