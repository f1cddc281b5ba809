"""How the mean gradient of a bucket is shortened to at most max_grad_norm, S."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from accountants import checks

from .gradients.row_norms import ROUNDING

STABILITY = 0.01
"""gamma of AUTO-S [Z. Bu, Y.-X. Wang, S. Zha, G. Karypis, "Automatic Clipping: Differentially Private Deep Learning
Made Easier and Stronger", NeurIPS 2023]; it keeps short gradients short, so that training converges."""


@dataclass(frozen=True, kw_only=True)
class AdaptiveClipping:
    """Clipping to a norm that follows a quantile of the buckets' gradient norms.

    Every step also releases, with noise, how many of its buckets were not longer than S, and S moves towards the
    quantile [G. Andrew, O. Thakkar, B. McMahan, S. Ramaswamy, "Differentially Private Learning with Adaptive Clipping",
    NeurIPS 2021]. Both releases together are one Gaussian mechanism with the noise multiplier of the run: the gradients
    get more noise, so that the count is paid for.

    Args:
        quantile: share of the buckets that should not be clipped, in [0, 1].
        learning_rate: eta > 0; S is multiplied by exp(-eta (share - quantile)) after every step.
        count_noise: standard deviation of the noise of the count, above half the noise multiplier; None takes 1/20 of
            the expected number of buckets, or the noise multiplier if that is larger.

    >>> clipping = AdaptiveClipping(quantile=0.5)  # for make_private(..., clipping=clipping)
    >>> [round(noise, 2) for noise in clipping.noises(noise_multiplier=2.0, expected_buckets=100.0)]
    [2.04, 5.0]
    >>> round(clipping.moved(1.0, share=0.9), 3)  # nine tenths were not clipped, so the norm shrinks
    0.923
    """

    quantile: float = 0.5
    learning_rate: float = 0.2
    count_noise: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= checks.real("quantile", self.quantile) <= 1:
            raise ValueError(f"quantile must be in [0, 1], got {self.quantile}")
        if checks.real("learning_rate", self.learning_rate) <= 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if self.count_noise is not None and checks.real("count_noise", self.count_noise) <= 0:
            raise ValueError(f"count_noise must be above 0, got {self.count_noise}")

    def noises(self, noise_multiplier: float, expected_buckets: float) -> tuple[float, float]:
        """Return the noise multiplier of the gradients, and the standard deviation of the noise of the count.

        A bucket adds a vector of length 1 in units of S, and 1/2 or -1/2 to the count. With noises g and c of the two,
        its whole contribution has length sqrt(1/g^2 + 1/(4 c^2)) in units of the noise, which is 1 / noise_multiplier.

        Raises:
            ValueError: ``count_noise`` is so small that the count alone costs more than the noise multiplier allows.
        """
        count = self.count_noise
        if count is None:
            count = max(expected_buckets / 20, noise_multiplier)
        if noise_multiplier == 0:
            return 0.0, count
        left = noise_multiplier**-2 - (2 * count) ** -2
        if left <= 0:
            raise ValueError(
                f"count_noise must be above {noise_multiplier / 2:g}, half the noise multiplier, because the count "
                f"alone would cost more than all of it; got {count:g}"
            )
        return left**-0.5, count

    def moved(self, max_grad_norm: float, share: float) -> float:
        """Return the next S, after a step in which about this share of the buckets was not clipped."""
        return max_grad_norm * math.exp(-self.learning_rate * (share - self.quantile))


@dataclass(frozen=True, kw_only=True)
class GroupClipping:
    """Clipping of every param group of the optimizer by itself, to a norm of its own.

    Layers whose gradients differ in length by orders of magnitude then no longer share one norm, which the longest of
    them would use up [H. B. McMahan, G. Andrew, U. Erlingsson, S. Chien, I. Mironov, N. Papernot, P. Kairouz, "A
    General Approach to Adding Differential Privacy to Iterative Training Procedures", 2018]. The norms are given
    relative to each other: all groups together are at most S long, so noise and accounting are those of flat clipping.

    Args:
        relative_norms: r > 0 for every param group, in the optimizer's order; group g is clipped to
            ``S r_g / |r|``.

    >>> GroupClipping(relative_norms=[3.0, 4.0]).norms(max_grad_norm=1.0)
    [0.6, 0.8]
    """

    relative_norms: Sequence[float]

    def __post_init__(self) -> None:
        if not isinstance(self.relative_norms, list | tuple):
            raise TypeError(f"relative_norms must be a list of numbers, got {self.relative_norms!r}")
        object.__setattr__(self, "relative_norms", tuple(self.relative_norms))
        if not self.relative_norms:
            raise ValueError(
                "relative_norms is empty; give one number for every param group of the optimizer"
            )
        for norm in self.relative_norms:
            if checks.real("relative_norms", norm) <= 0:
                raise ValueError(f"relative_norms must be above 0, got {norm}")

    def check(self, groups: int) -> None:
        """Raise a ValueError unless the optimizer has this many param groups."""
        if groups != len(self.relative_norms):
            raise ValueError(
                f"relative_norms has {len(self.relative_norms)} numbers, but the optimizer has {groups} param groups; "
                "give one for every group"
            )

    def norms(self, max_grad_norm: float) -> list[float]:
        """Return the norm of every group; the root of the sum of their squares is S."""
        whole = math.hypot(*self.relative_norms)
        return [max_grad_norm * (norm / whole) for norm in self.relative_norms]


Clipping = Literal["flat", "automatic"] | AdaptiveClipping | GroupClipping
"""flat: gradients longer than S are shortened to S. automatic: every gradient g becomes S g / (|g| + STABILITY). Or
gradients are shortened to a norm that adapts, or every group of parameters to a norm of its own."""


def check_clipping(clipping: object) -> None:
    """Raise a ValueError for an unknown kind of clipping."""
    if clipping not in ("flat", "automatic") and not isinstance(clipping, AdaptiveClipping | GroupClipping):
        raise ValueError(
            f"clipping must be 'flat', 'automatic', an AdaptiveClipping or a GroupClipping, got {clipping!r}"
        )


def clipping_factors(
    norms: NDArray[np.float64], sizes: NDArray[np.float64], max_grad_norm: float, clipping: Clipping
) -> NDArray[np.float64]:
    """Return the factors (k,) from sums over records to clipped means, which are at most ``max_grad_norm`` long.

    Args:
        norms: (k,), the norm of each bucket's sum over records, at most ``ROUNDING`` / 4 (relative) too small.
        sizes: (k,), the number of records of each bucket.
        max_grad_norm: S, or that of a group of parameters.
        clipping: the kind.
    """
    longest = max_grad_norm * (1.0 - ROUNDING)
    if clipping == "automatic":
        with np.errstate(over="ignore"):
            automatic: NDArray[np.float64] = longest / (norms + STABILITY * sizes)
        return automatic
    with np.errstate(divide="ignore", over="ignore"):  # the second value is infinite for a zero gradient
        flat: NDArray[np.float64] = np.minimum(1.0 / sizes, longest / norms)
    return flat
