"""The members of dp-accounting's distributions that it does not document, read in one place.

dp-accounting stores both directions of a privacy loss distribution, but its public functions answer for the worse one
only, and lose the tail from epsilon 709 on. A version that stores them otherwise must be an error, never a number.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def both(distribution: Any) -> tuple[Any, Any]:
    """Return the loss distributions of removing and of adding, dp-accounting's PLDPmf.

    Raises:
        RuntimeError: the installed version of dp-accounting stores them otherwise.
    """
    remove, add = (_member(distribution, name) for name in ("_pmf_remove", "_pmf_add"))
    return remove, add


def quantile(pmf: Any, delta: float) -> float:
    """Return the smallest privacy loss that is exceeded with probability at most delta; infinity if there is none.

    Delta is met at this epsilon, because delta(epsilon) is at most the probability of a larger loss.

    Raises:
        RuntimeError: the installed version of dp-accounting stores losses otherwise.
    """
    dense = pmf.to_dense_pmf()
    probabilities = np.asarray(_member(dense, "_probs"))
    above = _member(dense, "_infinity_mass") + np.cumsum(probabilities[::-1])[::-1] - probabilities
    met = np.flatnonzero(above <= delta)
    if not len(met):
        return math.inf
    return float((_member(dense, "_lower_loss") + int(met[0])) * _member(dense, "_discretization"))


def _member(owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError:
        raise RuntimeError(
            f"dp-accounting's {type(owner).__name__} has no {name}: this version of dp-accounting is not supported; "
            "install one that the package's requirements allow"
        ) from None
