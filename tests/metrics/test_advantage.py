import math

import numpy as np
import pytest
import torch
from scipy import stats

from dpmi.metrics import Baselines, advantage, advantage_over_nearest, success_rate

NAN = math.nan


def known(blank: list[float], mean: list[float], nearest: list[float]) -> Baselines:
    return Baselines(*(torch.tensor(values, dtype=torch.float64) for values in (blank, mean, nearest)))


def test_is_measured_against_the_better_of_blank_and_mean() -> None:
    baselines = known([4.0, 10.0, 4.0], [8.0, 5.0, NAN], [2.0, 2.0, NAN])
    distances = torch.tensor([1.0, 5.0, 6.0])
    assert advantage(distances, baselines).tolist() == [0.75, 0.0, -0.5]
    oracle = advantage_over_nearest(distances, baselines).tolist()
    assert oracle[:2] == [0.5, -1.5]
    assert math.isnan(oracle[2])


def test_undefined_is_nan() -> None:
    """Trap 9: nothing to gain is not the same as nothing gained."""
    baselines = known([0.0, 1.0], [2.0, 1.0], [0.0, 0.0])
    found = advantage(torch.tensor([0.0, NAN]), baselines)
    assert found.isnan().all()
    assert advantage_over_nearest(torch.tensor([0.0, 1.0]), baselines).isnan().all()


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match=r"each of the 1 classes.*\(2,\)"):
        advantage(torch.ones(2), known([1.0], [1.0], [1.0]))


@pytest.mark.parametrize("won", [0, 1, 4, 10])
def test_success_of_one_seed_is_clopper_pearson(won: int) -> None:
    found = success_rate([[0.2] * won + [-0.2] * (10 - won)])
    expected = stats.binomtest(won, 10).proportion_ci(0.95, method="exact")
    assert found == pytest.approx((won / 10, expected.low, expected.high))


def test_more_seeds_that_win_the_same_classes_tell_nothing_new_about_classes() -> None:
    one = [0.3, 0.1, -0.1, -0.4]
    assert success_rate([one, one, one]) == success_rate([one])


def test_success_is_averaged_over_seeds() -> None:
    # 3 wins of 8: to gain exactly nothing is no win.
    assert success_rate([[0.3, 0.1, 0.0, -0.4], [0.2, -0.1, -0.1, -0.1]]).mean == 3 / 8


def test_success_leaves_out_what_is_undefined() -> None:
    assert success_rate([[0.3, math.nan, -0.1], [0.3, math.nan, -0.1]]) == success_rate([[0.3, -0.1]])
    assert all(math.isnan(value) for value in success_rate([[math.nan, math.nan]]))


def test_interval_of_success_covers_the_truth_though_seeds_repeat_classes() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        easy = rng.random(10) < 0.2  # a class is won on every model, but for a tenth of the seeds, or on none
        advantages = np.where(easy & (rng.random((3, 10)) < 0.9), 0.1, -0.1)
        _, low, high = success_rate(advantages)
        covered += low <= 0.18 <= high
    assert covered >= 0.95 * 400


def test_success_needs_a_table() -> None:
    with pytest.raises(ValueError, match="seeds, classes"):
        success_rate([0.1, 0.2])
