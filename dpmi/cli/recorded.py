"""The run that a command is about: three numbers, a saved ledger or account, or an Opacus checkpoint."""
# ruff: noqa: PLC0415

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpmi.cli.arguments import integer, number

if TYPE_CHECKING:
    from accountants import Guarantee, Ledger
    from dpmi.privacy import Account

SamplingRate = Annotated[
    float | None,
    typer.Option(parser=number, help="q in (0, 1]: probability of drawing one bucket in a step."),
]
NoiseMultiplier = Annotated[
    float | None,
    typer.Option(parser=number, help="sigma >= 0: noise standard deviation / max_grad_norm."),
]
Steps = Annotated[int | None, typer.Option(parser=integer, help="Number of logical steps T >= 0.")]
AccountFile = Annotated[
    Path | None,
    typer.Option(
        help="Instead of the three numbers: a file with engine.account.to_json() or with a ledger's to_json()."
    ),
]
OpacusFile = Annotated[
    Path | None,
    typer.Option(help="Instead of the three numbers: a checkpoint of opacus.PrivacyEngine.save_checkpoint."),
]


OptionalUnit = Annotated[
    str | None,
    typer.Option(
        help="Unit of privacy, what one bucket is: class, subclass, record, user, ...; an account says it itself."
    ),
]


@dataclass(frozen=True)
class Run:
    """The steps of a run, and what a file says beyond them.

    Attributes:
        ledger: the steps.
        account: the account that was read, if it was one.
        sampled: what one bucket is, if the file says it.
        origin: what the file cannot tell.
    """

    ledger: Ledger
    account: Account | None = None
    sampled: str | None = None
    origin: tuple[str, ...] = ()

    @property
    def caveats(self) -> tuple[str, ...]:
        """What else the reader of an epsilon must know, one text each."""
        return self.origin if self.account is None else self.account.caveats

    def unit(self, given: str | None, *, owned: int = 1) -> str:
        """Return what is protected: what the file says, or what was given for a run that does not say.

        Args:
            given: a unit, or None.
            owned: number of buckets that one such unit owns; a unit that owns several is another one than the file's.
        """
        if self.sampled is None and given is None:
            raise ValueError("--unit is missing; say what one bucket is, such as record, user or class")
        if self.account is not None and owned == 1 and given not in (None, self.sampled):
            raise ValueError(f"--unit is {given!r}, but the account is for one {self.sampled}; omit --unit")
        return given or self.sampled or ""

    @property
    def only_accountant(self) -> str | None:
        """The accountant to ask, if all would give the same answer."""
        return "tight" if self.account is not None and self.account.rule is not None else None

    def of_plain_steps(self, command: str) -> Ledger:
        """Return the ledger, if its steps compose; an account with a rule has no epsilon by another accountant."""
        if self.account is not None and self.account.rule is not None:
            raise ValueError(
                f"the account is of {self.account.rule}, and {command} composes steps; use dpmi statement or dpmi "
                "epsilon"
            )
        if self.account is not None and self.account.buckets_per_unit > 1:
            raise ValueError(
                f"one {self.account.unit} of the account owns up to {self.account.buckets_per_unit} buckets, and "
                f"{command} is about one bucket; use dpmi statement or dpmi epsilon"
            )
        return self.ledger

    def guarantee(self, **request: Any) -> Guarantee:
        """Return the (epsilon, delta), arguments as in ``Ledger.guarantee``, with the conditions of the account."""
        if self.account is None:
            return self.ledger.guarantee(**request)
        buckets, asked = self.account.buckets, request.pop("buckets")
        if asked not in (None, buckets):
            raise ValueError(f"--buckets is {asked}, but the account has {buckets}; omit --buckets")
        account, owned, unit = self.account, request.pop("buckets_per_unit"), request.pop("unit")
        if owned != 1:
            if account.buckets_per_unit != 1:
                raise ValueError(
                    f"--records-per-unit is {owned}, but the account is for {account.unit}s that own up to "
                    f"{account.buckets_per_unit} buckets; omit it"
                )
            account = dataclasses.replace(account, buckets_per_unit=owned, unit=unit)
        return account.guarantee(request.pop("delta"), **request)


def run_of(
    *,
    sampling_rate: float | None,
    noise_multiplier: float | None,
    steps: int | None,
    account: Path | None,
    opacus: Path | None,
) -> Run:
    """Return the run that exactly one of the three ways describes."""
    numbers = {
        "--sampling-rate": sampling_rate,
        "--noise-multiplier": noise_multiplier,
        "--steps": steps,
    }
    files = {"--account": account, "--opacus": opacus}
    given = [name for name, value in {**numbers, **files}.items() if value is not None]
    chosen = [name for name in given if name in files]
    if len(given) > 1 and chosen:
        raise ValueError(
            f"{chosen[0]} describes the whole run, and {_other(given, chosen[0])} is given, too; omit one"
        )
    if not chosen:
        if missing := [name for name in numbers if name not in given]:
            raise ValueError(
                f"{missing[0]} is missing; give {', '.join(numbers)}, or a file with --account or --opacus"
            )
        return Run(_of_numbers(sampling_rate, noise_multiplier, steps))
    if opacus is not None:
        from dpmi.privacy.opacus_history import POISSON, read_opacus_history

        return Run(read_opacus_history(opacus), sampled="record", origin=(POISSON,))
    assert account is not None
    return _read(account)


def _other(given: list[str], one: str) -> str:
    return next(name for name in given if name != one)


def _of_numbers(sampling_rate: Any, noise_multiplier: Any, steps: Any) -> Ledger:
    from accountants import BucketMechanism, Ledger

    return Ledger().record(
        BucketMechanism(sampling_rate=sampling_rate, noise_multiplier=noise_multiplier), steps
    )


def _read(path: Path) -> Run:
    from accountants import Ledger, sealed_json
    from accountants.ledger import FORMAT

    with sealed_json.inside(str(path)):
        text = path.read_text(encoding="utf-8")
        content = sealed_json.load(text)
        if isinstance(content, dict) and content.get("format") == FORMAT:
            return Run(Ledger.from_document(content))
        from dpmi.privacy import Account

        account = Account.from_json(text)
    return Run(account.ledger, account, sampled=account.unit)
