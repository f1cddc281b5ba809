"""``dpmi explain``: the epsilons of one run by every accountant, and which of them are bounds."""
# ruff: noqa: PLC0415

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING

from dpmi.cli.arguments import AsJson, Buckets, Delta
from dpmi.cli.output import console
from dpmi.cli.recorded import (
    AccountFile,
    NoiseMultiplier,
    OpacusFile,
    OptionalUnit,
    SamplingRate,
    Steps,
    run_of,
)

if TYPE_CHECKING:
    from accountants.explanation import Explanation


def explain(
    *,
    sampling_rate: SamplingRate = None,
    noise_multiplier: NoiseMultiplier = None,
    steps: Steps = None,
    account: AccountFile = None,
    opacus: OpacusFile = None,
    delta: Delta,
    unit: OptionalUnit = None,
    buckets: Buckets = None,
    as_json: AsJson = False,
) -> None:
    """Explain which epsilons of a run are valid bounds and why, and which one to state."""
    from accountants.explanation import explain_ledger

    run = run_of(
        sampling_rate=sampling_rate,
        noise_multiplier=noise_multiplier,
        steps=steps,
        account=account,
        opacus=opacus,
    )
    rows = explain_ledger(
        run.of_plain_steps("dpmi explain"), delta=delta, unit=run.unit(unit), buckets=buckets
    )
    if as_json:
        print(json.dumps([row.to_dict() for row in rows], indent=2))
    else:
        _print(rows, run.caveats)


def _print(rows: tuple[Explanation, ...], caveats: tuple[str, ...]) -> None:
    from rich.table import Table

    from accountants.guarantee import rounded_up
    from accountants.profile import MU_SLACK

    table = Table(
        "", "accountant", "adjacency", "unit", "epsilon", "delta", "steps", "is it a bound?", box=None
    )
    for number, row in enumerate(rows, start=1):
        verdict = "yes, the smallest" if row.is_smallest else "yes" if row.is_bound else "no"
        table.add_row(
            str(number),
            row.accountant,
            row.adjacency,
            row.unit,
            "-" if row.epsilon is None else rounded_up(row.epsilon),
            f"{row.delta:g}",
            str(row.steps),
            "-" if row.epsilon is None else verdict,
        )
    out = console()
    out.print(table)
    notes = [
        f"{number:>2} {row.accountant}, {row.adjacency}: {row.reason}"
        for number, row in enumerate(rows, start=1)
    ]
    mus = [f"{rounded_up(row.mu)} ({row.adjacency})" for row in rows if row.mu is not None]
    if mus:
        notes.append(
            f"   Gaussian DP: mu = {', '.join(mus)}, but for a failure of probability {MU_SLACK:g} (accountant: tight)"
        )
    for row in rows:
        if row.is_smallest and row.epsilon is not None:
            change = "replaced" if row.adjacency == "replace" else "added or removed (a weaker guarantee)"
            notes.append(
                f"   To state: epsilon = {rounded_up(row.epsilon)} ({row.accountant}) at delta = {row.delta:g}, "
                f"one {row.unit} {change}, {row.steps} steps"
            )
    for note in [*notes, *(f"   But: {text}" for text in caveats)]:
        # A file or a pipe gets one unwrapped line per note.
        print(textwrap.fill(note, out.width, subsequent_indent="   ") if out.is_terminal else note)
