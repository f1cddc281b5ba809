"""How the mean gradient of a bucket is shortened to at most max_grad_norm, S."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .gradients.row_norms import ROUNDING

Clipping = Literal["flat", "automatic"]
"""flat: gradients longer than S are shortened to S. automatic: every gradient g becomes S g / (|g| + STABILITY)."""

STABILITY = 0.01
"""gamma of AUTO-S [Z. Bu, Y.-X. Wang, S. Zha, G. Karypis, "Automatic Clipping: Differentially Private Deep Learning
Made Easier and Stronger", NeurIPS 2023]; it keeps short gradients short, so that training converges."""


def check_clipping(clipping: str) -> None:
    """Raise a ValueError for an unknown kind of clipping."""
    if clipping not in get_args(Clipping):
        kinds = " or ".join(map(repr, get_args(Clipping)))
        raise ValueError(f"clipping is {clipping!r}; it must be {kinds}")


def clipping_factors(
    norms: NDArray[np.float64], sizes: NDArray[np.float64], max_grad_norm: float, clipping: Clipping
) -> NDArray[np.float64]:
    """Return the factors (k,) from sums over records to clipped means, which are at most ``max_grad_norm`` long.

    Args:
        norms: (k,), the norm of each bucket's sum over records, at most ``ROUNDING`` / 4 (relative) too small.
        sizes: (k,), the number of records of each bucket.
        max_grad_norm: S.
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
