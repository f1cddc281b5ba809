"""Audits: the bounds on ideal scores, the bounds on the engine, and what an audit costs.

Three parts. On scores of an ideal Gaussian mechanism, the bounds of one run beside the sharp estimate. On the engine,
50 trainings with 1,000 canaries: how often a lower bound exceeds the claim, and how near it comes. And the time of a
step with 200 canaries, divided by that without, in turns. ``python -m benchmarks.audit false-alarms`` audits a thousand
trainings of the engine as it is, and counts small p-values (ten minutes).
"""

from __future__ import annotations

import itertools
import math
import os
import statistics
import sys
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import Partition, PrivacyEngine
from dpmi.privacy.audit import Audit, Scores, counted, counted_fdp, gaussian, order_statistics
from dpmi.privacy.audit.aligned import Measured
from dpmi.privacy.audit.battery import BATTERY, DELTA, audit_engine, examine
from dpmi.privacy.audit.one_run import gdp_mu
from dpmi.privacy.audit.trainings import Configuration

from .in_turns import in_turns

IDEAL = ((1000, 8.0), (1000, 4.0), (100, 8.0))
RUNS = 20
COORDINATES = 100_000
"""Dimensions of the ideal releases."""

RATES = (0.02, 0.05, 0.1, 0.3, 1.0)
KINDS = tuple(itertools.product(("stream", "hooks", "ghost"), ("class", "subclass", "user")))
SINGLE = 10
TRAININGS = 50
PAIRS = 60
ROUNDS = 1000
"""Audited trainings of the count of false alarms."""


def run() -> dict[str, float]:
    """Print all parts, and return the numbers with a limit."""
    return {**ideal(), **engine(), **cost()}


def ideal() -> dict[str, float]:
    """Lower bounds on scores of one release of the Gaussian mechanism, add/remove; means of ``RUNS`` runs."""
    columns = ("Steinke", "f-DP", "GDP fit", "order statistics", "aligned")
    print(f"\nIdeal scores, delta {DELTA}, mean of {RUNS} runs\n")
    print(f"| canaries | epsilon | {' | '.join(columns)} |\n| --- | --- |{' --- |' * len(columns)}")
    numbers = {}
    for canaries, epsilon in IDEAL:
        found = np.array([_bounds(canaries, gdp_mu(epsilon, DELTA), seed) for seed in range(RUNS)]).mean(0)
        print(f"| {canaries} | {epsilon:g} | " + " | ".join(f"{value:.2f}" for value in found) + " |")
        numbers[f"aligned, {canaries} canaries, epsilon {epsilon:g}"] = float(found[-1])
    return numbers


def _bounds(canaries: int, mu: float, seed: int) -> list[float]:
    generator = np.random.default_rng(seed)
    coins = np.arange(canaries) % 2 == 0
    values = generator.normal(size=canaries) + mu * coins
    scores = Scores.of(values, coins)
    # All canaries of the sharp estimate have a direction or its opposite, as half of those of a run have.
    freedom = COORDINATES - canaries
    measured = Measured(
        steps=1,
        squares=float(generator.chisquare(freedom)) / mu**2,
        freedom=freedom,
        contributions=canaries + math.sqrt(canaries) / mu * float(generator.normal()),
        pairs=canaries,
        draws=canaries,
        chances=canaries,
    )
    return [
        *(bound(scores, delta=DELTA) for bound in (counted, counted_fdp, gaussian, order_statistics)),
        measured.estimate(0.95).epsilon(DELTA, "add_remove"),
    ]


def engine() -> dict[str, float]:
    """Lower bounds of 50 trainings with 1,000 canaries, as shares of their claims."""
    shares: dict[str, list[float]] = {"composed": [], "single": []}
    above = 0
    for configuration in _configurations():
        rows = audit_engine([configuration])
        shares["single" if configuration.steps == 1 else "composed"] += [
            row.lower_bound / row.claimed for row in rows
        ]
        above += sum(row.lower_bound > row.claimed for row in rows)
        print(
            f"{configuration}: "
            + ", ".join(f"{row.adjacency} {row.lower_bound:.2f} of {row.claimed:.2f}" for row in rows),
            flush=True,
        )
    print(
        f"\n{TRAININGS} trainings with 1,000 canaries, {2 * TRAININGS} bounds at 95 % confidence: "
        f"{above} above the claim"
    )
    numbers: dict[str, float] = {"bounds above the claim": above}
    for name, values in shares.items():
        numbers[f"median share of the claim, {name}"] = statistics.median(values)
        print(f"{name}: median {statistics.median(values):.3f} of the claim, least {min(values):.3f}")
    return numbers


def _configurations() -> Iterator[Configuration]:
    """Yield trainings with rates from 0.02 to 1, every strategy and partition, and ten single steps."""
    kinds = itertools.cycle(KINDS)
    for i in range(TRAININGS):
        strategy, partition = next(kinds)
        single = i < SINGLE
        rate = 1.0 if single else RATES[i % len(RATES)]
        steps = 1 if single else min(400, max(10, round(20 / rate)))
        # About epsilon 4 to 12 for one bucket replaced.
        noise = (
            (1.5 + 0.1 * i)
            if single
            else (0.9 + 1.8 * rate + 1.2 * rate * math.sqrt(steps) * (0.5 + i / TRAININGS))
        )
        yield Configuration(
            strategy=strategy,  # type: ignore[arg-type]
            partition=partition,  # type: ignore[arg-type]
            network="wide",
            sampling_rate=rate,
            noise_multiplier=round(noise, 2),
            steps=steps,
            canaries=1000,
        )


def cost() -> dict[str, float]:
    """Time of a step with 200 canaries and a million parameters, divided by that without, in turns.

    All users and canaries take part in every step, so that both trainings do the same work.
    """
    x, y = torch.rand(400, 1, 28, 28), torch.arange(400) % 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pairs = in_turns(_step(x, y, Audit(canaries=200)), _step(x, y, None), PAIRS)
    ratios = [audited / plain for audited, plain in pairs]
    print(
        f"\nstep with an audit / without: median of {PAIRS} pairs {statistics.median(ratios):.3f} (limit 1.05)"
    )
    return {"step with an audit / without": statistics.median(ratios)}


def _step(x: torch.Tensor, y: torch.Tensor, audit: Audit | None) -> Iterator[None]:
    """Train an MNIST network of 1.2 million parameters by 10 users of 40 records, one step at a time."""
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 100),
    )  # fmt: skip
    module, optimizer, loader = PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(TensorDataset(x, y)),
        partition=Partition.by_class(y.numpy()),
        sampling_rate=1.0,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        steps_per_epoch=10_000,
        audit=audit,
        seed=0,
    )
    for inputs, labels in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(inputs), labels).backward()
        optimizer.step()
        if optimizer.released:
            yield


def false_alarms(trainings: int = ROUNDS) -> dict[str, float]:
    """Audit the trainings of the battery with one process again and again, and count the small p-values."""
    chosen = [configuration for configuration in BATTERY if configuration.ranks == 1]
    many = [chosen[i % len(chosen)] for i in range(trainings)]
    counts = dict.fromkeys((1e-4, 1e-3, 1e-2, 0.1), 0)
    workers = os.cpu_count() or 1
    for done, (_, finding) in enumerate(examine(many, workers=workers), start=1):
        for level in counts:
            counts[level] += finding.p_value < level
        if done % 100 == 0:
            found = ", ".join(f"below {level:g} in {count}" for level, count in counts.items())
            print(f"{done} audited trainings, p {found}", flush=True)
    return {f"trainings with p below {level:g}": count for level, count in counts.items()}


if __name__ == "__main__":
    if sys.argv[1:] == ["false-alarms"]:
        false_alarms()
    else:
        run()
