"""Checks of the draws of a run: every bucket independently, with the claimed probability, whatever its content."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from ..finding import Check
from ..partition import IntArray
from . import tails
from .canaries import Coins


class DrawRecord:
    """Adds up which buckets took part in every released step.

    Args:
        buckets: number K of buckets of the partition; the canaries' ids follow.
        coins: the canaries' coins.
    """

    def __init__(self, buckets: int, coins: Coins) -> None:
        self._buckets = buckets
        self._coins = coins
        self._times = np.zeros(buckets + len(coins.sign), dtype=np.int64)
        self._sizes: list[int] = []
        self._before: IntArray = np.zeros(0, dtype=np.int64)
        self._common = self._again = 0
        self._seen: set[bytes] = set()

    def add(self, drawn: IntArray) -> None:
        """See the ids of the buckets and canaries of one step, ascending."""
        self._times[drawn] += 1
        if self._sizes:
            self._common += len(np.intersect1d(self._before, drawn, assume_unique=True))
        self._before = drawn
        name = hashlib.sha256(drawn.tobytes()).digest()
        self._again += name in self._seen
        self._seen.add(name)
        self._sizes.append(len(drawn))

    @property
    def of_canaries(self) -> NDArray[np.int64]:
        """Number of steps that each canary took part in, (m,)."""
        return self._times[self._buckets :]

    def checks(self, sampling_rate: float) -> list[Check]:
        """Return the checks of everything so far, against the claimed rate q."""
        steps, n, q = len(self._sizes), len(self._times), sampling_rate
        sizes = np.array(self._sizes)
        found = []
        groups = {"buckets": self._times[: self._buckets], "canaries": self.of_canaries}
        for name, times in groups.items():
            found.append(
                Check(
                    name=f"share of the {name} that a step draws",
                    claimed=q,
                    found=float(times.sum() / (len(times) * steps)),
                    p_value=tails.both(stats.binom(len(times) * steps, q), int(times.sum())),
                )
            )
        unusual = int(np.argmax(np.abs(self._times - steps * q)))
        found += [
            Check(
                name="share of the steps that draw the most unusual bucket",
                claimed=q,
                found=float(self._times[unusual] / steps),
                p_value=min(
                    1.0,
                    n
                    * min(
                        tails.both(stats.binom(steps, q), int(t))
                        for t in (self._times.min(), self._times.max())
                    ),
                ),
            ),
            Check(
                name="standard deviation of the number of drawn buckets",
                claimed=float(np.sqrt(n * q * (1 - q))),
                found=float(np.sqrt(np.mean((sizes - n * q) ** 2))),
                p_value=tails.spread(sizes, n, q),
            ),
            Check(
                name="share of the steps that draw nothing",
                claimed=float((1 - q) ** n),
                found=float(np.mean(sizes == 0)),
                p_value=tails.both(stats.binom(steps, (1 - q) ** n), int((sizes == 0).sum())),
            ),
            self._check_of_coins(steps),
        ]
        if steps > 1:
            first, second = sizes[:-1], sizes[1:]
            found.append(
                Check(
                    name="number of buckets that consecutive steps have in common, in all steps",
                    claimed=float((first * second / n).sum()),
                    found=float(self._common),
                    p_value=tails.overlap(self._common, first, second, n),
                )
            )
            pairs = steps * (steps - 1) / 2
            expected = pairs * (q * q + (1 - q) ** 2) ** n
            found.append(
                Check(
                    name="steps that draw the same as an earlier step",
                    claimed=0.0,
                    found=float(self._again),
                    p_value=min(1.0, expected) if self._again else 1.0,  # Markov's inequality
                )
            )
        return found

    def _check_of_coins(self, steps: int) -> Check:
        """Compare the draws of canaries with heads and with tails, given the draws of all."""
        heads = self._coins.heads
        drawn, mine = int(self.of_canaries.sum()), int(self.of_canaries[heads].sum())
        law = stats.hypergeom(len(heads) * steps, int(heads.sum()) * steps, drawn)
        return Check(
            name="draws of the canaries that are in, or in their own direction",
            claimed=drawn * float(heads.mean()),
            found=float(mine),
            p_value=tails.both(law, mine),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return everything that was added up."""
        return {
            "times": torch.from_numpy(self._times.copy()),
            "sizes": torch.tensor(self._sizes, dtype=torch.int64),
            "before": torch.from_numpy(np.array(self._before)),
            "common": self._common,
            "again": self._again,
            "seen": [name.hex() for name in sorted(self._seen)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the steps of :meth:`state_dict`."""
        self._times = state["times"].numpy().copy()
        self._sizes = state["sizes"].tolist()
        self._before = state["before"].numpy().copy()
        self._common, self._again = int(state["common"]), int(state["again"])
        self._seen = {bytes.fromhex(name) for name in state["seen"]}
