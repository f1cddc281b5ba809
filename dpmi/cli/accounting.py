"""``dpmi epsilon | calibrate | reconstruction-bound``: guarantees of a run, and runs that meet a guarantee."""
# ruff: noqa: PLC0415

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpmi.cli import recorded
from dpmi.cli.arguments import (
    Adjacency,
    AsJson,
    Buckets,
    Delta,
    NoiseMultiplier,
    SamplingRate,
    Steps,
    Unit,
    integer,
    number,
)
from dpmi.cli.output import console

if TYPE_CHECKING:
    from accountants import Accountant, Guarantee
    from accountants.plugins import PluginError


RecordsPerUnit = Annotated[
    int,
    typer.Option(
        parser=integer,
        help="The most separately sampled buckets that one unit owns, such as the records of a user.",
    ),
]


def epsilon(
    *,
    sampling_rate: recorded.SamplingRate = None,
    noise_multiplier: recorded.NoiseMultiplier = None,
    steps: recorded.Steps = None,
    account: recorded.AccountFile = None,
    opacus: recorded.OpacusFile = None,
    delta: Delta,
    unit: recorded.OptionalUnit = None,
    records_per_unit: RecordsPerUnit = 1,
    buckets: Buckets = None,
    accountant: Annotated[str | None, typer.Option(help="Only this accountant; default: all.")] = None,
    as_json: AsJson = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Also plot epsilon by step, delta by epsilon and the trade-off function to this file."
        ),
    ] = None,
) -> None:
    """Print the (epsilon, delta) of a run for one unit, by every accountant and for both adjacencies."""
    run = recorded.run_of(
        sampling_rate=sampling_rate,
        noise_multiplier=noise_multiplier,
        steps=steps,
        account=account,
        opacus=opacus,
    )
    sampled = run.unit(unit, owned=records_per_unit)
    if plot is not None:
        from dpmi.cli import figure_file

        figure_file.check(plot)
        if records_per_unit != 1:
            raise ValueError(
                f"--plot shows units of one bucket, and --records-per-unit is {records_per_unit}"
            )
        run.of_plain_steps("--plot")
    found, unable = _answers(
        run,
        accountant or run.only_accountant,
        delta=delta,
        unit=sampled,
        buckets=buckets,
        buckets_per_unit=records_per_unit,
    )
    if not found:
        raise next(iter(unable.values()))
    for name, reason in unable.items():
        print(f"dpmi: {name} has no answer: {reason}", file=sys.stderr)
    if as_json:
        print(json.dumps([g.to_dict() for g in found], indent=2))
    else:
        _print_guarantees(found)
        for text in run.origin:
            print(f"  {text}")
    if plot is not None:
        from dpmi.report.figures.epsilon import draw

        figure_file.save(draw(run.ledger, delta=delta, unit=sampled), plot)


def _answers(
    run: recorded.Run, accountant: str | None, **request: Any
) -> tuple[list[Guarantee], dict[str, ValueError]]:
    """Return the guarantees by one accountant, or by all that cover such units, and the errors of those that cannot."""
    from accountants import ACCOUNTANTS, ADJACENCIES

    found: list[Guarantee] = []
    unable: dict[str, ValueError] = {}
    for name in _usable(ACCOUNTANTS.all()) if accountant is None else [accountant]:
        if (
            accountant is None
            and request["buckets_per_unit"] > 1
            and not ACCOUNTANTS.get(name).several_buckets
        ):
            continue
        for adjacency in ADJACENCIES:
            try:
                answer = run.guarantee(adjacency=adjacency, accountant=name, **request)
            except ValueError as error:  # another accountant may be able to
                unable[name] = error
            else:
                found.append(answer)
    return found, unable


def _usable(accountants: Mapping[str, Accountant | PluginError]) -> list[str]:
    """Return the names of the accountants; one whose package is broken is named on stderr, and hides no other."""
    for found in accountants.values():
        if isinstance(found, ValueError):
            print(f"dpmi: {found}", file=sys.stderr)
    return [name for name, found in accountants.items() if not isinstance(found, ValueError)]


def calibrate(
    *,
    target_epsilon: Annotated[float, typer.Option(parser=number, help="Upper limit of epsilon, above 0.")],
    delta: Delta,
    unit: Unit,
    sampling_rate: Annotated[
        float | None, typer.Option(parser=number, help="q in (0, 1]; omit it to solve for it.")
    ] = None,
    noise_multiplier: Annotated[
        float | None, typer.Option(parser=number, help="sigma > 0; omit it to solve for it.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(parser=integer, help="T >= 1; omit it to solve for it.")
    ] = None,
    adjacency: Adjacency = "replace",
    records_per_unit: RecordsPerUnit = 1,
    buckets: Buckets = None,
    as_json: AsJson = False,
) -> None:
    """Solve for the noise multiplier, the steps or the sampling rate that meets a target epsilon; omit that option."""
    from accountants import calibrate as solve
    from accountants import checks

    found = solve(
        target_epsilon=target_epsilon,
        delta=delta,
        unit=unit,
        sampling_rate=sampling_rate,
        noise_multiplier=noise_multiplier,
        steps=steps,
        adjacency=checks.adjacency(adjacency),
        buckets=buckets,
        buckets_per_unit=records_per_unit,
    )
    if as_json:
        print(json.dumps(found.to_dict(), indent=2))
        return
    values = {
        "noise_multiplier": found.mechanism.noise_multiplier,
        "sampling_rate": found.mechanism.sampling_rate,
        "steps": found.steps,
    }
    # All digits: a rounded value could exceed the target epsilon.
    print(f"{found.solved_for} = {values.pop(found.solved_for)}")
    print("with " + ", ".join(f"{name} = {value:g}" for name, value in values.items()))
    print(found.guarantee)


def reconstruction_bound(
    *,
    sampling_rate: SamplingRate,
    noise_multiplier: NoiseMultiplier,
    steps: Steps,
    unit: Unit,
    prior: Annotated[
        list[float],
        typer.Option(
            parser=number,
            help="Probability of success without the bucket, in [0, 1]; may be repeated.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Bound the probability that any attack reconstructs one bucket, given its probability without that bucket."""
    from rich.table import Table

    from accountants import BucketMechanism, Ledger, checks
    from accountants import reconstruction_bound as bound

    checks.unit(unit)
    mechanism = BucketMechanism(sampling_rate=sampling_rate, noise_multiplier=noise_multiplier)
    ledger = Ledger().record(mechanism, steps)
    found = zip(prior, bound(ledger, prior).tolist(), strict=True)
    if as_json:
        rows = [{"unit": unit, "steps": steps, "prior": kappa, "bound": value} for kappa, value in found]
        print(json.dumps(rows, indent=2))
        return
    table = Table(f"probability without the {unit}", "at most with it", box=None)
    for kappa, value in found:
        table.add_row(f"{kappa:g}", _rounded_up(value))
    console().print(table)
    print(
        f"  For any attack and any criterion of success; one {unit} present or absent, after {steps} steps "
        "(Hayes, Mahloujifar, Balle 2023; accountant: tight)."
    )


def _rounded_up(share: float) -> str:
    """Return a bound in [0, 1] with four decimals, or three digits where it is smaller, rounded up.

    >>> _rounded_up(0.71714), _rounded_up(0.000123456), _rounded_up(0.0)
    ('0.7172', '1.24e-04', '0')
    """
    if share == 0:
        return "0"
    if share >= 1e-3:
        return f"{math.ceil(share * 1e4) / 1e4:.4f}"
    scale = 10.0 ** (2 - math.floor(math.log10(share)))
    return f"{math.ceil(share * scale) / scale:.2e}"


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
