"""The bars that show which layers a task depends on."""

from __future__ import annotations

from itertools import pairwise

import pandas as pd
import pytest
from matplotlib.container import BarContainer

from dpmi.report.figures.layers import draw
from dpmi.report.numbers.layers import TASKS, mean_shares

from ..numbers.test_layers import table


@pytest.mark.parametrize("seeds", [1, 2])
def test_every_bar_is_as_high_as_the_share(seeds: int) -> None:
    shares = mean_shares(table(seeds, ("miface", "enhanced")))
    figure = draw(shares)
    panels = figure.axes
    assert [axes.get_title() for axes in panels] == ["none, under miface", "none, under enhanced"]
    for axes in panels:
        bars = [shapes for shapes in axes.containers if isinstance(shapes, BarContainer)]
        drawn = {shapes.get_label(): [bar.get_height() for bar in shapes] for shapes in bars}
        assert drawn == {task: list(shares[task][:2]) for task in TASKS}
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0\nLinear", "2\nLinear"]
    title = figure.get_suptitle()
    assert ("one seed" in title) is (seeds == 1)


def test_an_interrupted_study_has_an_empty_panel() -> None:
    shares = mean_shares(table(1, ("miface", "enhanced")))
    other = shares[shares["attack"] == "miface"].assign(label="transfer")
    titles = [axes.get_title() for axes in draw(pd.concat([shares, other])).axes]
    assert titles == ["none, under miface", "none, under enhanced", "transfer, under miface", ""]


def test_long_names_of_many_layers_do_not_overlap() -> None:
    """They are turned, and take the room that they need below."""
    shares = mean_shares(table(1)).iloc[[0] * 16].reset_index(drop=True)
    shares["layer"] = [f"encoder.layers.{i}.attention" for i in range(16)]
    figure = draw(shares)
    figure.draw_without_rendering()
    boxes = [tick.get_window_extent() for tick in figure.axes[0].get_xticklabels()]
    assert not any(left.overlaps(right) for left, right in pairwise(boxes))
    assert all(box.y0 >= 0 for box in boxes)
