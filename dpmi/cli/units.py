"""``dpmi units``: what one DP-SGD run promises a record, a user and a class."""
# ruff: noqa: PLC0415

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from dpmi.cli.arguments import AsJson, Delta, integer
from dpmi.cli.output import console
from dpmi.cli.recorded import AccountFile, NoiseMultiplier, OpacusFile, SamplingRate, Steps, run_of

if TYPE_CHECKING:
    from accountants.units import UnitRow


def units(
    *,
    sampling_rate: SamplingRate = None,
    noise_multiplier: NoiseMultiplier = None,
    steps: Steps = None,
    account: AccountFile = None,
    opacus: OpacusFile = None,
    delta: Delta,
    records_per_unit: Annotated[
        list[str],
        typer.Option(help="A unit and the most records that one owns, such as user=10; may be repeated."),
    ],
    as_json: AsJson = False,
) -> None:
    """Print what a run of any DP-SGD that samples records promises larger units, such as users and classes."""
    from accountants.units import unit_table

    run = run_of(
        sampling_rate=sampling_rate,
        noise_multiplier=noise_multiplier,
        steps=steps,
        account=account,
        opacus=opacus,
    )
    units_of = {run.sampled or "record": 1, **counts(records_per_unit)}
    rows = unit_table(run.of_plain_steps("dpmi units"), records_per_unit=units_of, delta=delta)
    if as_json:
        print(json.dumps([row.to_dict() for row in rows], indent=2))
    else:
        _print(rows, delta)
        for text in run.caveats:
            print(f"  But: {text}")


def counts(given: Sequence[str]) -> dict[str, int]:
    """Parse the values of --records-per-unit: unit -> number of records."""
    found: dict[str, int] = {}
    for text in given:
        unit, separator, count = text.rpartition("=")
        if not separator or not unit:
            raise ValueError(
                f"--records-per-unit is {text!r}; give a unit and a number of records, such as user=10"
            )
        if unit in found:
            raise ValueError(f"--records-per-unit gives {unit!r} twice; give every unit once")
        found[unit] = integer(count)
    return found


def _print(rows: Sequence[UnitRow], delta: float) -> None:
    from rich.table import Table

    from accountants.guarantee import rounded_up

    table = Table(box=None)
    table.add_column("one\nunit")
    table.add_column("records\nat most", justify="right")
    for name in ("run as it is\nreplace", "\nadd_remove", "unit is the bucket\nreplace", "\nadd_remove"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.unit,
            f"{row.records:,}",
            *(rounded_up(found.epsilon) for found in row.sampled_by_record.values()),
            *(rounded_up(found.epsilon) for found in row.as_bucket.values()),
        )
    console().print(table)
    print(
        f"  epsilon at delta = {delta:g}, accountant tight. Run as it is: every record is sampled and clipped by "
        "itself. Unit is the\n  bucket: the same noise, sampling rate and steps, with all records of a unit drawn "
        "together and their mean gradient\n  clipped, as dpmi's engine does."
    )
