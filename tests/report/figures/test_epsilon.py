"""The three panels of one run: epsilon by step, delta by epsilon, and the trade-off."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.lines import Line2D

from accountants import ADJACENCIES, Adjacency, BucketMechanism, Ledger, PrivacyProfile, tight
from accountants.curve import STATED_ERROR
from dpmi.report.figures.epsilon import LINES, MOST_STEPS, draw

STEP = BucketMechanism(sampling_rate=0.2, noise_multiplier=3.0)
RUN = Ledger().record(STEP, 137)


def named(lines: list[Line2D], label: str) -> np.ndarray:
    (line,) = (line for line in lines if line.get_label() == label)
    return np.asarray(line.get_xydata())


@pytest.mark.parametrize("adjacency", ADJACENCIES)
def test_every_line_is_that_of_the_accountant(adjacency: Adjacency) -> None:
    by_step, by_epsilon, errors = draw(RUN, delta=1e-3, unit="class").axes
    label = LINES[adjacency][2].format("class")
    told = RUN.guarantee(delta=1e-3, unit="class", adjacency=adjacency).epsilon
    curve = named(by_step.get_lines(), label)
    assert curve[:, 0].tolist() == list(range(1, 138))
    assert curve[-1, 1] == pytest.approx(told, rel=STATED_ERROR + tight.STATED_ERROR)
    profile = PrivacyProfile(ledger=RUN, unit="class", adjacency=adjacency)
    for axes, function in ((by_epsilon, profile.delta), (errors, profile.trade_off)):
        line = named(axes.get_lines(), label)
        np.testing.assert_allclose(line[:, 1], function(line[:, 0]))
    assert by_epsilon.get_xlim()[1] > told


def test_perfect_privacy_and_the_delta_are_drawn() -> None:
    _, by_epsilon, errors = draw(RUN, delta=1e-3, unit="class").axes
    assert named(errors.get_lines(), "perfect privacy").tolist() == [[0, 1], [1, 0]]
    assert set(named(by_epsilon.get_lines(), "delta = 0.001")[:, 1]) == {1e-3}


@pytest.mark.filterwarnings("ignore:noise_multiplier is 0")
def test_what_has_no_curve_is_refused() -> None:
    for ledger in (Ledger(), Ledger().record(STEP, MOST_STEPS + 1)):
        with pytest.raises(ValueError, match=rf"{MOST_STEPS} .*{ledger.steps}"):
            draw(ledger, delta=1e-3, unit="class")
    bare = Ledger().record(BucketMechanism(sampling_rate=0.2, noise_multiplier=0.0), 3)
    with pytest.raises(ValueError, match="noise_multiplier is 0"):
        draw(bare, delta=1e-3, unit="class")
