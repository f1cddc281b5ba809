"""Comparisons of dpmi's step with a peer's: first that both give the same weights, then their time in turns."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..in_turns import between
from .environments import NotInstalled
from .protocol import Arrays, WorkerEnded
from .rows import ORDINARY, Row
from .ways import Way, initial, ordinary, ours, peer


@dataclass(frozen=True)
class Comparison:
    """dpmi and one peer.

    Args:
        row: name of the row.
        peer: name of the peer.
        users: users that take part.
        all_users: users of the row.
        batch_size: best batch size of non-private training.
        difference: distance of the weights after one step, divided by the length of the step.
        rounds: seconds of a step of dpmi, of the peer, and of dpmi again.
        limit: the most of non-private training's `ratio`, the least of a peer's.
        refused: why there is no comparison.
    """

    row: str
    peer: str
    users: int
    all_users: int
    limit: float | None
    batch_size: int | None = None
    difference: float | None = None
    rounds: Sequence[tuple[float, float, float]] = ()
    refused: str = ""

    @property
    def ratio(self) -> float:
        """Time of dpmi / time without privacy, or time of the peer / time of dpmi; the median of the rounds."""
        median = statistics.median(2 * theirs / (before + after) for before, theirs, after in self.rounds)
        return 1 / median if self.peer == ORDINARY else median

    @property
    def noise(self) -> float:
        """The largest distance from 1 of dpmi's time / its own time in the same round."""
        return max(max(before / after, after / before) for before, _, after in self.rounds) - 1

    @property
    def met(self) -> bool:
        """Whether the ratio is within the limit, if there is one."""
        if self.limit is None:
            return True
        return self.ratio <= self.limit if self.peer == ORDINARY else self.ratio >= self.limit


def comparisons(row: Row, seconds: float) -> Iterator[Comparison]:
    """Compare dpmi with every peer of a row, each for ``seconds`` and at least one round.

    A peer that is not installed, that ends, or whose step is another one, is not timed; ``refused`` says why.
    """
    started: dict[int, tuple[Way, Arrays]] = {}
    for name in row.peers:
        users = row.users(name)
        data = row.data(users)
        if users not in started:
            way = ours(row, data)
            way.step()
            started[users] = way, way.weights()
        way, weights = started[users]
        empty = Comparison(row.name, name, users, len(row.sizes), _limit(row, name))
        if name == ORDINARY:
            size = best_batch_size(row)
            other = ordinary(row, data, size)
            other.step()
            yield replace(empty, batch_size=size, rounds=between(way.step, other.step, seconds))
            continue
        try:
            with peer(name, row, data) as other:
                other.step()
                gap = difference(row, other.weights(), weights)
                if gap <= row.tolerance:
                    yield replace(empty, difference=gap, rounds=between(way.step, other.step, seconds))
                else:
                    reason = (
                        f"its step differs from dpmi's by {gap:.2g} of its length (at most {row.tolerance:g})"
                    )
                    yield replace(empty, difference=gap, refused=reason)
        except (NotInstalled, WorkerEnded) as error:
            yield replace(empty, refused=str(error))


def difference(row: Row, one: Arrays, other: Arrays) -> float:
    """Distance of the weights after one step, divided by the length of the step; infinite if a name differs."""
    before = initial(row)
    if not one.keys() == other.keys() == before.keys():
        return float("inf")
    gap, length = (
        np.linalg.norm([np.linalg.norm(other[name].astype(float) - arrays[name]) for name in before])
        for arrays in (one, before)
    )
    return float(gap / length)


def best_batch_size(row: Row) -> int:
    """The batch size at which an epoch over the fewest users of the row's comparisons takes least time."""
    data = row.data(min(row.users(name) for name in row.peers))
    ways = {size: ordinary(row, data, size) for size in row.batch_sizes}
    turns = [{size: way.step() for size, way in ways.items()} for _ in range(3)]
    return min(ways, key=lambda size: min(turn[size] for turn in turns[1:]))


def _limit(row: Row, name: str) -> float | None:
    return row.most_time if name == ORDINARY else row.least_speed.get(name)
