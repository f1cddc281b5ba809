"""The best of a random number of private runs, for the price of two or three: :meth:`PrivacyEngine.search`.

>>> import torch
>>> from torch.utils.data import DataLoader, TensorDataset
>>> from accountants import Tries
>>> x = torch.randn(40, 3)
>>> y = (x[:, 0] > 0).long()
>>> from dpmi.privacy import Partition, PrivacyEngine
>>> users = Partition.by_column([record // 4 for record in range(40)])
>>> def train(engine, rate):
...     model = torch.nn.Linear(3, 2)
...     optimizer = torch.optim.SGD(model.parameters(), lr=rate)
...     model, optimizer, criterion, loader = engine.make_private(
...         module=model, optimizer=optimizer, criterion=torch.nn.CrossEntropyLoss(), partition=users,
...         data_loader=DataLoader(TensorDataset(x, y)), sampling_rate=0.5, noise_multiplier=8.0,
...         max_grad_norm=1.0, steps_per_epoch=20)
...     for inputs, labels in loader:
...         optimizer.zero_grad()
...         criterion(model(inputs), labels).backward()
...         optimizer.step()
...     return model
>>> public_x = torch.randn(100, 3)
>>> def accuracy(model):
...     return float((model.eval()(public_x).argmax(1) == (public_x[:, 0] > 0)).float().mean())
>>> engine = PrivacyEngine()
>>> best = engine.search(
...     train, accuracy, candidates=[0.1, 1.0, 10.0], partition=users, sampling_rate=0.5,
...     noise_multiplier=8.0, steps=20, tries=Tries(mean=5))
>>> best.candidate in (0.1, 1.0, 10.0), round(engine.guarantee(delta=1e-3).epsilon, 2)
(True, 3.16)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Generic, Protocol, TypeVar

import torch

from accountants import BucketMechanism, Ledger, Tries

from .account import Account, combine
from .limits import OneRun
from .noise import NoiseSource
from .partition import Partition

Candidate = TypeVar("Candidate")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Best(Generic[Candidate, Result]):
    """The run that a search releases.

    Attributes:
        candidate: the hyper-parameters that it was made with.
        score: its score; -infinity if that was not a number in any run.
        result: what ``train`` returned.
    """

    candidate: Candidate
    score: float
    result: Result


class Engine(Protocol):
    """What a search needs of the engine of one run; it is a :class:`PrivacyEngine`."""

    @property
    def is_private(self) -> bool:
        """Whether ``make_private`` was called."""

    @property
    def account(self) -> Account:
        """What the run has released."""

    def end(self) -> None:
        """Refuse every further step."""


Running = TypeVar("Running", bound=Engine)


class Search(Generic[Running]):
    """Runs a random number of tries, keeps the best, and knows at any time what was released.

    Until the search is over, everything that its runs released counts, as if all of them were published: whoever sees
    how it was interrupted may have seen more than the best run.

    Args:
        new_engine: returns the engine of one run, which is held to a limit.
        partition, step, steps: the limit of every run; see :class:`OneRun`.
        tries: the distribution of the number of runs.
        source: the secret draws of that number, and of the candidates.
    """

    def __init__(
        self,
        new_engine: Callable[[OneRun], Running],
        *,
        partition: Partition,
        step: BucketMechanism,
        steps: int,
        tries: Tries,
        source: NoiseSource,
    ) -> None:
        if not isinstance(tries, Tries):
            raise TypeError(
                f"tries must be accountants.Tries, the distribution of a random number, got {tries!r}"
            )
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            raise ValueError(
                "search runs in one process; run it outside of a process group of torch.distributed"
            )
        self._planned = Ledger().record(step, steps)
        self._limit = OneRun(step=step, steps=steps, partition=partition)
        self._new_engine = new_engine
        self._tries = tries
        self._source = source
        self._accounts: list[Account] = []
        self._running: Running | None = None
        self._over = False

    @property
    def account(self) -> Account:
        """What was released: the best run, or everything while the search is not over.

        Raises:
            RuntimeError: no run has called ``make_private`` yet.
        """
        running = [] if self._running is None or not self._running.is_private else [self._running.account]
        if not (accounts := [*self._accounts, *running]):
            raise RuntimeError("no run of this search has called make_private yet, so nothing was released")
        (composed,) = combine(accounts)
        composed = dataclasses.replace(composed, noise=composed.noise.weaker(self._source.mode))
        return (
            dataclasses.replace(composed, ledger=self._planned, rule=self._tries) if self._over else composed
        )

    def run(
        self,
        train: Callable[[Running, Candidate], Result],
        score: Callable[[Result], float],
        candidates: Sequence[Candidate],
    ) -> Best[Candidate, Result]:
        """Return the best of a random number of runs, each with a candidate that is drawn uniformly."""
        if not len(candidates):
            raise ValueError("candidates is empty; give at least one")
        best: Best[Candidate, Result] | None = None
        for _ in range(self._tries.draw(float(self._source.uniform(1)))):
            candidate = candidates[int(float(self._source.uniform(1)) * len(candidates))]
            self._running = self._new_engine(self._limit)
            result = train(self._running, candidate)
            if not self._running.is_private:
                raise ValueError(
                    "train did not call make_private of the engine that it was given, so what it trained is not "
                    "accounted for; use that engine, and no other"
                )
            self._running.end()
            # Steps of a checkpoint were not checked one by one.
            self._limit.check(self._running.account.ledger)
            value = _number(score(result))
            self._accounts.append(self._running.account)
            self._running = None
            if best is None or value > best.score:
                best = Best(candidate, value, result)
        self._over = True
        assert best is not None  # there is at least one try
        return best


def _number(score: object) -> float:
    if isinstance(score, bool) or not isinstance(score, Real):
        raise TypeError(f"score must return a real number, got {score!r}")
    # A run that diverged has lost; raising would tell that it did.
    return -math.inf if math.isnan(float(score)) else float(score)
