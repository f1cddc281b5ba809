"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def number(text: str) -> float:
    """Parse a float; unlike typer's own message, the error names the value."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def integer(text: str) -> int:
    """Parse an int, as :func:`number`."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not an integer") from None


def check_workers(workers: int | None) -> None:
    """Raise ValueError for fewer than one worker."""
    if workers is not None and workers < 1:
        raise ValueError(f"--workers is {workers}; it must be at least 1")


SamplingRate = Annotated[
    float, typer.Option(parser=number, help="q in (0, 1]: probability of drawing one bucket in a step.")
]
NoiseMultiplier = Annotated[
    float, typer.Option(parser=number, help="sigma >= 0: noise standard deviation / max_grad_norm.")
]
Steps = Annotated[int, typer.Option(parser=integer, help="Number of logical steps T >= 0.")]
Delta = Annotated[float, typer.Option(parser=number, help="delta in (0, 1).")]
Unit = Annotated[
    str, typer.Option(help="Unit of privacy, what one bucket is: class, subclass, record, user, ...")
]
Adjacency = Annotated[str, typer.Option(help="replace or add_remove (one bucket).")]
Buckets = Annotated[
    int | None, typer.Option(parser=integer, help="Number of buckets K; warns if delta is not below 1/K.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

DataRoot = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        file_okay=False,
        help="Folder of the data sets; default: the environment variable DPMI_DATA.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        parser=integer, help="Number of models to train and attack in parallel; default: one per core."
    ),
]
Executor = Annotated[
    str,
    typer.Option(
        help="local: processes of this machine. ray: the Ray cluster that RAY_ADDRESS names or that runs on this "
        "machine; if there is none, a new one. All its machines must see --out and the data root under the same paths."
    ),
]
Replace = Annotated[
    bool,
    typer.Option(
        "--replace",
        help="Delete the content of a folder that belongs to another study; without it, this is an error.",
    ),
]
