"""Records with several owners: which of them to use, so that every owner has few contributions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .ids import owner_lists

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class OwnerSets:
    """The different sets of owners of N records, numbered by the first record of each.

    Args:
        ids: the ids of all owners, ascending.
        of_record: int array (N,), the set of each record.
        records: int array (G,), records of each set.
        numbers: int array (G,), owners of each set.
        owners: int array (sum of ``numbers``,), places in ``ids``: the owners of one set after the other.
    """

    ids: list[Any]
    of_record: IntArray
    records: IntArray
    numbers: IntArray
    owners: IntArray

    @classmethod
    def of(cls, owners: Sequence[Collection[object]] | NDArray[np.generic], unit: str) -> OwnerSets:
        """Return the sets of owners; see :func:`dpmi.privacy.ids.owner_lists` for arguments and errors."""
        ids, record, owner = owner_lists(owners, unit)
        starts = np.flatnonzero(np.diff(record, prepend=-1))
        numbers = np.diff(starts, append=len(record))
        first = np.empty(len(starts), dtype=np.int64)  # the first record with the same owners
        for number in np.unique(numbers).tolist():
            rows = np.flatnonzero(numbers == number)
            table = owner[starts[rows][:, np.newaxis] + np.arange(number)]
            order = np.lexsort(table.T)  # stable, so the first record of equal rows comes first
            new = np.ones(len(rows), dtype=bool)
            new[1:] = (table[order[1:]] != table[order[:-1]]).any(axis=1)
            first[rows[order]] = rows[order][new][np.cumsum(new) - 1]
        firsts, of_record, records = np.unique(first, return_inverse=True, return_counts=True)
        return cls(
            ids=ids,
            of_record=of_record.astype(np.int64),
            records=records.astype(np.int64),
            numbers=numbers[firsts],
            owners=owner[np.isin(record, firsts)],
        )

    def __len__(self) -> int:
        return len(self.records)

    def bounded(self, limit: int) -> BoolArray:
        """Return which sets to use so that no owner is in more than ``limit`` of them, bool (G,)."""
        # Any order is permitted: which records a set has, and who owns them, is what the guarantee holds fixed.
        order = np.lexsort((self.numbers, -self.records))
        owners = self._lists()
        left = [limit] * len(self.ids)
        chosen = np.zeros(len(self), dtype=bool)
        for place in order.tolist():
            mine = owners[place]
            if all(left[owner] for owner in mine):
                chosen[place] = True
                for owner in mine:
                    left[owner] -= 1
        return chosen

    def most_per_owner(self, chosen: BoolArray) -> int:
        """Return the largest number of chosen sets, bool (G,), that one owner is in; 1 if nothing is chosen."""
        return int(np.bincount(self.owners[np.repeat(chosen, self.numbers)], minlength=1).max(initial=1))

    def names(self, chosen: BoolArray) -> Iterator[str]:
        """Yield the name of every chosen set: its ids."""
        names, owners = [str(each) for each in self.ids], self._lists()
        for place in np.flatnonzero(chosen).tolist():
            yield " and ".join(names[owner] for owner in owners[place])

    def _lists(self) -> list[list[int]]:
        """Return the owners of every set, as places in ``ids``; lists, because a loop over them is faster."""
        owners, ends = self.owners.tolist(), np.cumsum(self.numbers).tolist()
        return [owners[start:end] for start, end in zip([0, *ends], ends, strict=False)]
