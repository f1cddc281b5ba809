"""Reads the idx format of MNIST and Fashion-MNIST, gzipped or not.

A file has a header of big-endian fields (two zero bytes, the type code, the number of axes, the length of each axis)
and the values; see the end of http://yann.lecun.com/exdb/mnist/. torchvision writes an unpacked copy next to the files
before it reads them. This module reads the files directly, so a data root can be read-only.
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
    """Read an idx file of unsigned bytes with ``axes`` axes; a name that ends in ``.gz`` is decompressed.

    Raises:
        ValueError: the file is not an idx file of bytes with that many axes, or it is truncated or corrupt.
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
            f"{path} is truncated or corrupt: {values} values, but its header says "
            f"{' x '.join(map(str, shape))} = {math.prod(shape)}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is truncated or corrupt: {error}. Download it again.") from error
