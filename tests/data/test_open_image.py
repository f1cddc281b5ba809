"""Image files of every kind, written by Pillow and read as a viewer would show them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from dpmi.data.open_image import open_image

WIDE = np.array([[0, 256, 1000], [30000, 65534, 65535]], dtype=np.uint16)


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_sixteen_bits_are_scaled_by_their_depth(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"wide.{suffix}"
    Image.fromarray(WIDE).save(path)
    expected = np.rint(WIDE / 65535 * 255)
    assert np.array_equal(np.asarray(open_image(path, "L")), expected)
    assert np.array_equal(np.asarray(open_image(path, "RGB"))[..., 1], expected)


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    pixels = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [200, 0, 0, 51]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.asarray(open_image(tmp_path / "a.png", "RGB")).tolist() == [
        [[200, 0, 0], [255, 255, 255], [244, 204, 204]]
    ]
    grey = np.array([[[100, 255], [100, 0]]], dtype=np.uint8)
    Image.fromarray(grey, mode="LA").save(tmp_path / "b.png")
    assert np.asarray(open_image(tmp_path / "b.png", "L")).tolist() == [[100, 255]]


def test_a_palette_is_its_colours(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([1, 0])
    image.save(tmp_path / "a.png")
    assert np.asarray(open_image(tmp_path / "a.png", "RGB")).tolist() == [[[200, 100, 50], [10, 20, 30]]]
    image.save(tmp_path / "b.png", transparency=0)
    assert np.asarray(open_image(tmp_path / "b.png", "RGB")).tolist() == [[[200, 100, 50], [255, 255, 255]]]


def test_cmyk_is_its_colours(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.tiff")
    assert np.asarray(open_image(tmp_path / "a.tiff", "RGB"))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_stands_upright(tmp_path: Path, orientation: int) -> None:
    """The eight ways in which EXIF turns and mirrors, by TIFF's definition of where row 0 and column 0 are."""
    shown = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    stored = {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.T,
        6: np.rot90(shown),
        7: shown[::-1, ::-1].T,
        8: np.rot90(shown, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png", "L")), shown)


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    assert np.asarray(open_image(tmp_path / "a.png", "L")).tolist() == [[255, 0]]


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_numbers_without_a_known_range_are_refused(tmp_path: Path, dtype: type) -> None:
    Image.fromarray(np.array([[0, 70000]], dtype=dtype)).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match=r"a\.tiff has values from 0 to 70000, .* Save it with 8 or 16 bits"):
        open_image(tmp_path / "a.tiff", "L")


def test_what_is_no_image_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    noise = np.random.default_rng(0).integers(256, size=(40, 40), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    for name in ("pipe", "folder"):
        with pytest.raises(ValueError, match=rf"{name}\.png must be a regular file, not a folder or a pipe"):
            open_image(tmp_path / f"{name}.png", "RGB")
    for name in ("text", "empty", "cut"):
        with pytest.raises(ValueError, match=rf"{name}\.png is corrupt or not an image"):
            open_image(tmp_path / f"{name}.png", "RGB")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(ValueError, match=r"whole\.png is corrupt or not an image: .*1600 pixels"):
        open_image(tmp_path / "whole.png", "RGB")
    with pytest.raises(FileNotFoundError):
        open_image(tmp_path / "nowhere.png", "RGB")


def test_half_a_file_is_refused_where_a_library_lets_pillow_fill_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(256, size=(40, 40), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.bmp")
    (tmp_path / "cut.bmp").write_bytes((tmp_path / "whole.bmp").read_bytes()[:900])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with Image.open(tmp_path / "cut.bmp") as filled:
        filled.load()
    with pytest.raises(ValueError, match=r"cut\.bmp is corrupt or not an image"):
        open_image(tmp_path / "cut.bmp", "L")
    assert np.array_equal(np.asarray(open_image(tmp_path / "whole.bmp", "L")), noise)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True, "the switch of others is as it was"
