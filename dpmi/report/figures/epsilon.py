"""The plot of ``dpmi epsilon --plot``: epsilon by step, privacy profile and trade-off function of one run."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from accountants import ADJACENCIES, Adjacency, Ledger, PrivacyProfile, epsilon_curve
from accountants.mechanism import poisson
from dpmi.report.figures.style import DPI, INK, PALETTE, RULE

LINES: dict[Adjacency, tuple[str, str, str]] = {
    "replace": (PALETTE[0], "-", "one {} replaced"),
    "add_remove": (PALETTE[1], (0, (4, 2)), "one {} added or removed"),  # type: ignore[dict-item]
}
MOST_STEPS = 100_000
"""Maximum number of steps; more take too long to draw."""


def draw(ledger: Ledger, *, delta: float, unit: str) -> Figure:
    """Draw epsilon by step, delta by epsilon, and the trade-off function of a run with one mechanism.

    Raises:
        ValueError: the run has no steps, no noise, or more steps than `MOST_STEPS`.
    """
    if ledger.steps == 0 or ledger.steps > MOST_STEPS:
        raise ValueError(f"--plot needs 1 to {MOST_STEPS} steps, got {ledger.steps}")
    ((charged, steps),) = ledger.totals.items()
    mechanism = poisson(charged, "--plot")
    if mechanism.noise_multiplier == 0:
        raise ValueError("--plot needs a finite epsilon; noise_multiplier is 0, so epsilon is infinite")
    figure = Figure(figsize=(11, 4.2), dpi=DPI, layout="constrained")
    by_step, by_epsilon, errors = figure.subplots(1, 3)
    errors.plot([0, 1], [1, 0], color=RULE, linewidth=1, linestyle=":", label="perfect privacy")
    largest = 0.0
    for adjacency in ADJACENCIES:
        color, dashes, words = LINES[adjacency]
        look = {"color": color, "linestyle": dashes, "linewidth": 1.7, "label": words.format(unit)}
        curve = epsilon_curve(
            np.arange(1, steps + 1),
            sampling_rate=mechanism.sampling_rate,
            noise_multiplier=mechanism.noise_multiplier,
            delta=delta,
            unit=unit,
            adjacency=adjacency,
        )
        by_step.plot(curve.steps, curve.epsilon, **look)
        profile = PrivacyProfile(ledger=ledger, unit=unit, adjacency=adjacency)
        largest = max(largest, 1.4 * float(curve.epsilon[-1]))
        epsilons = np.linspace(0, largest, 200)
        by_epsilon.plot(epsilons, profile.delta(epsilons), **look)
        alpha = np.linspace(0, 1, 201)
        errors.plot(alpha, profile.trade_off(alpha), **look)
    by_epsilon.axhline(delta, color=RULE, linewidth=1, label=f"delta = {delta:g}")
    _dress(by_step, "steps", f"epsilon at delta = {delta:g}", "Epsilon after each step")
    by_step.set(xlim=(0, None), ylim=(0, None))
    _dress(by_epsilon, "epsilon", "delta", "Privacy profile")
    by_epsilon.set(yscale="log", ylim=(max(1e-10, delta * 1e-4), 1.5), xlim=(0, largest))
    _dress(errors, "type I error", "minimum type II error", f"Hypothesis test about one {unit}")
    errors.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    lines = [*by_epsilon.get_lines(), errors.get_lines()[0]]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), fontsize=9, frameon=False)
    figure.suptitle(
        f"q = {mechanism.sampling_rate:g}, sigma = {mechanism.noise_multiplier:g}, {steps:,} steps "
        "(accountant: tight; upper bounds on epsilon and delta, a lower bound on errors)",
        fontsize=10,
        color=INK,
    )
    return figure


def _dress(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.set_title(title, fontsize=9.5, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(labelsize=8.5, colors=INK, color=RULE)
