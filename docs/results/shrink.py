"""Leave in this folder what a reader looks at: tables, summaries, and pictures with few colours, in WebP.

``python docs/results/shrink.py`` is the last step of ``make results``. The tables are Parquet files, a fifth to a tenth
of the CSV; the one with a row per trial and class has five digits. The page with everything in it is one
``dpmi report`` away, in the folder of a study that was run.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dpmi.whole_files import replacing

HERE = Path(__file__).parent
SHOWN = {".md", ".parquet", ".png", ".py", ".toml", ".webp"}
"""What else is there, a study keeps to go on from."""
TABLES = ("trials", "per_class")
COLORS = 32
"""Curves have few colours, reconstructions are grey."""
WIDEST = 2000
"""Pixels; wider pictures are halved."""
FACES = ("att-faces", "faces94", "gt-faces")
"""Data sets that show real people, whose pictures are not passed on."""
PICTURE = re.compile(r"!\[(?P<text>[^\]]*)\]\((?P<name>\w+)\.(?:png|webp)\)")
KEPT_OUT = "The pictures show real people and are not passed on; run the study to see them."
FIRST, ATTACKS = HERE / "linkage-mnist" / "curve.png", 3
"""The curve that the README begins with, and the number of attacks that it shows."""


def main() -> None:
    """Shrink every study."""
    for page in HERE.glob("*/report.html"):
        page.unlink()
    for study in HERE.glob("*/trials.*"):
        if study.suffix in (".csv", ".parquet") and shows_people(study):
            (study.parent / "reconstructions.png").unlink(missing_ok=True)
    for path in [path for name in TABLES for path in HERE.glob(f"*/{name}.csv")]:
        store(pd.read_csv(path), path.with_suffix(".parquet"))
        path.unlink()
    for path in sorted(HERE.glob("*/*.png")):
        with Image.open(path) as picture:
            whole = picture.convert("RGB")
        with replacing(path.with_suffix(".webp")) as new:
            _few_colors(whole).convert("RGB").save(new, lossless=True)
        if path == FIRST:  # the part of the first attack, for the README
            first = _few_colors(whole.crop((0, 0, whole.width, whole.height // ATTACKS)))
            with replacing(HERE / "linkage.png") as new:
                first.save(new, optimize=True)
        path.unlink()
    for page in HERE.glob("*/summary.md"):
        text = PICTURE.sub(partial(_as_it_is_here, page.parent), page.read_text(encoding="utf-8"))
        with replacing(page) as new:
            new.write_text(text, encoding="utf-8")
    print(f"{sum(path.stat().st_size for path in shown()) / 1e6:.1f} MB")


def _as_it_is_here(study: Path, picture: re.Match[str]) -> str:
    path = study / f"{picture['name']}.webp"
    return f"![{picture['text']}]({path.name})" if path.exists() else KEPT_OUT


def store(table: pd.DataFrame, path: Path) -> None:
    """Write a table; fractions of single classes with five digits, all else as it is."""
    fractions = list(table.select_dtypes("float").columns)
    if path.stem == "per_class":
        table = table.assign(**{name: _five_digits(table[name]) for name in fractions})
    many = [name for name in fractions if table[name].nunique() > len(table) / 8]
    with replacing(path) as new:
        table.to_parquet(
            new,
            compression="zstd",
            compression_level=19,
            index=False,
            write_statistics=False,  # of every column, and no reader asks for a part of the rows
            store_schema=False,  # it says the types again, in a third of the file
            use_dictionary=[name for name in table.columns if name not in many],
            column_encoding=dict.fromkeys(many, "BYTE_STREAM_SPLIT"),
        )


def _five_digits(values: pd.Series) -> np.ndarray:
    """The values in single precision, with the last eight of 23 bits rounded away, which would not compress."""
    bits = values.to_numpy(np.float32).view(np.uint32)
    finite = np.isfinite(values.to_numpy())
    return np.where(finite, (bits + 0x80) & 0xFFFFFF00, bits).astype(np.uint32).view(np.float32)


def _few_colors(picture: Image.Image) -> Image.Image:
    small = picture.reduce(2) if picture.width > WIDEST else picture
    return small.quantize(COLORS, dither=Image.Dither.NONE)


def shows_people(trials: Path) -> bool:
    """Whether the pictures of a study show real people."""
    table = pd.read_csv(trials) if trials.suffix == ".csv" else pd.read_parquet(trials, columns=["data"])
    return bool(table["data"].isin(FACES).any())


def shown() -> list[Path]:
    """The files that are passed on."""
    return [path for path in HERE.rglob("*") if path.suffix in SHOWN]


if __name__ == "__main__":
    main()
