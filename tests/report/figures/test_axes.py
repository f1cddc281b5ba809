"""Axes of epsilon and of names: places, ticks and limits."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pandas as pd
import pytest
from matplotlib.figure import Figure

from dpmi.report.figures.axes import CLOSE, MOST_TICKS, EpsilonAxis, NameAxis, round_numbers


def at(epsilon: float) -> SimpleNamespace:
    return SimpleNamespace(epsilon=epsilon)


def test_a_finite_epsilon_is_at_its_place_and_an_infinite_one_past_all() -> None:
    axis = EpsilonAxis(pd.Series([2.0, 8.0, math.inf, math.nan]))
    assert [axis.place(at(epsilon), 0) for epsilon in (2.0, 8.0)] == [2.0, 8.0]
    axes = Figure().subplots()
    axis.dress(axes)
    left, right = axes.get_xlim()
    assert left < 2
    assert 8 < axis.place(at(math.inf), 0) < right
    assert axes.get_xscale() == "log"
    assert axes.get_xticklabels()[-1].get_text() == "∞"


def test_two_defences_at_one_epsilon_stand_beside_each_other() -> None:
    axis = EpsilonAxis(pd.Series([1.0, 100.0]))
    shifted = [axis.place(at(10.0), shift) for shift in (-1, 0, 1)]
    assert shifted == sorted(shifted)
    assert shifted[1] / shifted[0] == pytest.approx(shifted[2] / shifted[1])
    assert shifted[0] < axis.beside(shifted[1]) < shifted[1]


@pytest.mark.parametrize(
    ("epsilons", "ticks"),
    [
        ([4.3], [4, 5]),
        ([4.3, 5.9], [4, 5, 6, 7]),
        ([1.5], [1.5]),  # one round number is no scale
        ([1.41, 1.7], [1.41, 1.7]),
        ([1.41, 1.6], [1.41]),
    ],
)
def test_an_axis_of_few_epsilons_has_ticks(epsilons: list[float], ticks: list[float]) -> None:
    axes = Figure().subplots()
    EpsilonAxis(pd.Series(epsilons)).dress(axes)
    assert [float(text.get_text()) for text in axes.get_xticklabels()] == ticks
    low, high = axes.get_xlim()
    assert low < min(epsilons) <= max(epsilons) < high


def test_names_are_in_their_order_and_once() -> None:
    axis = NameAxis(["b", "a", "b", "c"])
    places = [axis.place(SimpleNamespace(label=label), 3.0) for label in "bac"]
    assert places == [0.0, 1.0, 2.0]
    assert -0.6 < axis.beside(0.0) < 0
    axes = Figure().subplots()
    axis.dress(axes)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["b", "a", "c"]


@pytest.mark.parametrize("low", [1e-3, 0.7, 4.0, 60.0])
@pytest.mark.parametrize("factor", [CLOSE, 2.0, 30.0, 1e5, 1e9])
def test_round_numbers_are_few_and_between_the_limits(low: float, factor: float) -> None:
    ticks = round_numbers(low, low * factor)
    assert ticks == sorted(set(ticks))
    assert len(ticks) <= MOST_TICKS
    assert all(low <= tick <= low * factor for tick in ticks)
    assert all(len(f"{tick:g}".replace(".", "").replace("0", "").split("e")[0]) <= 1 for tick in ticks)
