"""Class sizes from a file of labels, without torch or pandas, which are slow to import."""
# ruff: noqa: PLC0415

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

SUFFIXES = (".txt", ".csv", ".npy")


def class_sizes(path: Path, *, column: str | None = None) -> dict[str, int]:
    """Count the records of every class; keys are "class <label>" in ascending order of the labels.

    Args:
        path: ``.txt`` with one label per line; ``.csv`` with a header and the labels in one column; ``.npy`` with an
            integer array (N,).
        column: column of a CSV file with several columns.

    Raises:
        ValueError: the file cannot be read, its suffix is unknown, it has no labels, a label or the column is missing,
            or the array has another shape or type.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"labels file {path} must end in {', '.join(SUFFIXES)}")
    if column is not None and path.suffix != ".csv":
        raise ValueError(
            f"--column is {column!r}, but labels file {path} has no columns: it is not a .csv file"
        )
    try:
        if path.suffix == ".csv":
            counts = Counter(_column(path, column))
        else:
            counts = Counter(_lines(path) if path.suffix == ".txt" else _array(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"labels file {path} is not text: {error}") from error
    except OSError as error:
        raise ValueError(f"labels file {path} cannot be read: {error.strerror}") from error
    if not counts:
        raise ValueError(f"labels file {path} holds no labels")
    return {f"class {label}": count for label, count in sorted(counts.items(), key=_natural)}


def _natural(item: tuple[str, int]) -> tuple[bool, int, str]:
    """Sort key: class 10 follows class 9, and names follow numbers."""
    label = item[0]
    return (not label.isdecimal(), int(label) if label.isdecimal() else 0, label)


def _lines(path: Path) -> Iterable[str]:
    labels = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    if "" in labels:
        raise ValueError(
            f"labels file {path}: line {labels.index('') + 1} is empty; every record needs a label"
        )
    return labels


def _column(path: Path, column: str | None) -> Iterable[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header, *rows = [row for row in csv.reader(file) if row] or [[]]
    if len(header) > 1 and column is None:
        raise ValueError(
            f"labels file {path} has several columns; choose one with --column: {', '.join(header)}"
        )
    if column is None and header and _is_number(header[0]):
        raise ValueError(
            f"labels file {path} starts with {header[0]!r} instead of a column name; add a header, or use a .txt file"
        )
    if column is not None and column not in header:
        raise ValueError(f"labels file {path} has no column {column!r}; it has {', '.join(header)}")
    place = 0 if column is None else header.index(column)
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header) or not row[place].strip():
            raise ValueError(
                f"labels file {path}: record {number} has {len(row)} cells for {len(header)} columns, "
                "or an empty label; every record needs a label"
            )
    return [row[place].strip() for row in rows]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _array(path: Path) -> Iterable[str]:
    import numpy as np

    try:
        labels = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"labels file {path} is not an array of numpy.save: {error}") from error
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels file {path} holds shape {labels.shape} of type {labels.dtype}; expected integers of shape (N,)"
        )
    return map(str, labels.tolist())
