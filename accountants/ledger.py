"""What a run has spent so far: which steps, how many of each."""

from __future__ import annotations

from dataclasses import dataclass

from accountants import checks, documents, ledger_json
from accountants.guarantee import Adjacency, Guarantee
from accountants.mechanism import BucketMechanism


@dataclass(frozen=True)
class Ledger:
    """A run-length list of steps; a value, so a checkpoint of it is a copy of it.

    Counts are kept because composing 200 equal steps one by one costs two hundred convolutions, at once it
    costs one. What several training runs on the same partition cost together is what the sum of their
    ledgers costs: `first + second`, or `sum(ledgers, Ledger())`.

    Attributes:
        runs: (mechanism, steps) in the order they were taken, steps >= 1.

    Raises:
        TypeError, ValueError: a run is not a (BucketMechanism, positive int) pair.
    """

    runs: tuple[tuple[BucketMechanism, int], ...] = ()

    def __post_init__(self) -> None:
        """Check what a checkpoint or a caller hands in; counts become plain ints, which JSON can hold."""
        for mechanism, _ in self.runs:
            if not isinstance(mechanism, BucketMechanism):
                raise TypeError(f"runs must hold (BucketMechanism, steps) pairs, got {mechanism!r}")
        runs = tuple((mechanism, checks.integer("steps", steps, minimum=1)) for mechanism, steps in self.runs)
        object.__setattr__(self, "runs", runs)

    def record(self, mechanism: BucketMechanism, steps: int = 1) -> Ledger:
        """Return a ledger with `steps` >= 0 more steps; merges into the last run when it is the same
        mechanism."""
        steps = checks.integer("steps", steps, minimum=0)
        if steps == 0:
            return self
        if self.runs and self.runs[-1][0] == mechanism:
            return Ledger((*self.runs[:-1], (mechanism, self.runs[-1][1] + steps)))
        return Ledger((*self.runs, (mechanism, steps)))

    def __add__(self, other: Ledger) -> Ledger:
        """Return the steps of both, those of `other` last."""
        if not isinstance(other, Ledger):
            return NotImplemented
        if not other.runs:
            return self
        (mechanism, steps), *rest = other.runs
        return Ledger((*self.record(mechanism, steps).runs, *rest))

    @property
    def steps(self) -> int:
        """Number of steps in all."""
        return sum(steps for _, steps in self.runs)

    @property
    def totals(self) -> dict[BucketMechanism, int]:
        """Steps per distinct mechanism: composition does not depend on the order."""
        totals: dict[BucketMechanism, int] = {}
        for mechanism, steps in self.runs:
            totals[mechanism] = totals.get(mechanism, 0) + steps
        return totals

    @property
    def noiseless(self) -> bool:
        """Whether some step adds no noise, so that no epsilon bounds what was released."""
        return any(mechanism.noise_multiplier == 0 for mechanism, _ in self.runs)

    @property
    def hash(self) -> str:
        """SHA-256, in hex, of the runs in their order: what a statement is tied to."""
        return documents.digest(ledger_json.content(self))

    def to_json(self) -> str:
        """Return the runs, their number of steps and their hash as JSON; equal ledgers give equal texts.

        >>> ledger = Ledger().record(BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6), steps=200)
        >>> Ledger.from_json(ledger.to_json()) == ledger
        True
        """
        return documents.dump(documents.sealed(ledger_json.content(self)))

    @classmethod
    def from_json(cls, text: str) -> Ledger:
        """Return the ledger that `to_json` wrote.

        Raises:
            ValueError: the text is not that, whole and unchanged; the message names the part, its value and
                what was expected.
        """
        with documents.inside("ledger"):
            return ledger_json.read(documents.load(text))

    def guarantee(
        self,
        *,
        delta: float,
        unit: str,
        adjacency: Adjacency = "replace",
        accountant: str = "tight",
        buckets: int | None = None,
    ) -> Guarantee:
        """Return what the recorded steps cost; see `accountants.epsilon` for arguments, errors and
        warnings."""
        # Accountants are functions over a Ledger, so the registry cannot be imported before this class
        # exists.
        from accountants.registry import account  # noqa: PLC0415

        return account(
            self, delta=delta, unit=unit, adjacency=adjacency, accountant=accountant, buckets=buckets
        )
