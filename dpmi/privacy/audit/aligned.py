"""The sharp estimate: noise, sensitivity and sampling rate of a run, each with a confidence limit.

Under the claim, the score of canary j at step t is s = c b + (others) + sigma z, in units of max_grad_norm: c is its
coin, b says whether it was drawn, "others" is the projection of all other gradients on its direction, and z is standard
Gaussian noise. Three limits hold together with the asked confidence, which is divided so that the widest limit gets
most of the error:

- the noise is at most ``sigma``: by the squares of all coordinates orthogonal to the canaries (chi-square). They hold
  the other gradients too, so the limit is rather too large.
- the contribution of a bucket is at least ``a``: by the mean of c s where the canary was drawn (normal).
- the sampling rate is at least ``q``: by the number of draws (Clopper-Pearson).

Epsilon is at least that of a Gaussian mechanism with noise multiplier sigma / a and rate q, by the same accountant as
the claim. What is assumed is this form of the mechanism; the checks of noise and draws test it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats

from ..finding import Estimate

NOISE, LENGTH, RATE = 0.1, 0.65, 0.25
"""Shares of the error of the three limits. Thousands of coordinates leave little doubt about the noise."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the sharp estimate uses of a run.

    Args:
        steps: number T of releases.
        squares: sum of the squares of the coordinates orthogonal to the canaries, in units of max_grad_norm^2.
        freedom: number of those coordinates, over all steps.
        contributions: sum of c s over the steps that drew a canary with c = 1 or -1.
        pairs: number of such (canary, step).
        draws: number of (canary, step) that were drawn, whatever the coin.
        chances: number of all (canary, step).
    """

    steps: int
    squares: float
    freedom: int
    contributions: float
    pairs: int
    draws: int
    chances: int

    def estimate(self, confidence: float) -> Estimate:
        """Return the run at the three confidence limits; together they hold with this confidence."""
        error = 1.0 - confidence
        sigma = math.sqrt(self.squares / float(stats.chi2.ppf(NOISE * error, self.freedom)))
        mean = self.contributions / self.pairs if self.pairs else 0.0
        at_least = mean + float(stats.norm.ppf(LENGTH * error)) * sigma / math.sqrt(max(self.pairs, 1))
        if at_least <= 0:
            return Estimate(sampling_rate=0.0, noise_multiplier=sigma, steps=self.steps)
        rate = float(stats.beta.ppf(RATE * error, self.draws, self.chances - self.draws + 1))
        return Estimate(sampling_rate=rate, noise_multiplier=sigma / at_least, steps=self.steps)


def expected(
    *, canaries: int, dimensions: int, sampling_rate: float, noise_multiplier: float, steps: int
) -> Measured:
    """Return what a perfect run measures on average; its estimate is the ceiling of the test.

    Half of the canaries are in or out, and half of those are in; the others always contribute.
    """
    chances = canaries * steps
    freedom = (dimensions - canaries) * steps
    draws = round(chances * sampling_rate)
    pairs = round(chances * sampling_rate * 0.75)
    return Measured(
        steps=steps,
        squares=noise_multiplier**2 * freedom,
        freedom=freedom,
        contributions=float(pairs),
        pairs=pairs,
        draws=draws,
        chances=chances,
    )
