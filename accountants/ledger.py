"""The privacy ledger of a run: which steps it has taken, and how many of each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from accountants import checks, registry, sealed_json
from accountants.guarantee import Adjacency, Guarantee
from accountants.mechanism import (
    SAMPLERS,
    BucketMechanism,
    Mechanism,
    adjacencies,
    noiseless,
    sampler,
    steps_of,
)

FORMAT, VERSION, WITH_SAMPLERS = "dpmi-ledger", 1, 2
"""Format of a ledger as JSON, and its version: WITH_SAMPLERS if a run is not Poisson-sampled, else VERSION. An auditor
can read it; a program reads it back exactly or not at all."""


@dataclass(frozen=True)
class Ledger:
    """An immutable run-length list of steps.

    It stores counts because 200 equal steps compose in one convolution instead of 200. The joint cost of several
    training runs on the same partition is the cost of the sum of their ledgers: `first + second`, or
    `sum(ledgers, Ledger())`.

    Attributes:
        runs: (mechanism, steps) in the order they were taken, steps >= 1; of a :class:`BallsInBins`, the number of its
            passes.

    Raises:
        TypeError, ValueError: a run is not a (mechanism, positive int) pair.
    """

    runs: tuple[tuple[Mechanism, int], ...] = ()

    def __post_init__(self) -> None:
        for mechanism, _ in self.runs:
            # A step as a larger unit sees it, which is a subclass, is not what was released.
            if type(mechanism) not in SAMPLERS.values():
                kinds = ", ".join(kind.__name__ for kind in SAMPLERS.values())
                raise TypeError(f"runs must hold (mechanism, steps) pairs with a {kinds}, got {mechanism!r}")
        runs = tuple((mechanism, checks.integer("steps", steps, minimum=1)) for mechanism, steps in self.runs)
        object.__setattr__(self, "runs", runs)

    def record(self, mechanism: Mechanism, steps: int = 1) -> Ledger:
        """Return a ledger with `steps` >= 0 more steps, merged into the last run if its mechanism is the same.

        Of a :class:`BallsInBins`, it is so many passes.
        """
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
        """Total number of steps, with all steps of every charged pass."""
        return sum(steps * steps_of(mechanism) for mechanism, steps in self.runs)

    @property
    def totals(self) -> dict[Mechanism, int]:
        """Steps per distinct mechanism. The order is dropped, because composition does not depend on it."""
        totals: dict[Mechanism, int] = {}
        for mechanism, steps in self.runs:
            totals[mechanism] = totals.get(mechanism, 0) + steps
        return totals

    @property
    def adjacencies(self) -> tuple[Adjacency, ...]:
        """The adjacencies under which the recorded steps have an epsilon."""
        return adjacencies(mechanism for mechanism, _ in self.runs)

    @property
    def noiseless(self) -> bool:
        """Whether any step adds no noise; then no epsilon bounds the release."""
        return noiseless(mechanism for mechanism, _ in self.runs)

    @property
    def hash(self) -> str:
        """SHA-256, in hex, of the runs in their order; a statement refers to it."""
        return sealed_json.digest(self._content())

    def to_json(self) -> str:
        """Return the runs, their number of steps and their hash as JSON; equal ledgers give equal texts.

        >>> ledger = Ledger().record(BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6), steps=200)
        >>> Ledger.from_json(ledger.to_json()) == ledger
        True
        """
        return sealed_json.dump(self.to_document())

    @classmethod
    def from_json(cls, text: str) -> Ledger:
        """Return the ledger that `to_json` wrote.

        Raises:
            ValueError: the text is not a complete and unchanged ledger; the message names the part, its value and
                the expected value.
        """
        with sealed_json.inside("ledger"):
            return cls.from_document(sealed_json.load(text))

    def to_document(self) -> dict[str, Any]:
        """Return the content that `to_json` writes, as a part of a larger document."""
        return sealed_json.sealed(self._content())

    @classmethod
    def from_document(cls, document: Any) -> Ledger:
        """Return the ledger that `to_document` returned.

        Raises:
            ValueError: a part is missing, unknown, out of range, or inconsistent with the rest.
        """
        stated = document.get("version") if isinstance(document, dict) else None
        version = WITH_SAMPLERS if stated == WITH_SAMPLERS else VERSION
        found = sealed_json.fields(document, format=FORMAT, version=version, names=("runs", "steps"))
        runs = enumerate(sealed_json.items("runs", found["runs"]))
        read = _run if version == VERSION else _run_with_sampler
        ledger = cls(tuple(read(f"runs[{index}]", run) for index, run in runs))
        steps = checks.integer("steps", found["steps"], minimum=0)
        if steps != ledger.steps:
            raise ValueError(f"steps must be {ledger.steps}, the sum over the runs, got {steps}")
        sealed_json.check_hash(found["sha256"], ledger.hash)
        return ledger

    def _content(self) -> dict[str, Any]:
        """Return the content that the hash covers."""
        plain = all(type(mechanism) is BucketMechanism for mechanism, _ in self.runs)
        runs: list[dict[str, Any]] = [
            # As written before there were other samplers, so that hashes of old ledgers stay what they are.
            {**vars(mechanism), "steps": steps}
            if plain
            else {"sampler": sampler(mechanism), **vars(mechanism), "times": steps}
            for mechanism, steps in self.runs
        ]
        return {
            "format": FORMAT,
            "version": VERSION if plain else WITH_SAMPLERS,
            "steps": self.steps,
            "runs": runs,
        }

    def guarantee(
        self,
        *,
        delta: float,
        unit: str,
        adjacency: Adjacency = "replace",
        accountant: str = "tight",
        buckets: int | None = None,
        buckets_per_unit: int = 1,
    ) -> Guarantee:
        """Return the (epsilon, delta) of the recorded steps; arguments, errors and warnings as in
        `accountants.epsilon`."""
        return registry.account(
            self.totals,
            delta=delta,
            unit=unit,
            adjacency=adjacency,
            accountant=accountant,
            buckets=buckets,
            buckets_per_unit=buckets_per_unit,
        )


def epsilon(
    *,
    sampling_rate: float,
    noise_multiplier: float,
    steps: int,
    delta: float,
    unit: str,
    adjacency: Adjacency = "replace",
    accountant: str = "tight",
    buckets: int | None = None,
    buckets_per_unit: int = 1,
) -> Guarantee:
    """Return the (epsilon, delta) of `steps` equal steps.

    Args:
        sampling_rate: probability in (0, 1] of drawing one bucket.
        noise_multiplier: std / max_grad_norm, >= 0; 0 gives an infinite epsilon.
        steps: number of steps, >= 0; 0 gives epsilon 0.
        delta: in (0, 1); the tight accountant needs at least 1e-10.
        unit: what is protected as a whole, which is what one bucket is, unless ``buckets_per_unit`` says otherwise:
            "class", "subclass", a column name.
        adjacency: "replace" one unit, or "add_remove" one unit.
        accountant: a name in `ACCOUNTANTS`.
        buckets: K, the number of buckets, if known; used only to warn about a delta of 1/K or more.
        buckets_per_unit: k, the most separately sampled buckets that one unit owns, such as the records of a user in a
            record-level run; see docs/decisions/several_buckets.md.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range, or the accountant cannot compute
            this run; the message says what to change.

    Warns:
        UserWarning: delta >= 1 / buckets; noise_multiplier is 0.

    >>> round(epsilon(sampling_rate=0.01, noise_multiplier=1, steps=1000, delta=1e-5, unit="user").epsilon, 2)
    2.84
    """
    mechanism = BucketMechanism(sampling_rate=sampling_rate, noise_multiplier=noise_multiplier)
    return registry.account(
        Ledger().record(mechanism, steps).totals,
        delta=delta,
        unit=unit,
        adjacency=adjacency,
        accountant=accountant,
        buckets=buckets,
        buckets_per_unit=buckets_per_unit,
    )


def _run(where: str, value: Any) -> tuple[BucketMechanism, int]:
    with sealed_json.inside(where):
        run = sealed_json.exactly(value, ("sampling_rate", "noise_multiplier", "steps"))
        mechanism = BucketMechanism(
            sampling_rate=run["sampling_rate"], noise_multiplier=run["noise_multiplier"]
        )
        return mechanism, checks.integer("steps", run["steps"], minimum=1)


def _run_with_sampler(where: str, value: Any) -> tuple[Mechanism, int]:
    with sealed_json.inside(where):
        name = value.get("sampler") if isinstance(value, dict) else None
        if not isinstance(name, str) or name not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {name!r}")
        kind = SAMPLERS[name]
        names = [field.name for field in dataclasses.fields(kind)]
        run = sealed_json.exactly(value, ("sampler", *names, "times"))
        return kind(**{each: run[each] for each in names}), checks.integer("times", run["times"], minimum=1)
