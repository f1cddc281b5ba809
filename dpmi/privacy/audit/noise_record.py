"""Checks of the noise of a run: its size, its independence across coordinates and steps, and its law."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..finding import Check
from . import tails

TOLERANCE = 1e-3
"""Relative deviation of the standard deviation that is not a fault; rounding is far below it."""

WATCHED = 256
"""Coordinates whose noise is kept, to compare distant steps."""

KEPT = 2048
"""Steps whose watched coordinates are kept, at most."""

EVERY = 64
"""All pairs of coordinates with the same lag are compared in the first step, and in every 64th after it."""


class NoiseRecord:
    """Adds up what the noise of every step tells; the noise comes in units of max_grad_norm.

    It keeps two vectors of the size of the model: the squares by coordinate, and the noise of the last step.

    Args:
        sizes: number of values of each parameter.
        generator: chooses what is watched.
        device: of the noise.
    """

    def __init__(self, sizes: list[int], generator: np.random.Generator, device: torch.device) -> None:
        d = sum(sizes)
        self._sizes = sizes
        self._generator = generator
        self._squares = torch.zeros(d, device=device)
        self._last = torch.zeros(d, device=device)
        self._watched = torch.from_numpy(np.sort(generator.choice(d, min(WATCHED, d), replace=False))).to(
            device
        )
        self._kept = torch.zeros(0, len(self._watched))
        self._steps = self._compared = self._lags = 0
        self._sums = np.zeros(3)  # of the values, their squares, and their fourth powers
        self._neighbours = 0.0  # sum of the correlations of consecutive steps
        self._length = 0.0  # squared norm of the last noise
        self._closest = self._lagged = 0.0

    @torch.no_grad()
    def add(self, noise: Tensor) -> None:
        """See the noise of one step, (d,)."""
        # Sums in float32: torch adds pairwise, so their error is far below TOLERANCE.
        with_last = noise @ self._last
        squares = torch.mul(noise, noise, out=self._last)  # new memory takes longer than the product
        self._squares += squares
        found = torch.stack([noise.sum(), squares.sum(), squares @ squares, with_last]).tolist()
        self._sums += found[:3]
        if self._steps:
            self._neighbours += found[3] / max(1e-30, math.sqrt(found[1] * self._length))
        self._length = found[1]
        self._last.copy_(noise)
        if self._steps % EVERY == 0:
            self._compare_lags(noise)
        self._compare_steps(noise[self._watched].cpu())
        self._steps += 1

    def checks(self, noise_multiplier: float) -> list[Check]:
        """Return the checks of everything so far, against the claimed standard deviation."""
        d, steps = len(self._squares), self._steps
        n = d * steps
        mean, square, fourth = self._sums / n / noise_multiplier ** np.array([1, 2, 4])
        by_coordinate = self._squares.cpu().numpy().astype(np.float64) / noise_multiplier**2
        worst = by_coordinate[np.argmax(np.abs(by_coordinate / steps - 1))]
        extremes = [by_coordinate.min(), by_coordinate.max()]
        by_parameter = [
            part.sum() for part in np.split(by_coordinate, np.cumsum(self._sizes)[:-1]) if len(part)
        ]
        counts = [size for size in self._sizes if size]
        parameter = int(
            np.argmax(
                [abs(math.log(s / c / steps + 1e-300)) for s, c in zip(by_parameter, counts, strict=True)]
            )
        )
        found = [
            Check(
                name="standard deviation of the noise, relative to the claim",
                claimed=1.0,
                found=math.sqrt(square),
                p_value=tails.chi_square(square * n, n, tolerance=TOLERANCE),
            ),
            Check(
                name="standard deviation of the noise of the most unusual parameter, relative to the claim",
                claimed=1.0,
                found=math.sqrt(by_parameter[parameter] / counts[parameter] / steps),
                p_value=tails.many(
                    np.array(
                        [
                            tails.chi_square(s, c * steps, tolerance=TOLERANCE)
                            for s, c in zip(by_parameter, counts, strict=True)
                        ]
                    )
                ),
            ),
            Check(
                name="standard deviation of the noise of the most unusual coordinate, relative to the claim",
                claimed=1.0,
                found=math.sqrt(worst / steps),
                p_value=min(1.0, d * min(tails.chi_square(s, steps, tolerance=TOLERANCE) for s in extremes)),
            ),
            Check(
                name="mean of the noise, in standard deviations of that mean",
                claimed=0.0,
                found=mean * math.sqrt(n),
                p_value=tails.normal(mean * math.sqrt(n)),
            ),
            Check(
                name="kurtosis of the noise (3 for a Gaussian)",
                claimed=3.0,
                found=fourth / square**2 if square else 0.0,
                p_value=_kurtosis(fourth / square**2 if square else 0.0, n),
            ),
            Check(
                name="largest correlation of the noise with itself at any distance between coordinates",
                claimed=0.0,
                found=self._lagged,
                p_value=tails.correlation(self._lagged, d, max(1, self._lags)),
            ),
        ]
        if steps > 1:
            found += [
                Check(
                    name="mean correlation of the noise of consecutive steps",
                    claimed=0.0,
                    found=self._neighbours / (steps - 1),
                    p_value=tails.normal(self._neighbours * math.sqrt(d / (steps - 1))),
                ),
                Check(
                    name="largest correlation of the noise of two steps",
                    claimed=0.0,
                    found=self._closest,
                    p_value=tails.correlation(self._closest, len(self._watched), max(1, self._compared)),
                ),
            ]
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return everything that was added up."""
        return {
            "squares": self._squares,
            "last": self._last,
            "watched": self._watched,
            "kept": self._kept,
            "sums": torch.from_numpy(self._sums.copy()),
            "numbers": [
                self._steps,
                self._compared,
                self._lags,
                self._neighbours,
                self._length,
                self._closest,
                self._lagged,
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the steps of :meth:`state_dict`."""
        self._squares.copy_(state["squares"])
        self._last.copy_(state["last"])
        self._watched.copy_(state["watched"])
        self._kept = state["kept"].clone()
        self._sums = state["sums"].numpy().copy()
        self._steps, self._compared, self._lags, *numbers = state["numbers"]
        self._neighbours, self._length, self._closest, self._lagged = numbers

    def _compare_lags(self, noise: Tensor) -> None:
        d = len(noise)
        spectrum = torch.fft.rfft(noise)
        found = torch.fft.irfft(spectrum.abs().square(), n=d)
        correlations = (found[1 : d // 2 + 1] / found[0].clamp_min(1e-30)).abs()
        if len(correlations):
            self._lagged = max(self._lagged, float(correlations.max()))
            self._lags += len(correlations)

    def _compare_steps(self, noise: Tensor) -> None:
        unit = noise / noise.norm().clamp_min(1e-30)
        if len(self._kept):
            self._closest = max(self._closest, float((self._kept @ unit).abs().max()))
            self._compared += len(self._kept)
        if len(self._kept) < KEPT:
            self._kept = torch.cat([self._kept, unit[None]])
        elif (place := int(self._generator.integers(self._steps + 1))) < KEPT:
            self._kept[place] = unit  # every earlier step is kept with the same probability


def _kurtosis(found: float, n: int) -> float:
    """Return the p-value of the kurtosis of n values, by the transformation of Anscombe and Glynn (1983)."""
    expected = 3 * (n - 1) / (n + 1)
    variance = 24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))
    skew = (
        6
        * (n * n - 5 * n + 2)
        / ((n + 7) * (n + 9))
        * math.sqrt(6 * (n + 3) * (n + 5) / (n * (n - 2) * (n - 3)))
    )
    a = 6 + 8 / skew * (2 / skew + math.sqrt(1 + 4 / skew**2))
    x = (found - expected) / math.sqrt(variance)
    base = (1 - 2 / a) / (1 + x * math.sqrt(2 / (a - 4)))
    z = (1 - 2 / (9 * a) - math.copysign(abs(base) ** (1 / 3), base)) / math.sqrt(2 / (9 * a))
    return tails.normal(z)
