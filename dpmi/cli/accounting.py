"""``dpmi epsilon``: what a run promises."""
# ruff: noqa: PLC0415

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dpmi.cli.arguments import AsJson, Delta, NoiseMultiplier, SamplingRate, Steps, Unit
from dpmi.cli.output import console

if TYPE_CHECKING:
    from accountants import Guarantee


def epsilon(
    *,
    sampling_rate: SamplingRate,
    noise_multiplier: NoiseMultiplier,
    steps: Steps,
    delta: Delta,
    unit: Unit,
    as_json: AsJson = False,
) -> None:
    """What (epsilon, delta) a run promises to one bucket, by every accountant and both adjacencies."""
    from accountants import ACCOUNTANTS, ADJACENCIES, BucketMechanism, Ledger

    ledger = Ledger().record(
        BucketMechanism(sampling_rate=sampling_rate, noise_multiplier=noise_multiplier), steps
    )
    found = [
        ledger.guarantee(delta=delta, unit=unit, adjacency=adjacency, accountant=accountant)
        for accountant in ACCOUNTANTS
        for adjacency in ADJACENCIES
    ]
    if as_json:
        print(json.dumps([g.to_dict() for g in found], indent=2))
    else:
        _print_guarantees(found)


def _print_guarantees(found: list[Guarantee]) -> None:
    from rich.table import Table

    from accountants.guarantee import rounded_up

    table = Table("accountant", "adjacency", "unit", "epsilon", "delta", "is it a guarantee?", box=None)
    for g in found:
        table.add_row(
            g.accountant,
            g.adjacency,
            g.unit,
            rounded_up(g.epsilon),
            f"{g.delta:g}",
            "yes" if g.is_guarantee else "no",
        )
    console().print(table)
    for g in found:
        for c in g.conditions:
            holds = "holds" if c.holds else "FAILS"
            print(f"  {g.accountant}, {g.adjacency}: needs {c.statement}: {holds} ({c.detail})")
    for caveat in dict.fromkeys(f"{g.accountant}: {caveat}" for g in found for caveat in g.caveats):
        print(f"  {caveat}")
