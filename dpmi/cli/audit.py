"""``dpmi audit``: test the privacy engine, or a user's own training function."""
# ruff: noqa: PLC0415

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from dpmi.cli.arguments import AsJson, integer, number
from dpmi.cli.output import console

if TYPE_CHECKING:
    from dpmi.privacy.audit.rows import Row


def audit(
    target: Annotated[
        str,
        typer.Argument(
            metavar="engine | FILE.py:function",
            help="engine: a fixed battery of small trainings. FILE.py:function: a training function that takes "
            "nothing and returns its PrivacyEngine.",
        ),
    ],
    canaries: Annotated[
        int, typer.Option(parser=integer, help="Canary buckets in a training function of your own.")
    ] = 200,
    delta: Annotated[
        float, typer.Option(parser=number, help="Delta of the epsilons of your own training function.")
    ] = 1e-5,
    as_json: AsJson = False,
) -> None:
    """Compare what a run claims with what canary buckets measure; exit with 1 if they contradict each other."""
    rows = _engine() if target == "engine" else _own(target, canaries, delta)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        _print(rows)
    if any(row.verdict != "consistent" for row in rows):
        raise typer.Exit(1)


def _engine() -> Sequence[Row]:
    from rich.console import Console
    from rich.progress import Progress

    from dpmi.privacy.audit.battery import BATTERY, audit_engine

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("Training under audit", total=len(BATTERY))
        return audit_engine(
            BATTERY, workers=os.cpu_count() or 1, tell=lambda done: bar.update(task, completed=done)
        )


def _own(target: str, canaries: int, delta: float) -> Sequence[Row]:
    from accountants import checks
    from dpmi.privacy.audit import Audit
    from dpmi.privacy.audit.own_training import audited, load
    from dpmi.privacy.audit.rows import rows

    checks.delta(delta)
    function, settings = load(target), Audit(canaries=canaries)

    def training() -> object:
        try:
            return function()
        except Exception as error:  # of the user's code, of any type
            raise RuntimeError(f"{target} raised {type(error).__name__}: {error}") from error

    engine = audited(training, settings, name=target)
    return rows(target, engine.finding(), delta=delta)


def _print(rows: Sequence[Row]) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    table.add_column("training")
    table.add_column("adjacency")
    for column in ("claimed", "at least", "ceiling", "p"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for row in rows:
        table.add_row(
            row.configuration,
            row.adjacency,
            f"{row.claimed:.2f}",
            f"{row.lower_bound:.2f}",
            f"{row.ceiling:.2f}",
            f"{row.p_value:.2g}",
            row.verdict,
        )
    out = console()
    out.print(table)
    wrong = sum(row.verdict != "consistent" for row in rows) // 2
    trainings = len(rows) // 2
    if wrong:
        out.print(f"{wrong} of {trainings} trainings contradict their ledger: do not rely on its epsilon.")
    else:
        out.print(
            f"Nothing contradicts the ledgers of {trainings} training{'s' if trainings > 1 else ''}. This proves no "
            "promise: a lower bound says only that epsilon is not smaller."
        )
