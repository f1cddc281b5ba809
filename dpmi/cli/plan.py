"""``dpmi plan``: noise and number of buckets for a target epsilon, before any training."""
# ruff: noqa: PLC0415

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from dpmi.cli import figure_file
from dpmi.cli.arguments import Adjacency, AsJson, Delta, integer, number
from dpmi.cli.output import console

if TYPE_CHECKING:
    from accountants.planner import PlanRow, PlanTable
    from accountants.recommender import Recommendation
    from accountants.verdict import Verdict

PARAMETERS = 10_000
"""Default number of parameters: a small convolutional network."""

Value = TypeVar("Value")


def plan(
    *,
    epsilon: Annotated[float, typer.Option(parser=number, help="Target epsilon > 0 of one bucket.")],
    delta: Delta,
    recommend: Annotated[
        bool,
        typer.Option(
            "--recommend",
            help="Print settings, which need no tuning, of a linear head on public features; with --units.",
        ),
    ] = False,
    units: Annotated[
        int | None,
        typer.Option(parser=integer, help="Number of units (users, subclasses, records) for --recommend."),
    ] = None,
    records_per_unit: Annotated[
        float | None,
        typer.Option(
            parser=number,
            help="About how many records a unit has; 1 if they are of one class. For --recommend.",
        ),
    ] = None,
    classes: Annotated[
        int | None, typer.Option(parser=integer, help="Number of classes, for --recommend; default: 10.")
    ] = None,
    class_sizes: Annotated[
        str | None, typer.Option(help="Records per class, such as 6000,6000,5400.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Alternative to --class-sizes: a file of labels, .txt (one per line), .csv or .npy."
        ),
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Label column of a .csv file with several columns.")
    ] = None,
    parameters: Annotated[
        int | None,
        typer.Option(
            parser=integer, help=f"Number of trained parameters of the model; default: {PARAMETERS:,}."
        ),
    ] = None,
    clusters_per_class: Annotated[
        str | None, typer.Option(help="Values such as 1,10,50; 1 is class-level DP. Default: 1 to 100.")
    ] = None,
    sampling_rate: Annotated[
        str | None, typer.Option(help="Values of q in (0, 1], such as 0.3,0.5. Default: 0.05,0.1,0.2.")
    ] = None,
    steps: Annotated[str | None, typer.Option(help="Values such as 200,1000. Default: 200,1000.")] = None,
    adjacency: Adjacency = "replace",
    all_rows: Annotated[
        bool,
        typer.Option("--all", help="Print every combination, not only the best one per number of clusters."),
    ] = False,
    as_json: AsJson = False,
    plot: Annotated[
        Path | None, typer.Option(help="Also plot the table to this .png, .svg or .pdf file.")
    ] = None,
) -> None:
    """Print the noise for a target epsilon, whether a model can learn with it, and how many subclasses are needed."""
    if not recommend and (units, records_per_unit, classes) != (None,) * 3:
        raise ValueError("--units, --records-per-unit and --classes are for --recommend only")
    if recommend:
        from accountants import checks
        from accountants.recommender import recommend as chosen_settings

        if units is None or records_per_unit is None:
            raise ValueError(
                "--recommend needs --units, the number of users, subclasses or records, and --records-per-unit, about "
                "how many records each of them has"
            )
        if (class_sizes, labels, column, parameters, clusters_per_class, sampling_rate, steps, plot) != (
            None,
        ) * 8:
            raise ValueError(
                "--recommend takes --epsilon, --delta, --units, --records-per-unit, --classes, --adjacency and --json "
                "only: it chooses the rest"
            )
        settings = chosen_settings(
            units=units,
            records_per_unit=records_per_unit,
            classes=10 if classes is None else classes,
            target_epsilon=epsilon,
            delta=delta,
            adjacency=checks.adjacency(adjacency),
        )
        _print_settings(settings, as_json=as_json)
        return
    if plot is not None:
        figure_file.check(plot)
    sizes = _sizes(class_sizes, labels, column)
    chosen: dict[str, Any] = {}
    if clusters_per_class is not None:
        chosen["clusters_per_class"] = _values("--clusters-per-class", clusters_per_class, integer)
    if sampling_rate is not None:
        chosen["sampling_rates"] = _values("--sampling-rate", sampling_rate, number)
    if steps is not None:
        chosen["steps"] = _values("--steps", steps, integer)

    from rich.console import Console
    from rich.progress import Progress

    from accountants import checks
    from accountants.planner import plan as tabulate
    from accountants.verdict import verdict

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("calibrating")
        table = tabulate(
            sizes,
            target_epsilon=epsilon,
            delta=delta,
            parameters=PARAMETERS if parameters is None else parameters,
            adjacency=checks.adjacency(adjacency),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            **chosen,
        )
    found = verdict(table)
    if plot is not None:
        from dpmi.report.figures.plan import draw

        figure_file.save(draw(table), plot)
    if as_json:
        print(json.dumps(_as_json(table, found), indent=2))
    else:
        assumed = " (assumed; set --parameters)" if parameters is None else ""
        _print(table, table.rows if all_rows else table.best, found, assumed)


def _print_settings(found: Recommendation, *, as_json: bool) -> None:
    from accountants.guarantee import rounded_up
    from accountants.recommender import HOPELESS
    from accountants.verdict import readable

    enough = found.fewest_units if found.hopeless else None
    # Imports torch.
    from dpmi.models.features.simulation import on_digits

    expected = on_digits(found)
    if as_json:
        document = {**found.to_dict(), "accuracy_on_digits": expected, "fewest_units": enough}
        print(json.dumps(document, indent=2))
        return
    out = console()
    told = found.guarantee
    out.print(
        f"A linear head from zero on public features of length 3, and {found.units:,} units: epsilon "
        f"{rounded_up(told.epsilon)} for one unit (delta = {told.delta:g}, {told.adjacency}, accountant "
        f"{told.accountant}).\n"
    )
    for name, value in (
        ("sampling_rate", f"{found.sampling_rate:g}"),
        ("steps", f"{found.steps}"),
        ("noise_multiplier", f"{found.noise_multiplier:.6g}"),
        ("max_grad_norm", f"{found.max_grad_norm:g}"),
        ("learning_rate", f"{found.learning_rate:.4g}  (plain SGD, no momentum, constant)"),
    ):
        out.print(f"  {name:<17}{value}")
    out.print(
        f"\n- Noise of the whole training, relative to the mean of the clipped gradients: {readable(found.noise)}."
    )
    out.print(
        f"- With as much noise, a head on the digits inside scikit-learn classifies {expected:.1%} of held-out digits "
        f"(a simulation; without noise {on_digits(None):.1%})."
    )
    if enough is not None:
        out.print(
            f"- Hopeless: above {HOPELESS:g}, a head learns little. It would take {enough:,} units at this epsilon, or "
            "a larger epsilon."
        )


def _values(option: str, text: str, read: Callable[[str], Value]) -> list[Value]:
    try:
        return [read(part.strip()) for part in text.split(",")]
    except typer.BadParameter as error:
        raise ValueError(f"{option} is {text!r}: {error.message}; separate values with commas") from None


def _sizes(
    class_sizes: str | None, labels: Path | None, column: str | None
) -> Mapping[str, int] | Sequence[int]:
    if (class_sizes is None) == (labels is None):
        raise ValueError(
            "give exactly one of --class-sizes (records per class) and --labels (a file of labels)"
        )
    if labels is not None:
        from dpmi.cli.labels import class_sizes as count

        return count(labels, column=column)
    if column is not None:
        raise ValueError(f"--column is {column!r}, but only a --labels file has columns")
    return _values("--class-sizes", class_sizes or "", integer)


def _as_json(table: PlanTable, found: Verdict) -> dict[str, Any]:
    from accountants.verdict import rating

    def row(plan: PlanRow) -> dict[str, Any]:
        return {**plan.to_dict(), "rating": rating(plan.noise_norm)}

    return {
        "target_epsilon": table.target_epsilon,
        "delta": table.delta,
        "adjacency": table.adjacency,
        "parameters": table.parameters,
        "class_sizes": dict(table.class_sizes),
        "rows": [row(plan) for plan in table.rows],
        "class_level": row(found.class_level),
        "rescue": None if found.rescue is None else row(found.rescue),
        "verdict": list(found.sentences),
    }


def _print(table: PlanTable, rows: Sequence[PlanRow], found: Verdict, assumed: str) -> None:
    from rich.table import Table

    from accountants.guarantee import rounded_up
    from accountants.verdict import rating, readable

    told = table.best_setting.guarantee
    # Fits into 100 columns.
    lines = Table(box=None, pad_edge=False, collapse_padding=True)
    lines.add_column("unit")
    for name in ("per\nclass", "buckets\nK", "q", "steps", "sigma", "epsilon", "noise per\ncoordinate"):
        lines.add_column(name, justify="right")
    for name in ("noise\nnorm", "empty\ndraw", "records\na step", "passes"):
        lines.add_column(name, justify="right")
    lines.add_column("")
    for row in rows:
        lines.add_row(
            row.guarantee.unit,
            f"{row.clusters_per_class}",
            f"{row.buckets}",
            f"{row.mechanism.sampling_rate:g}",
            f"{row.steps}",
            readable(row.mechanism.noise_multiplier),
            rounded_up(row.guarantee.epsilon),
            readable(row.noise_to_signal),
            readable(row.noise_norm),
            "<0.1%" if row.empty_draw < 0.001 else f"{row.empty_draw:.1%}",
            f"{row.records_per_step:.0f}",
            f"{row.passes:g}",
            rating(row.noise_norm),
        )
    out = console()
    out.print(
        f"{len(table.class_sizes):,} classes, {sum(table.class_sizes.values()):,} records; a model with "
        f"{table.parameters:,} parameters{assumed}.\n"
        f"Every row: epsilon at most {table.target_epsilon:g} for one unit (delta = {table.delta:g}, "
        f"{told.adjacency}, accountant {told.accountant}).\n"
    )
    out.print(lines)
    out.print(
        "\nnoise per coordinate: sigma / (qK); noise norm: sigma sqrt(parameters) / (qK). Both are in units of the "
        "clip norm, which is the maximum norm of the signal.\n"
    )
    for sentence in found.sentences:
        out.print(f"- {sentence}")
