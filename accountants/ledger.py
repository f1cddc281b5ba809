"""What a run has spent so far: which steps, how many of each."""

from __future__ import annotations

from dataclasses import dataclass

from accountants import checks
from accountants.guarantee import Adjacency, Guarantee
from accountants.mechanism import BucketMechanism


@dataclass(frozen=True)
class Ledger:
    """A run-length list of steps; a value, so a checkpoint of it is a copy of it.

    Counts are kept because composing 200 equal steps one by one costs two hundred convolutions, at once it
    costs one.

    Attributes:
        runs: (mechanism, steps) in the order they were taken, steps >= 1.

    Raises:
        TypeError, ValueError: a run is not a (BucketMechanism, positive int) pair.
    """

    runs: tuple[tuple[BucketMechanism, int], ...] = ()

    def __post_init__(self) -> None:
        """Check what a checkpoint or a caller hands in."""
        for mechanism, steps in self.runs:
            if not isinstance(mechanism, BucketMechanism):
                raise TypeError(f"runs must hold (BucketMechanism, steps) pairs, got {mechanism!r}")
            checks.integer("steps", steps, minimum=1)

    def record(self, mechanism: BucketMechanism, steps: int = 1) -> Ledger:
        """Return a ledger with `steps` >= 0 more steps; merges into the last run when it is the same
        mechanism."""
        steps = checks.integer("steps", steps, minimum=0)
        if steps == 0:
            return self
        if self.runs and self.runs[-1][0] == mechanism:
            return Ledger((*self.runs[:-1], (mechanism, self.runs[-1][1] + steps)))
        return Ledger((*self.runs, (mechanism, steps)))

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
