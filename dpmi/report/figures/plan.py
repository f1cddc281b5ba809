"""The plot of ``dpmi plan``: norm of the noise of one step against the number of buckets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from accountants.planner import PlanTable
from accountants.verdict import HOPELESS, USABLE
from dpmi.report.figures.style import DPI, FAINT, INK, PALETTE, RULE

ZONES = (("usable", "#e3f1ea"), ("doubtful", "#fbf3df"), ("hopeless", "#f8e4df"))
ROOM = 1.35
"""Factor between the outermost points and the frame."""
PLAIN = FuncFormatter(lambda value, _: f"{value:,.10g}")


def draw(table: PlanTable) -> Figure:
    """Draw one line per number of steps, at its best sampling rate, with one dot per row of the table.

    Other sampling rates are omitted: their lines lie on top of these lines or above them.
    """
    figure = Figure(figsize=(7.6, 5.4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    classes, (_, smallest) = len(table.class_sizes), table.smallest_class
    # The x axis covers the last row and the rescue; it ends at one record per bucket in the smallest class.
    last = min(max(table.clusters_per_class[-1], 2 * table.fewest_clusters(USABLE)), smallest)
    noises = _lines(axes, table, last)
    left, right = classes / ROOM, classes * last * ROOM
    low, high = min(*noises, USABLE) / ROOM**2, max(*noises, HOPELESS) * ROOM**2
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(low, high))
    _zones(axes, low, high)
    if last == smallest:
        axes.axvline(classes * smallest, color=FAINT, linewidth=1, linestyle=(0, (4, 2)))
        axes.annotate(
            f"one record per bucket\nin the smallest class:\nK = {classes * smallest:,}",
            (classes * smallest, high),
            xytext=(-4, -6),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=8.5,
            color=FAINT,
        )
    _dress(axes, table)
    told = table.best_setting.guarantee
    axes.set_title(
        f"Noise of one step at epsilon ≤ {table.target_epsilon:g} per bucket "
        f"(delta = {table.delta:g}, {told.adjacency}, {told.accountant})\n"
        f"{classes:,} classes, {sum(table.class_sizes.values()):,} records, {table.parameters:,} parameters",
        fontsize=10,
        color=INK,
    )
    figure.legend(loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)
    return figure


def _lines(axes: Axes, table: PlanTable, last: int) -> list[float]:
    """Draw the lines; return every noise norm that must be inside the frame."""
    noises: list[float] = []
    for place, setting in enumerate(table.best_by_steps):
        color = PALETTE[place % len(PALETTE)]
        q, sigma = setting.mechanism.sampling_rate, setting.mechanism.noise_multiplier
        ends = [table.row(setting, clusters) for clusters in (1, last)]
        dots = [table.row(setting, clusters) for clusters in table.clusters_per_class]
        axes.plot(
            [row.buckets for row in ends],
            [row.noise_norm for row in ends],
            color=color,
            linewidth=1.6,
            label=f"{setting.steps:,} steps: q = {q:g}, sigma = {sigma:.3g}",
        )
        axes.plot(
            [row.buckets for row in dots],
            [row.noise_norm for row in dots],
            "o",
            color=color,
            markersize=6,
            mec="white",
            mew=0.7,
            zorder=3,
        )
        noises += [row.noise_norm for row in ends]
    return noises


def _zones(axes: Axes, low: float, high: float) -> None:
    limits = (low, USABLE, HOPELESS, high)
    for (name, color), bottom, top in zip(ZONES, limits, limits[1:], strict=False):
        axes.axhspan(bottom, top, color=color, linewidth=0, zorder=0)
        axes.annotate(
            name,
            (1, math.sqrt(bottom * top)),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=FAINT,
        )


def _dress(axes: Axes, table: PlanTable) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(colors=INK, labelsize=8.5, length=3, color=RULE, which="both")
    classes = len(table.class_sizes)
    low, high = axes.get_ylim()
    decades = [10.0**power for power in range(math.ceil(math.log10(low)), math.ceil(math.log10(high)))]
    _ticks(axes.yaxis, sorted({*decades, USABLE, HOPELESS}))
    _ticks(axes.xaxis, [classes * clusters for clusters in table.clusters_per_class])
    axes.set_xlabel("number of buckets K", fontsize=9)
    axes.set_ylabel("noise norm, sigma √d / (qK)\nin units of the clip norm", fontsize=9)
    above = axes.secondary_xaxis(
        "top", functions=(lambda k: np.divide(k, classes), lambda c: np.multiply(c, classes))
    )
    _ticks(above.xaxis, table.clusters_per_class)
    above.spines["top"].set_color(RULE)
    above.tick_params(colors=INK, labelsize=8.5, length=3, color=RULE)
    above.set_xlabel("buckets per class (1: class-level DP)", fontsize=9)


def _ticks(axis: Axis, places: Sequence[float]) -> None:
    """Plain numbers at these places, or at some of them if there are many."""
    axis.set_major_locator(FixedLocator(places, nbins=8))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(PLAIN)
