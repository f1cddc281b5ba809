"""The two horizontal axes of the curve: epsilon of one claim, and names of defences without an epsilon."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from dpmi.report.figures.style import RULE

DODGE = 0.02
"""Shift between two defences at the same epsilon, as a share of the axis; it separates their error bars."""
MOST_TICKS = 7
CLOSE = 1.2
"""Factor below which the numbers of two ticks would overlap."""


class EpsilonAxis:
    """Logarithmic axis of one claim; an infinite epsilon is placed behind a break at the right edge.

    Args:
        epsilons: all epsilons of the panel.
    """

    def __init__(self, epsilons: pd.Series[float]) -> None:
        finite = epsilons[np.isfinite(epsilons) & (epsilons > 0)]
        self.low, self.high = (float(finite.min()), float(finite.max())) if len(finite) else (1.0, 1.0)
        self.unbounded = bool(np.isinf(epsilons).any())
        # Margin at both ends; the minimum factor gives a single epsilon an axis.
        self.room = max(1.35, (self.high / self.low) ** 0.08)
        self.infinity = self.high * self.room**2.2
        self.dodge = (self.high / self.low * self.room**2) ** DODGE

    def place(self, row: Any, shift: float) -> float:
        """Abscissa of a summary row, shifted to the right by ``shift`` times the dodge."""
        return float((row.epsilon if math.isfinite(row.epsilon) else self.infinity) * self.dodge**shift)

    def beside(self, x: float) -> float:
        """Abscissa of the dots of single seeds, next to the error bar."""
        return float(x / self.dodge**0.5)

    def dress(self, axes: Axes) -> None:
        """Set scale, limits and ticks."""
        left, right = self.low / self.room, self.high * self.room
        ticks = round_numbers(left, right)
        if len(ticks) < 2:  # a single tick is no scale; the epsilons themselves are more informative
            ticks = [self.low, self.high] if self.high > CLOSE * self.low else [self.low]
        # Three digits, and no exponent below a million.
        labels = [f"{float(f'{tick:.3g}'):g}" for tick in ticks]
        if self.unbounded:
            axes.axvline(right, color=RULE, linewidth=0.8, linestyle=(0, (2, 2)))
            ticks, labels = [*ticks, self.infinity], [*labels, "∞"]
            right = self.infinity * self.room
        axes.set_xscale("log")
        axes.set_xlim(left, right)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels(labels)


class NameAxis:
    """Labels side by side, for defences without an epsilon.

    Args:
        labels: all labels of the panel.
    """

    def __init__(self, labels: Iterable[str]) -> None:
        self.labels = list(dict.fromkeys(labels))

    def place(self, row: Any, shift: float) -> float:
        """Abscissa of a summary row; names never collide, so ``shift`` is ignored."""
        return float(self.labels.index(row.label))

    def beside(self, x: float) -> float:
        """Abscissa of the dots of single seeds, next to the error bar."""
        return x - DODGE * len(self.labels) / 2

    def dress(self, axes: Axes) -> None:
        """Set limits and ticks."""
        axes.set_xlim(-0.6, len(self.labels) - 0.4)
        axes.set_xticks(range(len(self.labels)), self.labels, rotation=30, ha="right", fontsize=8)


def round_numbers(low: float, high: float) -> list[float]:
    """Ticks between the limits: powers of ten times 1 to 9, or 1, 2, 5, or 1, at most :data:`MOST_TICKS`.

    >>> round_numbers(1.7, 21.0), round_numbers(4.0, 6.0), round_numbers(0.1, 1e4)
    ([2.0, 5.0, 10.0, 20.0], [4.0, 5.0, 6.0], [0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0])
    """
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside: list[float] = []
    for digits in (range(1, 10), (1, 2, 5), (1,)):
        ticks = [float(f"{digit}e{exponent}") for exponent in exponents for digit in digits]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) <= MOST_TICKS:
            break
    return inside[:: math.ceil(len(inside) / MOST_TICKS) or 1]
