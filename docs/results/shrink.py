"""Leave in this folder what a reader looks at: tables, summaries, and pictures with a palette.

``python docs/results/shrink.py`` is the last step of ``make results``. Numbers keep seven digits. The table with one
row per trial and class is a Parquet file of single precision, a fifth of the CSV. The page with everything in it is
one ``dpmi report`` away, in the folder of a study that was run.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
from PIL import Image

from dpmi.whole_files import replacing

HERE = Path(__file__).parent
SHOWN = {".md", ".csv", ".png", ".toml", ".py"}
PER_CLASS = "per_class.parquet"
"""What else is there, a study keeps to go on from."""
COLORS = 64
"""Curves have few colours, reconstructions are grey."""


def main() -> None:
    """Shrink every study."""
    for page in HERE.glob("*/report.html"):
        page.unlink()
    for path in HERE.glob("*/per_class.csv"):
        table = pd.read_csv(path)
        fractions = table.select_dtypes("float").columns
        with replacing(path.with_name(PER_CLASS)) as new:
            table.astype(dict.fromkeys(fractions, "float32")).to_parquet(
                new, compression="zstd", compression_level=19, index=False
            )
        path.unlink()
    for path in HERE.glob("*/*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            rows = [[_short(cell) for cell in row] for row in csv.reader(file)]
        with replacing(path) as new, new.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    for path in sorted(HERE.glob("*/*.png")):
        with Image.open(path) as picture:
            if picture.mode == "P":  # it was here before
                continue
            small = picture.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
        with replacing(path) as new:
            small.save(new, optimize=True)
    print(f"{sum(path.stat().st_size for path in shown()) / 1e6:.1f} MB")


def shown() -> list[Path]:
    """The files that are passed on."""
    return [path for path in HERE.rglob("*") if path.suffix in SHOWN or path.name == PER_CLASS]


def _short(cell: str) -> str:
    """A number with a fraction in seven digits; all else as it is.

    >>> [_short(cell) for cell in ("0.12345678", "inf", "12345678", "1e10000000", "a.b")]
    ['0.1234568', 'inf', '12345678', '1e10000000', 'a.b']
    """
    if "." not in cell or not cell.lstrip("-")[:1].isdigit():
        return cell
    try:
        return f"{float(cell):.7g}"
    except ValueError:
        return cell


if __name__ == "__main__":
    main()
