"""``dpmi layers``: layers on which classification and inversion depend."""
# ruff: noqa: PLC0415

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpmi.cli.arguments import DataRoot
from dpmi.cli.output import console

if TYPE_CHECKING:
    import pandas as pd


def layers(
    directory: Annotated[Path, typer.Argument(help="Folder of a finished or interrupted study.")],
    trial: Annotated[
        str | None, typer.Option(help="Id of a single trial, as in trials.csv; default: all trials.")
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Measure which layers matter for classification and which for inversion; write layers.png and layers.csv."""
    from rich.console import Console
    from rich.progress import Progress

    from dpmi.report.numbers.layers import mean_shares
    from dpmi.report.write import write_layers
    from dpmi.study import Store, parse
    from dpmi.study.layer_information import finished, layer_information

    store = Store.open(directory)
    trials = finished(parse(store.spec_text), store, trial)
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("Fisher information")
        table = layer_information(
            trials,
            store,
            root=None if data_root is None else str(data_root),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    _print(mean_shares(table))
    print(f"figure: {write_layers(table, directory if trial is None else directory / 'trials' / trial)}")


def _print(shares: pd.DataFrame) -> None:
    from rich.table import Table

    from dpmi.report.numbers.tables import rows_of

    table = Table(box=None, header_style="bold")
    for column in ("defence", "attack", "layer", "kind"):
        table.add_column(column)
    for column in ("parameters", "classification", "inversion"):
        table.add_column(column, justify="right")
    for row in rows_of(shares):
        table.add_row(
            row.label,
            row.attack,
            row.layer,
            row.kind,
            f"{row.parameters:,}",
            f"{row.classification:.1%}",
            f"{row.inversion:.1%}",
        )
    console().print(table)
