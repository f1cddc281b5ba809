"""A table of the user with one record per row: numbers and categories, a column of labels, perhaps a column of units.

A record is an "image" of one row, (1, 1, d), with a value in [0, 1] for every number and for every value of a category.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpmi.data.images import to_labels, without
from dpmi.data.lazy import Images
from dpmi.data.split import ImageSet, Split
from dpmi.privacy.ids import distinct

SUFFIXES = (".csv", ".parquet")

MOST_VALUES = 100
"""A column of texts with more values is no category: names, ids, free text."""


def load_table(
    *,
    table: str,
    label: str,
    unit: str | None = None,
    test: float = 0.2,
    public: str | None = None,
    seed: int = 0,
) -> Split:
    """Load a table; every row is private, and the attacker's rows come from another table.

    Numbers are scaled to [0, 1] by the smallest and largest value of their column, and a category is one value per
    value that it has. Both come from the public table, if there is one; private values beyond it are clipped, and
    private values of a category that it lacks are 0 everywhere. Rows of the test part that equal a row of the train
    part are left out, and so are public rows that equal a private one.

    Args:
        table: a ``.csv`` or ``.parquet`` file.
        label: column of the classes, at least two.
        unit: column of the units of privacy, such as customers; None if every row is a unit of its own. All rows of a
            unit are in the train part, or in the test part.
        test: share of the rows of each class (with ``unit``: of the units) that test the model, rounded up, between 0
            and 1.
        public: a file with the same columns, of rows that the attacker has; the columns of labels and units may be
            missing. None for no rows.
        seed: seed of the choice of the test rows, 0 or more.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: an option is out of range; a file is no table, or lacks a column; a column is empty, holds dates or
            texts with too many values; a value is missing or not finite; there are fewer than two classes, or one of
            them is in one part only.
    """
    if not 0 < test < 1:
        raise ValueError(f"test must be between 0 and 1; got {test}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more; got {seed}")
    private = _read("table", table)
    names = [name for name in (label, unit) if name is not None]
    for option, name in (("label", label), ("unit", unit)):
        if name is not None and name not in private:
            raise ValueError(
                f"{option} is {name!r}, but {table} has the columns {', '.join(map(str, private))}"
            )
    if label == unit:
        raise ValueError(f"label and unit must be different columns; both are {label!r}")
    classes, labels = _codes(private[label], label)
    if len(classes) < 2:
        raise ValueError(f"label {label!r} of {table} must have at least two values; it has {len(classes)}")
    units = None if unit is None else _codes(private[unit], unit)[1]
    values = private.drop(columns=names)
    known = None if public is None else _read("public", public)
    if known is not None:
        known = known.drop(columns=[name for name in names if name in known])
        if missing := [name for name in values if name not in known]:
            raise ValueError(f"public {public} has no column {missing[0]!r}, which {table} has")
        known = known[list(values)]
    columns = _columns(values, known, table)
    rows, random = _encoded(columns, values, table), np.random.default_rng(seed)
    held_out = _held_out(labels, units, test, random)
    for code, name in enumerate(classes):
        if bool(held_out[labels == code].all()):
            raise ValueError(
                f"class {str(name)!r} of {table} has no row that trains the model; give it more rows, or a smaller "
                "test share"
            )

    def part(kept: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        return rows[torch.from_numpy(kept)], to_labels(labels[kept])

    train, train_labels = part(~held_out)
    tested, tested_labels = without(*part(held_out), train)
    if not len(tested):
        raise ValueError(
            f"every test row of {table} equals a row of the train part; the columns tell too little"
        )
    others: Images = torch.empty(0, *rows.shape[1:])
    if known is not None:
        every = _encoded(columns, known, str(public))
        others, _ = without(every, torch.zeros(len(every), dtype=torch.int64), train, tested)
    name = Path(table).stem
    return Split(
        name=name,
        train=ImageSet(train, train_labels, None if units is None else to_labels(units[~held_out])),
        test=ImageSet(tested, tested_labels),
        public=others,
        class_names=tuple(str(value) for value in classes),
        distance="euclidean",
        citation=f"the rows of the table {name}",
    )


@dataclass(frozen=True)
class _Number:
    """A column of numbers, scaled from its range to [0, 1]."""

    name: str
    low: float
    high: float

    def encode(self, column: pd.Series[Any], file: str) -> NDArray[np.float32]:
        try:
            found = column.to_numpy(dtype=np.float64, na_value=math.nan)
        except (TypeError, ValueError) as error:
            raise ValueError(f"column {self.name!r} of {file} must hold numbers: {error}") from error
        _check_finite(found, self.name, file)
        scaled = np.clip((found - self.low) / ((self.high - self.low) or 1.0), 0, 1)
        return scaled.astype(np.float32)[:, None]


@dataclass(frozen=True)
class _Category:
    """A column of few values, one 0 or 1 for each."""

    name: str
    values: tuple[str, ...]

    def encode(self, column: pd.Series[Any], file: str) -> NDArray[np.float32]:
        _check_present(column, file)
        found: NDArray[np.bool_] = column.astype(str).to_numpy()[:, None] == np.array(self.values)[None]
        return found.astype(np.float32)


def _read(option: str, text: str) -> pd.DataFrame:
    path = Path(text).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"{option} is {text!r}, which is no file; a relative path begins at {Path.cwd()}"
        )
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{option} {path} must end in {' or '.join(SUFFIXES)}")
    try:
        found = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except Exception as error:  # the readers raise many types of errors for other files
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{option} {path} cannot be read as a table: {reason}") from error
    if not len(found):
        raise ValueError(f"{option} {path} has no rows")
    found.columns = [str(name) for name in found.columns]
    if twice := found.columns[found.columns.duplicated()].tolist():
        raise ValueError(f"{option} {path} has two columns {twice[0]!r}; rename one")
    return found


def _codes(column: pd.Series[Any], name: str) -> tuple[list[Any], NDArray[np.int64]]:
    """Return the distinct values of a column, and for each row the index of its value."""
    return distinct(column.tolist(), name)


def _columns(values: pd.DataFrame, known: pd.DataFrame | None, table: str) -> list[_Number | _Category]:
    """Return how each column is encoded, with ranges and values from the public rows if there are any."""
    if values.shape[1] == 0:
        raise ValueError(f"{table} has no column besides its labels and units")
    return [
        _column(str(name), values[name], None if known is None else known[name], table) for name in values
    ]


def _column(name: str, own: pd.Series[Any], public: pd.Series[Any] | None, table: str) -> _Number | _Category:
    source = own if public is None else public
    if pd.api.types.is_datetime64_any_dtype(own) or pd.api.types.is_timedelta64_dtype(own):
        raise ValueError(f"column {name!r} of {table} holds dates; make numbers of them, such as days")
    if pd.api.types.is_numeric_dtype(own) and not pd.api.types.is_bool_dtype(own):
        numbers = source if pd.api.types.is_numeric_dtype(source) else own.iloc[:0]
        low, high = (float(end) for end in (numbers.min(), numbers.max()))
        if math.isfinite(low) and math.isfinite(high):
            return _Number(name, low, high)
        raise ValueError(
            f"column {name!r} of {table} holds numbers, but the public rows have none there"
            if public is not None
            else f"column {name!r} of {table} must hold finite numbers; they run from {low} to {high}"
        )
    _check_present(own, table)
    found = tuple(sorted(source.dropna().astype(str).unique()))
    if not 1 <= len(found) <= MOST_VALUES:
        raise ValueError(
            f"column {name!r} of {table} has {len(found)} different texts; a category has at most {MOST_VALUES}. Leave "
            "out names, ids and free text"
        )
    return _Category(name, found)


def _encoded(columns: Sequence[_Number | _Category], rows: pd.DataFrame, file: str) -> Tensor:
    """Return the rows as images, float32 (N, 1, 1, d)."""
    parts = [column.encode(rows[column.name], file) for column in columns]
    return torch.from_numpy(np.concatenate(parts, axis=1))[:, None, None, :]


def _check_finite(numbers: NDArray[np.float64], name: str, file: str) -> None:
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if len(wrong):
        raise ValueError(
            f"column {name!r} of {file} must hold finite numbers; row {int(wrong[0])} has {numbers[wrong[0]]}. Fill "
            "missing values first"
        )


def _check_present(column: pd.Series[Any], file: str) -> None:
    missing = np.flatnonzero(column.isna().to_numpy())
    if len(missing):
        raise ValueError(
            f"column {column.name!r} of {file} has no value in row {int(missing[0])}; fill missing values first, for "
            "example with the text 'missing'"
        )


def _held_out(
    labels: NDArray[np.int64], units: NDArray[np.int64] | None, share: float, random: np.random.Generator
) -> NDArray[np.bool_]:
    """Return which rows test the model, bool (N,): a share of every class, or all rows of a share of the units."""
    if units is None:
        found = np.zeros(len(labels), dtype=bool)
        for label in range(int(labels.max()) + 1):
            rows = np.flatnonzero(labels == label)
            found[random.permutation(rows)[: math.ceil(round(share * len(rows), 6))]] = True
        return found
    count = int(units.max()) + 1
    chosen = random.permutation(count)[: math.ceil(round(share * count, 6))]
    return np.isin(units, chosen)
