"""Checks the ids of a column: a missing id, or ids of several types, are errors."""

from __future__ import annotations

from collections.abc import Sequence
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


def distinct(ids: Sequence[object] | NDArray[np.generic], unit: str) -> tuple[list[Any], NDArray[np.int64]]:
    """Return the distinct ids in ascending order, and for each record the index of its id, (N,).

    Args:
        ids: one per record, (N,).
        unit: what an id stands for.

    Raises:
        ValueError: not one id per record; a missing id (None, NaN, NaT, pandas.NA, masked, an empty text); or ids of
            several types, because it is unclear whether ``1``, ``"1"`` and ``1.0`` are the same id.
    """
    column = _column(ids, unit)
    _check_present(ids, column, unit)
    if column.dtype == object:
        column = _of_one_type(column, unit)
    if column.dtype.kind in "US":
        empty = np.flatnonzero(np.char.str_len(np.char.strip(column)) == 0)
        if len(empty):
            raise _missing(unit, int(empty[0]), column[empty[0]])
    values, inverse = np.unique(column, return_inverse=True)
    return list(values), inverse.reshape(-1).astype(np.int64)


def _column(ids: Sequence[object] | NDArray[np.generic], unit: str) -> NDArray[Any]:
    if isinstance(ids, list | tuple):
        # numpy would convert several types to one, so that 1 and "1" became equal texts.
        return np.fromiter(ids, dtype=object, count=len(ids))
    column = np.asarray(ids)
    if column.ndim != 1:
        raise ValueError(
            f"ids of unit {unit!r} have shape {column.shape}; expected one id per record, shape (N,)"
        )
    return column


def _check_present(ids: object, column: NDArray[Any], unit: str) -> None:
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
        raise _missing(unit, int(rows[0]), column[rows[0]])


def _missing(unit: str, row: int, value: object) -> ValueError:
    return ValueError(
        f"record {row} has no {unit}: its id is {value!r}. All records without an id would share one bucket; remove "
        "them, or give each its own id"
    )


def _of_one_type(column: NDArray[Any], unit: str) -> NDArray[Any]:
    kinds = {kind: _kind(kind) for kind in set(map(type, column.tolist()))}
    names = set(kinds.values())
    if len(names) > 1:
        first = kinds[type(column[0])]
        row = next(row for row, value in enumerate(column) if kinds[type(value)] != first)
        raise ValueError(
            f"ids of unit {unit!r} are of several types: record 0 has {column[0]!r}, {first}, and record {row} has "
            f"{column[row]!r}, {kinds[type(column[row])]}. It is unclear whether they can mean the same {unit}: "
            "convert all ids to one type, such as text"
        )
    (name,) = names or {""}
    return np.asarray(column.tolist()) if name in _KINDS else column


def _kind(found: type) -> str:
    for name, types in _KINDS.items():
        if issubclass(found, types):
            return name
    return f"a {found.__name__}"
