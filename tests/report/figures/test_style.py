"""The style that all figures share, and what the plots of the command line import with it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from dpmi.report.figures.style import RULE, frame


def test_a_frame_has_two_spines_and_a_grid_behind_the_data() -> None:
    axes = Figure().subplots()
    frame(axes)
    assert [name for name, spine in axes.spines.items() if spine.get_visible()] == ["left", "bottom"]
    assert to_hex(axes.spines["left"].get_edgecolor()) == RULE
    assert axes.get_axisbelow() is True


@pytest.mark.parametrize("plot", ["epsilon", "plan"])
def test_a_plot_of_the_command_line_imports_neither_pandas_nor_torch(plot: str) -> None:
    program = (
        f"import sys, dpmi.report.figures.{plot}; print([m for m in ('pandas', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
