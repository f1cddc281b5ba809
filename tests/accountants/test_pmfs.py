"""What is read of dp-accounting's distributions is there, and a version without it is an error."""

from __future__ import annotations

import math
from importlib.metadata import requires, version

import numpy as np
import pytest
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism
from packaging.requirements import Requirement
from scipy.stats import norm

from accountants import pmfs

GAUSSIAN = from_gaussian_mechanism(standard_deviation=2.0, value_discretization_interval=1e-3)


def test_both_directions_are_those_of_the_distribution() -> None:
    for pmf in pmfs.both(GAUSSIAN):
        assert pmf.get_delta_for_epsilon(0.3) == pytest.approx(GAUSSIAN.get_delta_for_epsilon(0.3), rel=1e-6)


def test_the_quantile_of_a_gaussian_loss() -> None:
    """The loss of the Gaussian mechanism is normal, with mean mu^2 / 2 and standard deviation mu = 1/2."""
    removal, _ = pmfs.both(GAUSSIAN)
    for delta in (0.3, 1e-3, 1e-9):
        assert pmfs.quantile(removal, delta) == pytest.approx(0.125 + 0.5 * norm.isf(delta), abs=3e-3)
    assert pmfs.quantile(removal, 0.0) == math.inf


@pytest.mark.parametrize("name", ["_probs", "_infinity_mass", "_lower_loss", "_discretization"])
def test_a_version_without_a_member_is_an_error(name: str) -> None:
    class Moved:
        _probs, _infinity_mass, _lower_loss, _discretization = np.ones(3) / 3, 0.0, 0, 0.1

        def to_dense_pmf(self) -> Moved:
            return self

    assert pmfs.quantile(Moved(), 0.5) == pytest.approx(0.1)
    delattr(Moved, name)
    with pytest.raises(
        RuntimeError, match=f"Moved has no {name}: this version of dp-accounting is not supported"
    ):
        pmfs.quantile(Moved(), 0.5)
    with pytest.raises(RuntimeError, match="has no _pmf_remove"):
        pmfs.both(Moved())


def test_the_installed_version_is_one_that_is_allowed() -> None:
    """The next minor version has to be tried before the limit in pyproject.toml is raised."""
    (limit,) = (r for r in map(Requirement, requires("dpmi") or ()) if r.name == "dp-accounting")
    assert version("dp-accounting") in limit.specifier
    assert any(each.operator == "<" for each in limit.specifier)
