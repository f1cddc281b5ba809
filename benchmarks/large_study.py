"""Peak memory of a study on many images: it must hardly grow with them.

``python -m benchmarks.large_study``. The images are in a folder of files, 64 x 64 in colour, of many classes: the mean
of a class plus noise. The study has an undefended model, an evaluator, linkage and three attacks. It runs in a process
of its own, with one worker; its peak is that of the resident set. Given two numbers of images, the growth per image is
the difference of the peaks divided by that of the numbers.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from dpmi.data import stored_images
from dpmi.data.lazy import IN_MEMORY
from dpmi.study import Machines, Store, parse
from dpmi.study import run as run_study

from .memory import in_child, peak

SIZE = 64
PUBLIC_CLASSES, PUBLIC_EACH = 20, 140
"""2,800 public images, which are just enough to stay on the disk."""

STUDY = """
name = "large"
seeds = [0]
model = "cnn-compact"
data = {{ folder = "{folder}/private", size = {size}, public = "{folder}/public" }}
training = {{ steps = 100, learning_rate = 0.05, batch_size = 64 }}
evaluator = {{ model = "cnn", classes = "all", training = {{ steps = 100, learning_rate = 0.05 }} }}
attacks = [{{ name = "wiener" }}, {{ name = "label-mean" }}, {{ name = "enhanced", iterations = 20 }}]
defenses = [{{ name = "none" }}]
[linkage]
"""


def run(
    sizes: tuple[int, ...] = (50_000, 100_000),
    classes: int = 200,
    *,
    in_memory: int = IN_MEMORY,
    trimmed: bool = False,
) -> dict[str, float]:
    """Print and return the peaks in MiB, and the growth in bytes per image.

    Args:
        sizes: numbers of images, private and public.
        classes: number of private classes.
        in_memory: most bytes of images that are kept as a tensor.
        trimmed: whether the study returns freed memory to the system at once, for peaks without the noise of malloc.
    """
    print(f"a study on images of {SIZE} x {SIZE} pixels in colour, of {classes} classes\n")
    print("| images | as float32 | files | study | peak memory |")
    print("| --- | --- | --- | --- | --- |")
    peaks = []
    for images in sizes:
        with tempfile.TemporaryDirectory() as folder:
            seconds = [_timed("write", folder, images, classes)]
            started = time.perf_counter()
            peaks.append(in_child("benchmarks.large_study", "study", folder, in_memory, trimmed=trimmed))
            seconds.append(time.perf_counter() - started)
        mib = images * 12 * SIZE**2 / 2**20
        times = " | ".join(f"{each:.0f} s" for each in seconds)
        print(f"| {images:,} | {mib:,.0f} MiB | {times} | {peaks[-1] / 2**20:,.0f} MiB |", flush=True)
    growth = (peaks[-1] - peaks[0]) / (sizes[-1] - sizes[0])
    print(f"\ngrowth: {growth:,.0f} bytes per image, of {12 * SIZE**2:,} as float32")
    return {f"{images}, MiB": each / 2**20 for images, each in zip(sizes, peaks, strict=True)} | {
        "bytes per image": growth
    }


def _timed(function: str, *arguments: object) -> float:
    started = time.perf_counter()
    in_child("benchmarks.large_study", function, *arguments)
    return time.perf_counter() - started


def write(folder: str, images: int, classes: int) -> None:
    """Write private and public images, ``images`` in total."""
    public = min(PUBLIC_CLASSES * PUBLIC_EACH, images // 4)
    _write_part(Path(folder, "public"), public, PUBLIC_CLASSES, seed=1)
    _write_part(Path(folder, "private"), images - public, classes, seed=0)


def _write_part(folder: Path, images: int, classes: int, *, seed: int) -> None:
    generator = np.random.default_rng(seed)
    for label, rows in enumerate(np.array_split(np.arange(images), classes)):
        own = folder / f"class-{label:04}"
        own.mkdir(parents=True)
        mean = np.kron(generator.uniform(0, 1, (8, 8, 3)), np.ones((SIZE // 8, SIZE // 8, 1)))
        for row in rows.tolist():
            noisy = mean + generator.normal(0, 0.1, mean.shape)
            Image.fromarray((255 * noisy.clip(0, 1)).astype(np.uint8)).save(own / f"{row:06}.ppm")


def study(folder: str, in_memory: int) -> int:
    """Run the study, and return the peak of the resident set of this process in bytes."""
    stored_images.IN_MEMORY = in_memory
    text = STUDY.format(folder=folder, size=SIZE)
    with tempfile.TemporaryDirectory() as store:
        failures = run_study(parse(text), Store.create(Path(store), text), machines=Machines(workers=1))
    if failures:
        sys.exit(str(failures))
    return peak()


if __name__ == "__main__":
    run()
