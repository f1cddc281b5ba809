"""Reads an image file of any common format as eight bits of grey or colour.

- Grey values of 16 bits are scaled: 65,535 becomes 255. They are not clipped at 255.
- Transparent pixels are composited over white, so that hidden colours do not show.
- Palette and CMYK images are converted to their colours.
- The EXIF orientation is applied, so that a photograph looks as in a viewer.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageFile, ImageOps

_DEPTH = 65_535


def open_image(path: Path, mode: Literal["L", "RGB"]) -> Image.Image:
    """Read an image.

    Args:
        path: path of the file.
        mode: grey or colour.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not a regular file, not an image, corrupt, larger than 178 million pixels, or has values of an
            unknown range.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path} must be a regular file, not a folder or a pipe. Remove it.")
    try:
        with _whole_images(), Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's readers raise errors of many types for a broken file
        raise ValueError(
            f"{path} is corrupt or not an image: {error}. Download it again or remove it."
        ) from error
    return _opaque(_eight_bits(upright, path)).convert(mode)


@contextmanager
def _whole_images() -> Iterator[None]:
    """Refuse truncated files. Pillow's switch is the process's, and libraries set it; WeasyPrint does when imported."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _eight_bits(image: Image.Image, path: Path) -> Image.Image:
    if image.mode not in {"I", "F"} and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F" or values.min() < 0 or values.max() > _DEPTH:
        raise ValueError(
            f"{path} has values from {values.min():g} to {values.max():g}, and the values of black and white are "
            "unknown. Save it with 8 or 16 bits."
        )
    return Image.fromarray(np.rint(values * 255 / _DEPTH).astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    above = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
