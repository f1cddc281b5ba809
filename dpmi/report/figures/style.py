"""What all figures share: resolution, colours, markers and the frame of a panel.

It imports neither pandas nor torch, because the plots of ``dpmi epsilon`` and ``dpmi plan`` use it.
"""

from __future__ import annotations

from matplotlib.axes import Axes

DPI = 160
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colours of Okabe and Ito, without yellow, which is hard to see on white."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
INK, FAINT, RULE = "#222222", "#6b6b6b", "#b0b0b0"


def frame(axes: Axes) -> None:
    """Set spines, ticks and grid of a panel."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(colors=INK, labelsize=8.5, length=3, color=RULE)
    axes.grid(axis="y", color="#ececec", linewidth=0.8)
    axes.set_axisbelow(True)
