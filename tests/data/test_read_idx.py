import gzip

import numpy as np
import pytest
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from dpmi.data.read_idx import read_idx


def idx_bytes(array: np.ndarray) -> bytes:
    header = np.array([0x0800 + array.ndim, *array.shape], dtype=">u4")
    return header.tobytes() + array.tobytes()


@given(
    array=arrays(np.uint8, array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=7)), zipped=st.booleans()
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_reads_back_what_was_written(tmp_path, array, zipped):
    path = tmp_path / ("array.gz" if zipped else "array")
    path.write_bytes(gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array))
    np.testing.assert_array_equal(read_idx(path, axes=array.ndim), array)


ARRAY = np.random.default_rng(0).integers(256, size=(5, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx_bytes(ARRAY)[:-1], "59 values, but its header says 5 x 4 x 3 = 60"),
        (idx_bytes(ARRAY) + b"x", "61 values"),
        (idx_bytes(ARRAY)[:9], "9 bytes, shorter than its 16-byte header"),
        (idx_bytes(ARRAY[0]), "not an idx file of bytes with 3 axes: it starts with '00000802'"),
        (b"\x00\x00\x0d\x03" + idx_bytes(ARRAY)[4:], "it starts with '00000d03'"),
        (b"", "it starts with ''"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_refuses_what_its_header_does_not_describe(tmp_path, content, message, zipped):
    path = tmp_path / ("array.gz" if zipped else "array")
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(ValueError, match=message):
        read_idx(path, axes=3)


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    return content[:40] + bytes([content[40] ^ 0xFF]) + content[41:]


def not_gzip(content: bytes) -> bytes:
    return b"<html>" + content


@pytest.mark.parametrize("damage", [truncated, flipped, not_gzip])
def test_refuses_a_damaged_gz_and_names_it(tmp_path, damage):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(gzip.compress(idx_bytes(ARRAY))))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz is truncated or corrupt: "):
        read_idx(path, axes=3)


@pytest.mark.parametrize(("stem", "axes"), [("t10k-images-idx3-ubyte", 3), ("t10k-labels-idx1-ubyte", 1)])
def test_agrees_with_torchvision(data_root, tmp_path, stem, axes):
    packed = data_root / "MNIST" / "raw" / f"{stem}.gz"
    unpacked = tmp_path / stem
    unpacked.write_bytes(gzip.decompress(packed.read_bytes()))
    theirs = torchvision.datasets.mnist.read_sn3_pascalvincent_tensor(str(unpacked)).numpy()
    np.testing.assert_array_equal(read_idx(packed, axes=axes), theirs)
    np.testing.assert_array_equal(read_idx(unpacked, axes=axes), theirs)
