"""Images on the disk: their values, their file, and what is left of both."""

from __future__ import annotations

import errno
import gc
import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from dpmi.data import stored_images
from dpmi.data.images import to_images
from dpmi.data.stored_images import StoredImages, collected

GENERATOR = np.random.default_rng(0)
PIXELS = GENERATOR.integers(0, 256, (3000, 3, 8, 6), dtype=np.uint8)


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The folder of temporary files, in which all images are."""
    monkeypatch.setattr(stored_images, "IN_MEMORY", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == [], "the file never has a name"


def test_few_images_are_a_tensor_and_many_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_images, "IN_MEMORY", 4 * 10 * 3 * 8 * 6)
    few, many = (collected(n, (3, 8, 6), PIXELS.__getitem__) for n in (10, 11))
    assert isinstance(few, torch.Tensor)
    assert isinstance(many, StoredImages)
    assert torch.equal(many[:10], few)
    assert torch.equal(many[:], to_images(PIXELS[:11].transpose(0, 2, 3, 1)))


def test_every_image_is_written_by_some_thread(on_disk: Path) -> None:
    found = collected(len(PIXELS), (3, 8, 6), lambda row: PIXELS[row])
    assert torch.equal(found[:], torch.from_numpy(PIXELS).float() / 255)
    rows = torch.from_numpy(GENERATOR.permutation(len(PIXELS)))
    assert torch.equal(found[rows], torch.from_numpy(PIXELS[rows.numpy()]).float() / 255)


def test_threads_share_one_position_where_the_system_has_no_other_way(
    on_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows; the turns of 8 threads are short, so that without a lock one moves what another has set."""
    monkeypatch.delattr(os, "pwrite")
    monkeypatch.delattr(os, "preadv")
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        found = collected(len(PIXELS), (3, 8, 6), lambda row: PIXELS[row])
        with ThreadPoolExecutor(8) as pool:
            read = torch.stack(list(pool.map(found.__getitem__, range(len(PIXELS)))))
    finally:
        sys.setswitchinterval(before)
    assert torch.equal(found[:], torch.from_numpy(PIXELS).float() / 255)
    assert torch.equal(read, found[:])


def test_pixels_of_float32_are_kept_as_they_are(on_disk: Path) -> None:
    values = GENERATOR.uniform(size=(5, 1, 3, 3)).astype(np.float32)
    assert torch.equal(
        collected(5, (1, 3, 3), values.__getitem__, dtype=np.float32)[:], torch.from_numpy(values)
    )


def test_none_are_a_tensor(on_disk: Path) -> None:
    found = collected(0, (3, 8, 6), PIXELS.__getitem__)
    assert isinstance(found, torch.Tensor)
    assert found.shape == (0, 3, 8, 6)


def files_of_this_process() -> list[str]:
    return [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]


def test_a_read_maps_no_page_and_the_end_no_file(on_disk: Path) -> None:
    found = collected(100, (3, 8, 6), PIXELS.__getitem__)
    assert torch.equal(found[:][0], found[0])
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8")
    assert str(on_disk) not in mapped
    assert any(file.startswith(str(on_disk)) for file in files_of_this_process())
    del found
    gc.collect()
    assert not any(file.startswith(str(on_disk)) for file in files_of_this_process())


def test_a_file_that_lost_its_end_is_an_error(on_disk: Path) -> None:
    found = collected(9, (3, 8, 6), PIXELS.__getitem__)
    assert isinstance(found, StoredImages)
    os.ftruncate(found._file.fileno(), 5 * 3 * 8 * 6)
    assert torch.equal(found[:5], torch.from_numpy(PIXELS[:5]).float() / 255)
    with pytest.raises(OSError, match="shorter than what was written"):
        found[3:6]


def test_what_decoding_raises_is_raised_once_and_nothing_is_left(on_disk: Path) -> None:
    def decode(row: int) -> np.ndarray:
        if row >= 7:
            raise ValueError(f"file {row} is corrupt")
        return PIXELS[row]

    with pytest.raises(ValueError, match=r"^file 7 is corrupt$"):
        collected(1500, (3, 8, 6), decode)
    gc.collect()
    assert not any(file.startswith(str(on_disk)) for file in files_of_this_process())


def test_a_disk_without_room_is_one_error_that_names_the_folder(on_disk: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    decoded: list[int] = []
    try:
        with pytest.raises(OSError, match="TMPDIR") as caught:
            collected(20_000, (3, 8, 6), lambda row: decoded.append(row) or PIXELS[row])  # type: ignore[func-returns-value]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    message = str(caught.value)
    assert "20,000 images of shape (3, 8, 6) need 0.0027 GiB for every worker" in message
    assert str(on_disk) in message
    assert os.strerror(errno.EFBIG) in message
    assert decoded == [], "nothing is decoded before there is room"


def test_tensors_and_files_are_read_by_forked_processes_too(on_disk: Path) -> None:
    found = collected(64, (3, 8, 6), PIXELS.__getitem__)
    loader = torch.utils.data.DataLoader(found, batch_size=8, num_workers=2, multiprocessing_context="fork")  # type: ignore[arg-type]
    assert torch.equal(torch.cat(list(loader)), found[:])
