"""Reconstruction bounds of the models of a study; they hold for any attack, also for attacks that did not run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import pandas as pd

from accountants import BucketMechanism, Ledger, reconstruction_bound
from dpmi.report.numbers.tables import rows_of

PRIORS = (0.01, 0.1)
"""Values of kappa, the probability of success without the bucket, in [0, 1]."""


def bounds(trials: pd.DataFrame, priors: Sequence[float] = PRIORS) -> dict[str, tuple[float, ...]]:
    """Return B(kappa) in [0, 1] for every trial's model and each of ``priors``; 1 for a model without a guarantee.

    B bounds the success probability of any attack against ONE unit of the trial (see
    :func:`accountants.reconstruction_bound`; Hayes, Mahloujifar, Balle 2023). It follows from the mechanism of the
    training: one sampling rate and one noise multiplier for all steps.

    Args:
        trials: the table of :class:`dpmi.study.results.Results`.
        priors: kappa, each in [0, 1].
    """
    return {
        row.trial: _bounds(row.sampling_rate, row.noise_multiplier, int(row.steps), tuple(priors))
        if math.isfinite(row.epsilon)
        else (1.0,) * len(priors)
        for row in rows_of(trials)
    }


@lru_cache(maxsize=256)  # seeds, and attacks on one model, share a mechanism
def _bounds(
    sampling_rate: float, noise_multiplier: float, steps: int, priors: tuple[float, ...]
) -> tuple[float, ...]:
    step = BucketMechanism(sampling_rate=sampling_rate, noise_multiplier=noise_multiplier)
    return tuple(reconstruction_bound(Ledger().record(step, steps), priors).tolist())
