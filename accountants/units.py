"""What one DP-SGD run promises units of several sizes, and what it would promise if the unit were the bucket.

A run that samples records protects a record. A user of ten records, or a class of thousands, gets what
:mod:`accountants.mixtures` computes. The same noise on sums of whole users, one clipped mean each, protects a user as
the other run protects a record; that is what :class:`dpmi.privacy.PrivacyEngine` trains with.

>>> from accountants import BucketMechanism, Ledger
>>> run = Ledger().record(BucketMechanism(sampling_rate=0.01, noise_multiplier=1), 1000)
>>> for row in unit_table(run, records_per_unit={"record": 1, "user": 10}, delta=1e-5):
...     as_it_is, as_bucket = row.sampled_by_record["add_remove"], row.as_bucket["add_remove"]
...     print(row.unit, round(as_it_is.epsilon, 1), round(as_bucket.epsilon, 1))
record 1.8 1.8
user 27.9 1.8
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accountants import checks
from accountants.guarantee import ADJACENCIES, Adjacency, Guarantee
from accountants.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class UnitRow:
    """The promises of one run to one kind of unit.

    Attributes:
        unit: what the unit is.
        records: the most records of one unit.
        sampled_by_record: by adjacency, the guarantee of the run for such a unit if it samples records.
        as_bucket: by adjacency, the guarantee of a run with the same noise, sampling rate and steps whose buckets are
            these units.

    >>> from accountants import BucketMechanism, Ledger
    >>> run = Ledger().record(BucketMechanism(sampling_rate=0.1, noise_multiplier=4.0), 50)
    >>> (row,) = unit_table(run, records_per_unit={"user": 2}, delta=1e-4)
    >>> row.records, {name: round(found.epsilon, 1) for name, found in row.sampled_by_record.items()}
    (2, {'replace': 2.5, 'add_remove': 1.2})
    """

    unit: str
    records: int
    sampled_by_record: Mapping[Adjacency, Guarantee]
    as_bucket: Mapping[Adjacency, Guarantee]

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        return {
            "unit": self.unit,
            "records": self.records,
            "sampled_by_record": {name: found.to_dict() for name, found in self.sampled_by_record.items()},
            "as_bucket": {name: found.to_dict() for name, found in self.as_bucket.items()},
        }


def unit_table(ledger: Ledger, *, records_per_unit: Mapping[str, int], delta: float) -> tuple[UnitRow, ...]:
    """Return one row for every kind of unit, by the tight accountant.

    Args:
        ledger: the steps of a run that samples records separately.
        records_per_unit: by unit, the most records that one such unit owns, at least 1.
        delta: in (0, 1), and well below 1 / the number of units.

    Raises:
        TypeError, ValueError: an argument is out of range, or the tight accountant cannot compute the run.
    """
    if not records_per_unit:
        raise ValueError("records_per_unit is empty; give at least one unit, such as {'user': 10}")
    rows = []
    for unit, records in records_per_unit.items():
        count = checks.integer(f"records_per_unit of {unit}", records, minimum=1)
        rows.append(
            UnitRow(
                unit=checks.unit(unit),
                records=count,
                sampled_by_record={
                    adjacency: ledger.guarantee(
                        delta=delta, unit=unit, adjacency=adjacency, buckets_per_unit=count
                    )
                    for adjacency in ADJACENCIES
                },
                as_bucket={
                    adjacency: ledger.guarantee(delta=delta, unit=unit, adjacency=adjacency)
                    for adjacency in ADJACENCIES
                },
            )
        )
    return tuple(rows)
