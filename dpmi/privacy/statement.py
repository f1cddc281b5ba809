"""The privacy statement: the guarantees, their unit, the facts they are based on, and what is not accounted.

It states, for a privacy reviewer: epsilon and delta under both adjacencies; the accountant and its caveats; the charged
steps and the hash of the ledger; the sampling; clipping and noise; the source of randomness; the partition and its
provenance; the public quantities; what is assumed; and what no epsilon covers.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from accountants import ADJACENCIES, Adjacency, Guarantee, PrivacyProfile, rounded_up
from accountants.profile import MU_SLACK

from . import sampling_text
from .account import Account, combine
from .finding import Finding
from .noise import NoiseMode
from .partition import Provenance

NOT_ACCOUNTED = (
    "choices made by looking at results on the private records: hyper-parameters, the number of runs and steps, "
    "the selection of one of several models",
    "anything else that was computed from the private records and released: accuracies, normalisation constants, "
    "further models",
)
"""Not accounted in any run, because no ledger records it."""

SEPARATE = (
    "These guarantees are for different partitions of the records, and they have no common epsilon. Each epsilon "
    "protects one unit of its own partition. The buckets of two partitions overlap (one class contains many "
    "subclasses, and a subclass may lie in several buckets of another partition), so the units differ, the "
    "epsilons do not compose, and no epsilon covers one bucket of both partitions. Each guarantee holds for its own "
    "unit and for the releases of its own training runs; it does not bound what the other runs reveal about that unit."
)

ASSUMED = (
    "the training loop itself carries no values from one batch to the next: no running average of the loss and no "
    "list of earlier outputs, in a local or global variable, enters a later loss"
)
"""An assumption that the engine cannot check."""

PACKAGES = ("dpmi", "torch", "opacus", "dp-accounting", "numpy")


@dataclass(frozen=True, kw_only=True)
class Statement:
    """The guarantees of one or several training runs, as text and as JSON.

    Args:
        accounts: accounts of training runs on the same records. Runs on the same partition are composed; runs on
            different partitions are reported separately, with the reason.
        delta: in (0, 1), and well below 1 / K of every partition.
        not_accounted: uses of the private records that no epsilon covers, besides ``NOT_ACCOUNTED``; one text each.
        public_parts: parts of the released model that no private record trained, and where they come from, such as
            :attr:`dpmi.models.features.Provenance.sentence`; one text each.

    Attributes:
        guarantees: for every account, one guarantee per adjacency that its draws have an epsilon for, "replace" first.

    Raises:
        ValueError: there is no account, two accounts contradict each other, delta is out of range, or
            ``not_accounted`` or ``public_parts`` is one string or holds an empty one.

    >>> from accountants import BucketMechanism, Ledger
    >>> account = Account(
    ...     ledger=Ledger().record(BucketMechanism(sampling_rate=0.1, noise_multiplier=2.0), steps=50),
    ...     unit="class", buckets=10, provenance=Provenance.FITTED, partition_hash=64 * "0",
    ...     max_grad_norms=(1.0,), noise=NoiseMode.SECURE)
    >>> statement = Statement(accounts=[account], delta=1e-3)
    >>> [(found.adjacency, round(found.epsilon, 2)) for found in statement.guarantees[0]]
    [('replace', 2.05), ('add_remove', 1.05)]
    >>> statement.reservations
    ('conditional on the partition',)
    >>> statement.markdown().splitlines()[0]
    '# Privacy statement, conditional on the partition'
    """

    accounts: Sequence[Account]
    delta: float
    not_accounted: Sequence[str] = ()
    public_parts: Sequence[str] = ()
    guarantees: tuple[tuple[Guarantee, ...], ...] = field(init=False)

    def __post_init__(self) -> None:
        for name in ("not_accounted", "public_parts"):
            object.__setattr__(self, name, _lines(name, getattr(self, name)))
        accounts = combine(self.accounts)
        if not accounts:
            raise ValueError("accounts is empty; a statement needs at least 1 account")
        guarantees = tuple(
            tuple(
                account.guarantee(self.delta, adjacency=adjacency) for adjacency in account.ledger.adjacencies
            )
            for account in accounts
        )
        object.__setattr__(self, "accounts", accounts)
        object.__setattr__(self, "guarantees", guarantees)

    @property
    def reservations(self) -> tuple[str, ...]:
        """The reservations of all accounts, which the statement names first."""
        origins = {account.provenance for account in self.accounts}
        seeded = any(account.noise is NoiseMode.SEEDED for account in self.accounts)
        empty = any(account.ledger.steps == 0 for account in self.accounts)
        violated = any(finding.violated for account in self.accounts for finding in account.findings)
        return (
            (("contradicted by an audit",) if violated else ())
            + (("nothing was released",) if empty else ())
            + (("conditional on the partition",) if Provenance.FITTED in origins else ())
            + (("conditional on who owns which record",) if Provenance.OWNERS in origins else ())
            + (("not private: seeded noise",) if seeded else ())
        )

    def markdown(self) -> str:
        """Return the whole statement in Markdown; its first line has the reservations."""
        lines = [f"# {self._title()}"]
        if len(self.accounts) > 1:
            lines += ["", SEPARATE]
        for account, guarantees in zip(self.accounts, self.guarantees, strict=True):
            lines += ["", f"## {_subject(account)}", ""]
            lines += [f"- {guarantee}" for guarantee in guarantees]
            lines += [f"- Caveat: {text}" for text in _caveats(guarantees)]
            lines += [f"- {name}: {text}" for name, text in _facts(account).items()]
            lines += [f"- {_audit_of(account)}: {finding.text(self.delta)}" for finding in account.findings]
        if self.public_parts:
            lines += ["", "## Public parts", "", *(f"- {text}" for text in self.public_parts)]
        lines += ["", "## Not accounted", ""]
        lines += [f"- {text}" for text in self._all_not_accounted]
        lines += ["", "## This statement was computed by", ""]
        lines += [f"- {name} {number}" for name, number in versions().items()]
        return "\n".join(lines)

    def text(self) -> str:
        """Return the whole statement as one paragraph; it starts with the reservations."""
        parts = [f"{self._title()}."]
        if len(self.accounts) > 1:
            parts.append(SEPARATE)
        for account, guarantees in zip(self.accounts, self.guarantees, strict=True):
            parts += [f"{_subject(account)}:", *map(str, guarantees)]
            parts += [f"Caveat: {text}." for text in _caveats(guarantees)]
            parts += [f"{name}: {text}." for name, text in _facts(account).items()]
            parts += [f"{_audit_of(account)}: {finding.text(self.delta)}." for finding in account.findings]
        parts += [f"Public part: {text}" for text in self.public_parts]
        parts.append(f"Not accounted: {'; '.join(self._all_not_accounted)}.")
        parts.append(f"Computed by {', '.join(f'{name} {number}' for name, number in versions().items())}.")
        return " ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the whole statement as JSON values; an infinite epsilon is the string "inf".

        The reservations come first. ``separate_because`` is present only if there are several partitions.
        """
        return {
            "reservations": list(self.reservations),
            **({"separate_because": SEPARATE} if len(self.accounts) > 1 else {}),
            "promises": [
                _promise(account, guarantees, self.delta)
                for account, guarantees in zip(self.accounts, self.guarantees, strict=True)
            ],
            "public_parts": list(self.public_parts),
            "not_accounted": list(self._all_not_accounted),
            "computed_by": versions(),
        }

    @property
    def _all_not_accounted(self) -> tuple[str, ...]:
        choices, others = NOT_ACCOUNTED
        if any(account.rule is not None for account in self.accounts):
            choices += "; except those that a search or a filter accounts for, as the caveats say"
        return choices, others, *self.not_accounted

    def _title(self) -> str:
        return "Privacy statement" + (f", {'; '.join(self.reservations)}" if self.reservations else "")


def _lines(name: str, texts: Sequence[str]) -> tuple[str, ...]:
    """Return every text as one line, because a line break would end its list item or paragraph."""
    if isinstance(texts, str):
        raise ValueError(
            f"{name} must be a sequence of texts, got the string {texts!r}; put the text into a tuple"
        )
    if not all(text.strip() for text in texts):
        raise ValueError(
            f"{name} must hold no empty text, got {tuple(texts)}; write one sentence or leave it out"
        )
    return tuple(" ".join(text.split()) for text in texts)


def versions() -> dict[str, str]:
    """Return the installed versions of Python and of the packages that an epsilon or its noise depends on."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


def _caveats(guarantees: Sequence[Guarantee]) -> list[str]:
    """Return each caveat once; a caveat that does not apply under every adjacency names its adjacencies."""
    found = []
    for caveat in dict.fromkeys(caveat for guarantee in guarantees for caveat in guarantee.caveats):
        under = [guarantee.adjacency for guarantee in guarantees if caveat in guarantee.caveats]
        found.append(caveat if len(under) == len(guarantees) else f"{caveat} (adjacency: {', '.join(under)})")
    return found


def _subject(account: Account) -> str:
    return f"For one {account.unit} (partition {account.partition_hash[:16]})"


def _bucket(account: Account) -> str:
    """Return what is drawn and clipped as a whole: the unit, unless a unit may own several or shares one."""
    own = account.buckets_per_unit == 1 and account.provenance is not Provenance.OWNERS
    return account.unit if own else "bucket"


def _audit_of(account: Account) -> str:
    """Return the heading of a finding. What an audit finds of one bucket, its owner's epsilon is at least, too."""
    return (
        "Audit" if account.buckets_per_unit == 1 else f"Audit of one bucket, as a part of one {account.unit}"
    )


def _facts(account: Account) -> dict[str, str]:
    norms = " or ".join(f"{norm:.10g}" for norm in account.max_grad_norms)
    if account.adaptive:
        norms += ", which then followed a quantile of the norms by a noisy count that is part of each step's charge"
    mus = ", ".join(f"{rounded_up(mu)} ({adjacency})" for adjacency, mu in _mus(account).items())
    bucket, origin, public = _bucket(account), account.provenance.value, ""
    if account.provenance is Provenance.OWNERS:
        origin += "; a bucket holds the records with exactly the same owners"
        public = "who owns which record, and so which records were left out, "
    if account.buckets_per_unit > 1:
        origin += f"; one {account.unit} owns at most {account.buckets_per_unit} of them"
    return {
        "Steps charged": sampling_text.charged(account.ledger),
        "Gaussian DP": f"mu = {mus}, but for a failure of probability {MU_SLACK:g}"
        if mus
        else "not computed",
        "Ledger": f"SHA-256 {account.ledger.hash}",
        "Sampling": sampling_text.sampling(account.ledger, bucket),
        "Noise": f"the mean gradient of every drawn {bucket} is clipped to norm {norms}, and Gaussian noise is "
        "added to their sum; its standard deviation is the noise multiplier times that norm",
        "Randomness": account.noise.value,
        "Partition": f"{account.buckets} buckets, {origin}; SHA-256 {account.partition_hash}",
        "Public": f"{public}the number of buckets ({account.buckets}), the divisor "
        f"({sampling_text.divisor(account.ledger)}), and every hyper-parameter",
        "Assumed": ASSUMED,
    }


def _mus(account: Account) -> dict[Adjacency, float]:
    """Return mu by adjacency; empty for an account with a rule, and if it cannot be computed."""
    if account.rule is not None:
        return {}
    try:
        return {
            adjacency: PrivacyProfile(
                ledger=account.ledger,
                unit=account.unit,
                adjacency=adjacency,
                buckets_per_unit=account.buckets_per_unit,
            ).mu
            for adjacency in account.ledger.adjacencies
        }
    except ValueError:  # more steps, or less noise, than float64 can compose at every epsilon
        return {}


def _promise(account: Account, guarantees: Sequence[Guarantee], delta: float) -> dict[str, Any]:
    facts = _facts(account)
    return {
        "unit": account.unit,
        "guarantees": [guarantee.to_dict() for guarantee in guarantees],
        "partition": {
            "buckets": account.buckets,
            "provenance": account.provenance.value,
            "conditional": account.provenance.conditional,
            "buckets_per_unit": account.buckets_per_unit,
            "sha256": account.partition_hash,
        },
        "steps": account.ledger.steps,
        "runs": sampling_text.runs(account.ledger),
        "ledger_sha256": account.ledger.hash,
        "rule": account.rule and account.rule.to_dict(),
        "mu": {adjacency: "inf" if mu == math.inf else mu for adjacency, mu in _mus(account).items()},
        "max_grad_norms": list(account.max_grad_norms),
        "noise_mode": account.noise.name,
        "sampling": facts["Sampling"],
        "noise": facts["Noise"],
        "randomness": facts["Randomness"],
        "public": facts["Public"],
        "assumed": facts["Assumed"],
        "audits": [_audit(finding, delta, _bucket(account)) for finding in account.findings],
    }


def _audit(finding: Finding, delta: float, unit: str) -> dict[str, Any]:
    return {
        "unit": unit,
        "threat_model": "white box: every noisy sum is seen",
        "canaries": finding.canaries,
        "confidence": finding.confidence,
        "lower_bound": {adjacency: finding.lower_bound(delta, adjacency) for adjacency in ADJACENCIES},
        "ceiling": {adjacency: finding.ceiling.epsilon(delta, adjacency) for adjacency in ADJACENCIES},
        "p_value": finding.p_value,
        "verdict": finding.verdict,
    }
