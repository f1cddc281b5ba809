"""What one training run promises a record, the unit that it draws, and larger units."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from accountants import Guarantee
from dpmi.privacy import Account

RECORD, CLASS = "record", "class"


@dataclass(frozen=True, kw_only=True)
class Promise:
    """The promise of a run to one kind of unit.

    Attributes:
        unit: what the unit is.
        guarantee: replace-one, by the tight accountant; None if nothing follows for the unit.
        why: how the guarantee follows, or why there is none.
        others: for the unit of the run itself, the epsilons of other accountants and adjacencies.
    """

    unit: str
    guarantee: Guarantee | None
    why: str
    others: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether there is a guarantee with a finite epsilon and secret noise, of a run with steps."""
        found = self.guarantee
        return found is not None and found.is_guarantee and math.isfinite(found.epsilon) and found.steps > 0


def promises(account: Account, delta: float, records_per_unit: Mapping[str, int]) -> list[Promise]:
    """Return one promise for a record, for the unit of the account, for each given unit, and for a class.

    A smaller unit is a part of a drawn bucket: exchanging it changes the content of one bucket. A unit of r records
    changes the content of at most r buckets, if each of its records is exchanged for one of the same bucket.

    Args:
        account: of the run.
        delta: in (0, 1).
        records_per_unit: unit -> the most records that one such unit has.

    Raises:
        ValueError: a number of records is below 1, or an epsilon cannot be computed.
    """
    own = account.guarantee(delta)
    found = []
    for unit in dict.fromkeys((RECORD, account.unit, *records_per_unit, CLASS)):
        if unit == account.unit:
            found.append(
                Promise(
                    unit=unit,
                    guarantee=own,
                    why="the run draws, clips and accounts for it",
                    others=_others(account, delta),
                )
            )
        elif unit == RECORD:
            own_bucket = f"another of the same {account.unit}"
            why = f"a part of one {account.unit}: holds if the record is exchanged for {own_bucket}"
            found.append(Promise(unit=unit, guarantee=dataclasses.replace(own, unit=unit), why=why))
        elif unit in records_per_unit:
            found.append(_of_records(account, delta, unit, records_per_unit[unit]))
        else:
            why = f"one {unit} can be in many {account.unit}s; --records-per-unit {unit}=NUMBER says what follows"
            found.append(Promise(unit=unit, guarantee=None, why=why))
    return found


def _of_records(account: Account, delta: float, unit: str, records: int) -> Promise:
    if account.rule is not None or account.buckets_per_unit > 1:
        return Promise(
            unit=unit, guarantee=None, why="nothing is known for several units of this run together"
        )
    buckets = min(records, account.buckets)
    larger = dataclasses.replace(account, unit=unit, buckets_per_unit=buckets)
    same = "" if account.unit == RECORD else f", each exchanged for one of the same {account.unit}"
    return Promise(
        unit=unit,
        guarantee=larger.guarantee(delta),
        why=f"at most {records} record{'s' if records > 1 else ''}{same}",
    )


def _others(account: Account, delta: float) -> dict[str, float]:
    """By name; without those that do not apply to these draws, or to a run whose steps do not compose."""
    found = {}
    ways: dict[str, dict[str, str]] = {"add_remove": {"adjacency": "add_remove"}}
    if account.rule is None:
        ways |= {name: {"accountant": name} for name in ("lemma3", "theorem1")}
    for name, way in ways.items():
        try:
            found[name] = account.guarantee(delta, **way).epsilon  # type: ignore[arg-type]
        except ValueError:
            found[name] = math.nan
    return found
