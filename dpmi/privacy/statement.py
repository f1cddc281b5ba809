"""The privacy statement: what is promised, for what, on what it rests, and what is not accounted.

What it has to say is in accounting.md section 7.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from accountants import ADJACENCIES, Guarantee

from .account import Account, combine
from .noise import NoiseMode

NOT_ACCOUNTED = (
    "choices made by looking at results on the private records: hyper-parameters, how many runs and steps, "
    "which of several models to keep",
    "anything else that was computed from the private records and released: accuracies, normalisation constants, "
    "further models",
)
"""True of every run: no ledger knows of these."""

SEPARATE = (
    "These promises are for different partitions of the records, and there is no one number for them. Each epsilon "
    "is about one bucket of its own partition. The buckets of two partitions overlap (one class contains many "
    "subclasses, and a subclass may lie in several buckets of another partition), so the units differ, the "
    "epsilons do not add up, and no number is about one bucket of both. Each promise holds for its own unit and "
    "for what its own training runs released; it does not bound what the other runs tell about that unit."
)

ASSUMED = (
    "the training loop carries nothing of one batch to the next by itself: no running average of the loss and no "
    "list of earlier outputs, in a variable of its own or a global one, enters a later loss"
)
"""What no check of the engine can see."""

PACKAGES = ("dpmi", "torch", "opacus", "dp-accounting", "numpy")


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What one or several training runs promise, for people and for programs.

    Args:
        accounts: of training runs on the same records. Those on the same partition are added up; those on
            different partitions are stated side by side, with the reason why they are not one number.
        delta: in (0, 1), and well below 1 / K of every partition.
        not_accounted: what looked at the private records and is in no epsilon, besides ``NOT_ACCOUNTED``; one text
            each.

    Attributes:
        guarantees: of every account, one for each adjacency, "replace" first.

    Raises:
        ValueError: there is no account, two accounts contradict each other, delta is out of range, or
            ``not_accounted`` is one string or holds an empty one.
    """

    accounts: Sequence[Account]
    delta: float
    not_accounted: Sequence[str] = ()
    guarantees: tuple[tuple[Guarantee, ...], ...] = field(init=False)

    def __post_init__(self) -> None:
        """Add up, and compute every epsilon once."""
        if isinstance(self.not_accounted, str):
            raise ValueError(
                f"not_accounted must be a sequence of texts, got the string {self.not_accounted!r}; "
                "put it into a tuple"
            )
        if not all(text.strip() for text in self.not_accounted):
            raise ValueError(
                f"not_accounted must say what was not accounted, got {tuple(self.not_accounted)}"
            )
        accounts = combine(self.accounts)
        if not accounts:
            raise ValueError("accounts is empty; a statement is about at least 1 account")
        guarantees = tuple(
            tuple(account.guarantee(self.delta, adjacency=adjacency) for adjacency in ADJACENCIES)
            for account in accounts
        )
        object.__setattr__(self, "accounts", accounts)
        # One text is one line, or it would end the list item or the paragraph that it stands in.
        object.__setattr__(
            self, "not_accounted", tuple(" ".join(text.split()) for text in self.not_accounted)
        )
        object.__setattr__(self, "guarantees", guarantees)

    @property
    def reservations(self) -> tuple[str, ...]:
        """What has to be said first, of any of the accounts."""
        conditional = any(account.provenance.conditional for account in self.accounts)
        seeded = any(account.noise is NoiseMode.SEEDED for account in self.accounts)
        empty = any(account.ledger.steps == 0 for account in self.accounts)
        return (
            (("nothing was released",) if empty else ())
            + (("conditional on the partition",) if conditional else ())
            + (("not private: seeded noise",) if seeded else ())
        )

    def markdown(self) -> str:
        """The whole statement, in Markdown; its first line has the reservations."""
        lines = [f"# {self._title()}"]
        if len(self.accounts) > 1:
            lines += ["", SEPARATE]
        for account, guarantees in zip(self.accounts, self.guarantees, strict=True):
            lines += ["", f"## {_subject(account)}", ""]
            lines += [f"- {guarantee}" for guarantee in guarantees]
            lines += [f"- Caveat: {text}" for text in _caveats(guarantees)]
            lines += [f"- {name}: {text}" for name, text in _facts(account).items()]
        lines += ["", "## Not accounted", ""]
        lines += [f"- {text}" for text in (*NOT_ACCOUNTED, *self.not_accounted)]
        lines += ["", "## This statement was computed by", ""]
        lines += [f"- {name} {number}" for name, number in versions().items()]
        return "\n".join(lines)

    def text(self) -> str:
        """The whole statement, in one paragraph; it begins with the reservations."""
        parts = [f"{self._title()}."]
        if len(self.accounts) > 1:
            parts.append(SEPARATE)
        for account, guarantees in zip(self.accounts, self.guarantees, strict=True):
            parts += [f"{_subject(account)}:", *map(str, guarantees)]
            parts += [f"Caveat: {text}." for text in _caveats(guarantees)]
            parts += [f"{name}: {text}." for name, text in _facts(account).items()]
        parts.append(f"Not accounted: {'; '.join((*NOT_ACCOUNTED, *self.not_accounted))}.")
        parts.append(f"Computed by {', '.join(f'{name} {number}' for name, number in versions().items())}.")
        return " ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """The whole statement as JSON values; an infinite epsilon is the string "inf".

        The reservations come first. ``separate_because`` is there where there are several promises.
        """
        return {
            "reservations": list(self.reservations),
            **({"separate_because": SEPARATE} if len(self.accounts) > 1 else {}),
            "promises": [
                _promise(account, guarantees)
                for account, guarantees in zip(self.accounts, self.guarantees, strict=True)
            ],
            "not_accounted": [*NOT_ACCOUNTED, *self.not_accounted],
            "computed_by": versions(),
        }

    def _title(self) -> str:
        return "Privacy statement" + (f", {'; '.join(self.reservations)}" if self.reservations else "")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that an epsilon or its noise depends on, as installed here."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


def _caveats(guarantees: Sequence[Guarantee]) -> list[str]:
    """Each once; one that is not true under every adjacency says under which."""
    found = []
    for caveat in dict.fromkeys(caveat for guarantee in guarantees for caveat in guarantee.caveats):
        under = [guarantee.adjacency for guarantee in guarantees if caveat in guarantee.caveats]
        found.append(caveat if len(under) == len(guarantees) else f"{caveat} (adjacency: {', '.join(under)})")
    return found


def _subject(account: Account) -> str:
    return f"For one {account.unit} (partition {account.partition_hash[:16]})"


def _facts(account: Account) -> dict[str, str]:
    in_all = f"{account.ledger.steps} in all: " if len(account.ledger.runs) > 1 else ""
    runs = "; ".join(
        f"{steps} with sampling rate {mechanism.sampling_rate:.10g} and noise multiplier "
        f"{mechanism.noise_multiplier:.10g}"
        for mechanism, steps in account.ledger.runs
    )
    norms = " or ".join(f"{norm:.10g}" for norm in account.max_grad_norms)
    return {
        "Steps billed": in_all + (runs or "none"),
        "Ledger": f"SHA-256 {account.ledger.hash}",
        "Sampling": f"every {account.unit} is drawn as a whole and independently of the others, with the sampling "
        "rate as its probability (Poisson sampling); empty draws are stepped and billed",
        "Noise": f"the mean gradient of every drawn {account.unit} is clipped to norm {norms}, and Gaussian noise of "
        "standard deviation noise multiplier times that norm is added to their sum",
        "Randomness": account.noise.value,
        "Partition": f"{account.buckets} buckets, {account.provenance.value}; SHA-256 {account.partition_hash}",
        "Public": f"the number of buckets ({account.buckets}), the divisor (sampling rate times number of buckets), "
        "and every hyper-parameter",
        "Assumed": ASSUMED,
    }


def _promise(account: Account, guarantees: Sequence[Guarantee]) -> dict[str, Any]:
    facts = _facts(account)
    return {
        "unit": account.unit,
        "guarantees": [guarantee.to_dict() for guarantee in guarantees],
        "partition": {
            "buckets": account.buckets,
            "provenance": account.provenance.value,
            "conditional": account.provenance.conditional,
            "sha256": account.partition_hash,
        },
        "steps": account.ledger.steps,
        "runs": [
            {
                "sampling_rate": mechanism.sampling_rate,
                "noise_multiplier": mechanism.noise_multiplier,
                "steps": steps,
            }
            for mechanism, steps in account.ledger.runs
        ],
        "ledger_sha256": account.ledger.hash,
        "max_grad_norms": list(account.max_grad_norms),
        "noise_mode": account.noise.name,
        "sampling": facts["Sampling"],
        "noise": facts["Noise"],
        "randomness": facts["Randomness"],
        "public": facts["Public"],
        "assumed": facts["Assumed"],
    }
