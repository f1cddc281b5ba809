"""Options that several commands share, each read and explained in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def number(text: str) -> float:
    """Typer's own message does not say which value it could not read."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def integer(text: str) -> int:
    """As :func:`number`."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not an integer") from None


def check_workers(workers: int | None) -> None:
    """Refuse fewer than one."""
    if workers is not None and workers < 1:
        raise ValueError(f"--workers is {workers}; it must be at least 1")


SamplingRate = Annotated[
    float, typer.Option(parser=number, help="q in (0, 1]: probability of drawing one bucket.")
]
NoiseMultiplier = Annotated[float, typer.Option(parser=number, help="sigma >= 0: noise std / max_grad_norm.")]
Steps = Annotated[int, typer.Option(parser=integer, help="Number of logical steps T >= 0.")]
Delta = Annotated[float, typer.Option(parser=number, help="delta in (0, 1).")]
Unit = Annotated[str, typer.Option(help="What one bucket is: class, subclass, record, user, ...")]
Adjacency = Annotated[str, typer.Option(help="replace or add_remove one bucket.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")]

DataRoot = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        file_okay=False,
        help="Folder that holds the data sets; default: the environment variable DPMI_DATA.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(parser=integer, help="Models to train and attack at a time; default: one per core."),
]
Executor = Annotated[
    str,
    typer.Option(
        help="local: processes of this machine. ray: a Ray cluster, the one that RAY_ADDRESS names or "
        "that runs here, else one is started. All its machines must see --out and the data root, "
        "under the same paths."
    ),
]
Replace = Annotated[
    bool, typer.Option("--replace", help="Delete another study that has the folder; else that is an error.")
]
