"""One image file, as eight bits of grey or colour, whatever it is stored as.

- Sixteen bits of grey are scaled by their depth: 65,535 becomes 255, not everything above 255.
- Transparent pixels are laid over white; without this, an editor's leftovers below them would show.
- A palette and CMYK become the colours that they stand for.
- EXIF's orientation is applied: a photograph is read as a viewer shows it.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

_DEPTH = 65_535


def open_image(path: Path, mode: Literal["L", "RGB"]) -> Image.Image:
    """Read an image.

    Args:
        path: of the file.
        mode: grey or colour.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: it is no file, no image, damaged, more than 178 million pixels large, or holds numbers whose range
            is not known.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path} is not a file, such as a pipe or a folder. Remove it.")
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            return _opaque(_eight_bits(upright, path)).convert(mode)
    # Pillow reports a broken PNG as a SyntaxError.
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} is damaged or not an image: {error}. Fetch it again or remove it."
        ) from error


def _eight_bits(image: Image.Image, path: Path) -> Image.Image:
    if image.mode not in {"I", "F"} and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F" or values.min() < 0 or values.max() > _DEPTH:
        raise ValueError(
            f"{path} holds numbers from {values.min():g} to {values.max():g}, and what is black and what is white is "
            "not known. Save it with 8 or 16 bits."
        )
    return Image.fromarray(np.rint(values * 255 / _DEPTH).astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    above = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
