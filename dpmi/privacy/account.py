"""The account of a finished or running training: its ledger, and the facts that its privacy statement needs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from accountants import Adjacency, Guarantee, Ledger, checks, rules, sealed_json
from accountants.rules import Rule

from .finding import Finding
from .noise import NoiseMode
from .partition import Provenance

SEEDED = (
    "not private: noise and sampling came from a user's seed, and anyone who knows the seed can "
    "remove the noise; epsilon is that of the same run with secret randomness"
)
CONDITIONAL = {
    Provenance.FITTED: "conditional on the partition: the buckets were fitted on the private records, so one record "
    "can change the bucket of others",
    Provenance.OWNERS: "conditional on who owns which record, which counts as public: neighbouring data sets have the "
    "same records with the same owners, and differ in the content of all records of one owner (replace), or in whether "
    "these records contribute (add_remove). That somebody owns a record is not protected, because with other owners "
    "other records would have been left out",
}
"""The condition of a guarantee, for every provenance that is conditional."""
Member = TypeVar("Member", bound=Enum)
FORMAT, VERSION = "dpmi-account", 2
"""Format of a saved account, and the version of one that needs none of `_SINCE`."""

_SINCE = {"findings": 3, "adaptive": 4, "buckets_per_unit": 5, "rule": 6}
"""The first version with a field; a file has the lowest version that has all fields that differ from their defaults."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """The facts that a privacy statement is based on.

    Args:
        ledger: every released step.
        unit: what is protected as a whole: one bucket, or an owner of up to ``buckets_per_unit`` buckets.
        buckets: K, public.
        provenance: what the partition was computed from.
        partition_hash: SHA-256 of the partition, in hex.
        max_grad_norms: S, the clipping norm; several if training runs with different ones were composed.
            Epsilon does not depend on it. Stored without duplicates, ascending.
        noise: the source of noise and draws; the weakest one if training runs were composed.
        findings: what audits found, one per audited training run.
        adaptive: whether clipping adapted in a training run, so that ``max_grad_norms`` are the first norms only.
        buckets_per_unit: k, the most buckets that one unit owns, from 1 to K.
        rule: how the guarantee follows from the ledger, if not by composing its steps: of the best of several runs, or
            under a privacy filter.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range.

    Example:
        >>> from accountants import BucketMechanism
        >>> account = Account(
        ...     ledger=Ledger().record(BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6), steps=200),
        ...     unit="class", buckets=10, provenance=Provenance.RECORD, partition_hash=64 * "0",
        ...     max_grad_norms=(3.0,), noise=NoiseMode.SECURE)
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "account.json")
        ...     _ = path.write_text(account.to_json(), encoding="utf-8")
        ...     Account.from_json(path.read_text(encoding="utf-8")) == account
        True
    """

    ledger: Ledger
    unit: str
    buckets: int
    provenance: Provenance
    partition_hash: str
    max_grad_norms: tuple[float, ...]
    noise: NoiseMode
    findings: tuple[Finding, ...] = ()
    adaptive: bool = False
    buckets_per_unit: int = 1
    rule: Rule | None = None

    def __post_init__(self) -> None:
        checks.unit(self.unit)
        object.__setattr__(self, "buckets", checks.integer("buckets", self.buckets, minimum=1))
        if not isinstance(self.partition_hash, str) or not re.fullmatch("[0-9a-f]{64}", self.partition_hash):
            raise ValueError(
                f"partition_hash must be 64 hexadecimal digits, got {self.partition_hash!r}; it is Partition.hash"
            )
        norms = sorted({checks.real("max_grad_norms", norm) for norm in self.max_grad_norms})
        if not norms or norms[0] <= 0:
            raise ValueError(f"max_grad_norms must be one or more numbers above 0, got {norms}")
        if not isinstance(self.noise, NoiseMode):
            raise TypeError(f"noise must be a NoiseMode, got {self.noise!r}")
        object.__setattr__(self, "max_grad_norms", tuple(norms))
        owned = checks.integer("buckets_per_unit", self.buckets_per_unit, minimum=1)
        if owned > self.buckets:
            raise ValueError(
                f"buckets_per_unit must be at most {self.buckets}, the number of buckets, got {owned}"
            )
        object.__setattr__(self, "buckets_per_unit", owned)

    def guarantee(
        self, delta: float, *, adjacency: Adjacency = "replace", accountant: str = "tight"
    ) -> Guarantee:
        """Return (epsilon, delta) for one unit; its caveats include every condition of the account.

        Args:
            delta: in (0, 1), and well below 1 / K.
            adjacency: "replace" or "add_remove".
            accountant: a name in ``accountants.ACCOUNTANTS``; "tight" if a unit owns several buckets. It has no effect
                on an account with a rule.

        Raises:
            TypeError, ValueError: as :meth:`accountants.Ledger.guarantee` does.
        """
        of: dict[str, Any] = {
            "delta": delta,
            "unit": self.unit,
            "adjacency": adjacency,
            "buckets": self.buckets,
            "buckets_per_unit": self.buckets_per_unit,
        }
        if self.rule is not None:
            result = self.rule.guarantee(self.ledger, **of)
        else:
            result = self.ledger.guarantee(**of, accountant=accountant)
        return dataclasses.replace(
            result,
            is_guarantee=result.is_guarantee and self.noise is not NoiseMode.SEEDED,
            caveats=self.caveats + result.caveats,
        )

    @property
    def caveats(self) -> tuple[str, ...]:
        """The conditions of every epsilon of this account, one text each."""
        seeded = self.noise is NoiseMode.SEEDED
        return ((CONDITIONAL[self.provenance],) if self.provenance.conditional else ()) + (
            (SEEDED,) if seeded else ()
        )

    def to_json(self) -> str:
        """Return the facts, including the ledger, and their hash as JSON.

        Write one file per engine when it has finished: `dpmi statement` composes them.
        """
        return sealed_json.dump(sealed_json.sealed(_content(self)))

    @classmethod
    def from_json(cls, text: str) -> Account:
        """Return the account that `to_json` wrote.

        Raises:
            ValueError: the text is not a complete and unchanged account; the message names the part, its value and
                the expected value.
        """
        with sealed_json.inside("account"):
            content = sealed_json.load(text)
            version = content.get("version") if isinstance(content, dict) else None
            version = version if type(version) is int and version in _SINCE.values() else VERSION
            names = [
                field.name for field in dataclasses.fields(cls) if _SINCE.get(field.name, VERSION) <= version
            ]
            document = sealed_json.fields(content, format=FORMAT, version=version, names=names)
            values = {name: document[name] for name in names}
            values["provenance"] = _member(Provenance, "provenance", document["provenance"])
            values["noise"] = _member(NoiseMode, "noise", document["noise"])
            values["max_grad_norms"] = tuple(sealed_json.items("max_grad_norms", values["max_grad_norms"]))
            if not isinstance(values.get("adaptive", False), bool):
                raise ValueError(f"adaptive must be true or false, got {values['adaptive']!r}")
            if "findings" in values:
                values["findings"] = _findings(document["findings"])
            if "rule" in values:
                with sealed_json.inside("rule"):
                    values["rule"] = rules.from_dict(values["rule"])
            with sealed_json.inside("ledger"):
                values["ledger"] = Ledger.from_document(values["ledger"])
            account = cls(**values)
            sealed_json.check_hash(document["sha256"], sealed_json.digest(_content(account)))
            return account


def combine(accounts: Iterable[Account]) -> tuple[Account, ...]:
    """Compose the accounts of several training runs on the same records, separately for each partition.

    Runs on the same partition are composed as one longer run: their ledgers are concatenated, and the weakest of their
    noise sources counts. Runs on different partitions are not composed, because their units differ. The number of runs,
    and their sampling rates, noise multipliers and numbers of steps, must be chosen without looking at the results of
    earlier runs; everything else may depend on those results.

    Args:
        accounts: one per engine, taken when that engine had finished; an account that is given twice is charged twice.

    Returns:
        One account for each partition, in the order in which they appear.

    Raises:
        ValueError: two accounts have the same partition hash, but contradict each other on the partition.

    >>> from accountants import BucketMechanism
    >>> step = BucketMechanism(sampling_rate=0.2, noise_multiplier=4.0)
    >>> facts = {"unit": "class", "buckets": 10, "provenance": Provenance.RECORD, "partition_hash": 64 * "0"}
    >>> first, second = (
    ...     Account(ledger=Ledger().record(step, steps), max_grad_norms=(1.0,), noise=NoiseMode.SECURE, **facts)
    ...     for steps in (50, 100)
    ... )
    >>> (both,) = combine([first, second])
    >>> both.ledger.steps
    150
    """
    combined: dict[str, Account] = {}
    for account in accounts:
        found = combined.get(account.partition_hash)
        combined[account.partition_hash] = account if found is None else _added(found, account)
    return tuple(combined.values())


def _added(one: Account, other: Account) -> Account:
    if one.rule is not None or other.rule is not None:
        raise ValueError(
            f"one of two accounts of the partition {one.partition_hash[:16]} has a rule ({one.rule or other.rule}), "
            "which does not compose with other steps; make a statement of each. Together, they have at most the sum of "
            "their epsilons, at the sum of their deltas"
        )
    for name in ("unit", "buckets", "provenance", "buckets_per_unit"):
        ours, theirs = getattr(one, name), getattr(other, name)
        if ours != theirs:
            raise ValueError(
                f"two accounts have the partition {one.partition_hash[:16]}, but {name} is {ours!r} in one and "
                f"{theirs!r} in the other: one of them does not belong to that partition; use the original accounts"
            )
    return dataclasses.replace(
        one,
        ledger=one.ledger + other.ledger,
        max_grad_norms=one.max_grad_norms + other.max_grad_norms,
        noise=one.noise.weaker(other.noise),
        findings=one.findings + other.findings,
        adaptive=one.adaptive or other.adaptive,
    )


def _findings(values: Any) -> tuple[Finding, ...]:
    with sealed_json.inside("findings"):
        try:
            return tuple(Finding.from_dict(value) for value in sealed_json.items("findings", values))
        except (KeyError, TypeError) as error:
            raise ValueError(f"a finding is incomplete or has an unknown part: {error}") from error


def _member(kind: type[Member], field: str, name: Any) -> Member:
    known = kind.__members__
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{field} must be one of {', '.join(known)}, got {name!r}")
    return known[name]


def _content(account: Account) -> dict[str, Any]:
    """Return the content that the hash of a saved account covers."""
    fields = {field.name: field for field in dataclasses.fields(account)}
    changed = [name for name in _SINCE if getattr(account, name) != fields[name].default]
    version = max((_SINCE[name] for name in changed), default=VERSION)
    content = {
        "format": FORMAT,
        "version": version,
        **{field.name: getattr(account, field.name) for field in dataclasses.fields(account)},
        "ledger": account.ledger.to_document(),
        "provenance": account.provenance.name,
        "noise": account.noise.name,
        "max_grad_norms": list(account.max_grad_norms),
        "rule": account.rule and account.rule.to_dict(),
        "findings": [finding.to_dict() for finding in account.findings],
    }
    return {name: value for name, value in content.items() if _SINCE.get(name, VERSION) <= version}
