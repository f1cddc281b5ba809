"""A lower bracket of delta, written without dp-accounting, without our own pairs, and with another discretisation.

The privacy loss of a step is rounded to the nearest point of a grid, and the grid is shifted so that the mean stays as
it is. The rounding errors of T steps are then independent, have mean 0 and a range r each, so that their sum is within
r sqrt(T ln(2 / eta) / 2) but for a probability eta (Hoeffding; as Gopi, Lee, Wutschitz 2021 do it). Hence

    delta(epsilon) >= rounded delta(epsilon + that) - eta.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.stats import binom, norm

from accountants import Adjacency

Numbers = npt.NDArray[np.float64]

CELLS = 100_000
MOST_POINTS = 2**22


class UnresolvedError(Exception):
    """The bracket would be wider than asked for; float64 or memory does not allow a finer one."""


def lower_deltas(
    q: float,
    sigma: float,
    steps: int,
    owned: int,
    adjacency: Adjacency,
    epsilons: Numbers,
    *,
    delta: float,
    accuracy: float = 0.004,
) -> Numbers:
    """Return a number below delta at each epsilon.

    Args:
        q, sigma, steps, owned, adjacency: as in `accountants.epsilon`.
        epsilons: at least 0, (n,).
        delta: the order of magnitude of interest.
        accuracy: the allowed sum of rounding errors, in parts of the largest epsilon.

    Raises:
        UnresolvedError: no grid of `MOST_POINTS` is that fine, or rounding errors of the transform exceed delta / 100.
    """
    found = np.zeros(len(epsilons))
    if 1e-16 * steps > 0.01 * delta:
        raise UnresolvedError
    allowed = accuracy * float(epsilons.max())
    for loss, mass, width in _steps(q, sigma, owned, adjacency):
        np.maximum(found, _composed(loss, mass, width, steps, epsilons, allowed, 1e-3 * delta), out=found)
    return found


def _steps(
    q: float, sigma: float, owned: int, adjacency: Adjacency
) -> Iterator[tuple[Numbers, Numbers, float]]:
    """Yield privacy losses of one step, their probabilities, and how far a loss may be from its cell's mean."""
    j = np.arange(owned + 1.0)
    kept = binom.pmf(j, owned, q) > 1e-200
    j, weights = j[kept], binom.pmf(j, owned, q)[kept]
    cells = CELLS if owned <= 5 else CELLS // 4
    for p, other in {"replace": [(-j, j)], "add_remove": [(-j, 0 * j), (0 * j, j)]}[adjacency]:
        x = np.linspace(p.min() - 9 * sigma, p.max() + 9 * sigma, 2 * cells + 1)

        def log(means: Numbers, x: Numbers = x) -> Numbers:
            top = np.full(len(x), -np.inf)
            for weight, mean in zip(weights, means, strict=True):
                top = np.logaddexp(top, math.log(weight) - (x - mean) ** 2 / (2 * sigma * sigma))
            return top

        loss = log(p) - log(other)
        mass = np.diff(sum(w * norm.cdf((x[::2] - mean) / sigma) for w, mean in zip(weights, p, strict=True)))
        yield (loss[:-1:2] + 4 * loss[1::2] + loss[2::2]) / 6, mass, float(-np.diff(loss[::2]).min())


def _composed(
    loss: Numbers, mass: Numbers, width: float, steps: int, epsilons: Numbers, allowed: float, eta: float
) -> Numbers:
    left_out = 1 - mass.sum()
    mean = float(mass @ loss) / mass.sum()
    spread = math.sqrt(float(mass @ (loss - mean) ** 2))
    deviations = math.sqrt(steps * math.log(4 / eta) / 2)
    # Of the allowed deviation, the cells take what they need, and the grid the rest.
    interval = allowed / deviations - width
    reach = abs(mean) * steps + 12 * spread * math.sqrt(steps) + 2 * float(np.abs(loss).max())
    points = 2 ** math.ceil(math.log2(max(2.0, 2 * reach / max(interval, 1e-300))))
    if interval <= 0 or points > MOST_POINTS:
        raise UnresolvedError
    cell = np.rint(loss / interval).astype(np.int64)
    shift = mean - float(mass @ cell) * interval / mass.sum()
    one = np.bincount(cell - cell.min(), mass, minlength=points)
    transform = np.fft.rfft(one)
    total = np.fft.irfft(transform**steps, points)
    # Total losses, from the expected one upwards and downwards by half the grid.
    centre = round((mean - shift) * steps / interval)
    index = np.arange(points) - points // 2 + centre
    losses = index * interval + shift * steps
    probability = np.maximum(total[np.mod(index - steps * int(cell.min()), points)], 0.0)
    deltas = [
        float(probability @ -np.expm1(np.minimum(epsilon + allowed - losses, 0.0))) for epsilon in epsilons
    ]
    return np.array(deltas) - eta - steps * max(left_out, 0.0)
