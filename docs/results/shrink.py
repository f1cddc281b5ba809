"""Leave in this folder what a reader looks at: tables, summaries, and pictures with a palette.

``python docs/results/shrink.py`` is the last step of ``make results``. The tables are Parquet files, a fifth to a tenth
of the CSV; the one with a row per trial and class has single precision. The page with everything in it is one
``dpmi report`` away, in the folder of a study that was run.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from PIL import Image

from dpmi.whole_files import replacing

HERE = Path(__file__).parent
SHOWN = {".md", ".parquet", ".png", ".toml", ".py"}
"""What else is there, a study keeps to go on from."""
TABLES = ("trials", "per_class")
COLORS = 32
"""Curves have few colours, reconstructions are grey."""
WIDEST = 2000
"""Pixels; wider pictures are halved."""
FACES = ("att-faces", "faces94", "gt-faces")
"""Data sets that show real people, whose pictures are not passed on."""
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
        table = pd.read_csv(path)
        fractions = table.select_dtypes("float").columns if path.stem == "per_class" else ()
        with replacing(path.with_suffix(".parquet")) as new:
            table.astype(dict.fromkeys(fractions, "float32")).to_parquet(
                new, compression="zstd", compression_level=19, index=False
            )
        path.unlink()
    for path in sorted(HERE.glob("*/*.png")):
        with Image.open(path) as picture:
            if picture.mode == "P":  # it was here before
                continue
            whole = picture.convert("RGB")
        _save(whole, path)
        if path == FIRST:  # the part of the first attack, for the README
            _save(whole.crop((0, 0, whole.width, whole.height // ATTACKS)), HERE / "linkage.png")
    print(f"{sum(path.stat().st_size for path in shown()) / 1e6:.1f} MB")


def _save(picture: Image.Image, path: Path) -> None:
    small = picture.reduce(2) if picture.width > WIDEST else picture
    with replacing(path) as new:
        small.quantize(COLORS, dither=Image.Dither.NONE).save(new, optimize=True)


def shows_people(trials: Path) -> bool:
    """Whether the pictures of a study show real people."""
    table = pd.read_csv(trials) if trials.suffix == ".csv" else pd.read_parquet(trials, columns=["data"])
    return bool(table["data"].isin(FACES).any())


def shown() -> list[Path]:
    """The files that are passed on."""
    return [path for path in HERE.rglob("*") if path.suffix in SHOWN]


if __name__ == "__main__":
    main()
