"""Checks the ids of a column, or of the owners of records: a missing id, or ids of several types, are errors."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

_KINDS: dict[str, tuple[type, ...]] = {
    "a truth value": (bool, np.bool_),
    "an integer": (int, np.integer),
    "a number with a fraction": (float, np.floating),
    "a text": (str,),
    "bytes": (bytes,),
}


def distinct(
    ids: Sequence[object] | NDArray[np.generic], unit: str, *, records: NDArray[np.int64] | None = None
) -> tuple[list[Any], NDArray[np.int64]]:
    """Return the distinct ids in ascending order, and for each given id its index among them, (n,).

    Args:
        ids: (n,), one per record unless ``records`` says otherwise.
        unit: what an id stands for.
        records: the record of each id, (n,), for error messages.

    Raises:
        ValueError: not one id per record; a missing id (None, NaN, NaT, pandas.NA, masked, an empty text); or ids of
            several types, because it is unclear whether ``1``, ``"1"`` and ``1.0`` are the same id.
    """
    column = _column(ids, unit)
    records = np.arange(len(column)) if records is None else records
    _check_present(ids, column, unit, records)
    if column.dtype == object:
        column = _of_one_type(column, unit, records)
    if column.dtype.kind in "US":
        empty = np.flatnonzero(np.char.str_len(np.char.strip(column)) == 0)
        if len(empty):
            raise _missing(unit, records[empty[0]], column[empty[0]])
    values, inverse = np.unique(column, return_inverse=True)
    return list(values), inverse.reshape(-1).astype(np.int64)


def whole(values: Any) -> Any:
    """Return a column as one list or array, if it is a sequence of another kind.

    A column of a data set on disk, such as one of Hugging Face datasets, reads record by record in a loop, and all at
    once as a slice: 38 s and 0.2 s for 200,000 ids.
    """
    return values[:] if isinstance(values, Sequence) and not isinstance(values, list | tuple) else values


def owner_lists(
    owners: Sequence[Collection[object]] | NDArray[np.generic], unit: str
) -> tuple[list[Any], NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct owners in ascending order, and all pairs of a record and one of its owners.

    Args:
        owners: N collections of ids, or a table of ids (N, m).
        unit: what an id stands for.

    Returns:
        The owners; and for each pair the index of its record and that of its owner, (n,) each, ascending, without
        duplicates.

    Raises:
        ValueError: neither form; a record without owners; and all that :func:`distinct` refuses.
    """
    owners = whole(owners)
    table = owners if isinstance(owners, list | tuple) else np.asanyarray(owners)
    if isinstance(table, np.ndarray) and table.ndim == 2:
        ids: Any = table.reshape(-1)
        numbers = np.full(len(table), table.shape[1])
    else:
        _check_collections(table, unit)
        ids = list(chain.from_iterable(table))
        numbers = np.fromiter(map(len, table), dtype=np.int64, count=len(table))
    if not numbers.all():
        raise ValueError(
            f"record {int(numbers.argmin())} has no {unit}: its collection of ids is empty. Nobody would be protected "
            f"from what it reveals; remove such records, or name their {unit}"
        )
    records = np.repeat(np.arange(len(numbers)), numbers)
    values, inverse = distinct(ids, unit, records=records)
    pairs = np.unique(records * max(1, len(values)) + inverse)
    return values, *np.divmod(pairs, max(1, len(values)))


def _check_collections(owners: Any, unit: str) -> None:
    """Reject a single column of ids; above all texts, which are collections of their characters."""
    if isinstance(owners, np.ndarray) and owners.ndim != 1:
        raise ValueError(
            f"owners of unit {unit!r} have shape {owners.shape}; expected N collections of ids, or a table (N, m)"
        )
    wrong = tuple(
        kind
        for kind in set(map(type, owners))
        if issubclass(kind, str | bytes | Mapping) or not issubclass(kind, Collection)
    )
    for record, ids in enumerate(owners if wrong else ()):
        if isinstance(ids, wrong):
            raise ValueError(
                f"record {record} has the {unit} {ids!r}, {_kind(type(ids))}; expected a collection of ids for every "
                f"record, such as [{ids!r}]. For one {unit} per record, use Partition.by_column"
            )


def _column(ids: Sequence[object] | NDArray[np.generic], unit: str) -> NDArray[Any]:
    ids = whole(ids)
    if isinstance(ids, list | tuple):
        # numpy would convert several types to one, so that 1 and "1" became equal texts.
        return np.fromiter(ids, dtype=object, count=len(ids))
    column = np.asarray(ids)
    if column.ndim != 1:
        raise ValueError(
            f"ids of unit {unit!r} have shape {column.shape}; expected one id per record, shape (N,)"
        )
    return column


def _check_present(ids: object, column: NDArray[Any], unit: str, records: NDArray[np.int64]) -> None:
    absent = np.zeros(len(column), dtype=bool)
    if isinstance(ids, np.ma.MaskedArray):
        absent |= np.ma.getmaskarray(ids)
    if column.dtype.kind in "fc":
        absent |= np.isnan(column)
    elif column.dtype.kind in "mM":
        absent |= np.isnat(column)
    elif column.dtype == object:
        import pandas as pd  # noqa: PLC0415  (0.8 s to import, rarely needed)

        absent |= pd.isna(column)
    rows = np.flatnonzero(absent)
    if len(rows):
        raise _missing(unit, records[rows[0]], column[rows[0]])


def _missing(unit: str, record: int, value: object) -> ValueError:
    return ValueError(
        f"record {record} has no {unit}: its id is {value!r}. All records without an id would count as records of one "
        f"{unit}; remove them, or give each its own id"
    )


def _of_one_type(column: NDArray[Any], unit: str, records: NDArray[np.int64]) -> NDArray[Any]:
    kinds = {kind: _kind(kind) for kind in set(map(type, column.tolist()))}
    names = set(kinds.values())
    if len(names) > 1:
        first = kinds[type(column[0])]
        row = next(row for row, value in enumerate(column) if kinds[type(value)] != first)
        raise ValueError(
            f"ids of unit {unit!r} are of several types: record {records[0]} has {column[0]!r}, {first}, and record "
            f"{records[row]} has {column[row]!r}, {kinds[type(column[row])]}. It is unclear whether they can mean the "
            f"same {unit}: convert all ids to one type, such as text"
        )
    (name,) = names or {""}
    return np.asarray(column.tolist()) if name in _KINDS else column


def _kind(found: type) -> str:
    for name, types in _KINDS.items():
        if issubclass(found, types):
            return name
    return f"a {found.__name__}"
