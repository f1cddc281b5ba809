"""The ids of a column are read as they are."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dpmi.privacy import Partition
from dpmi.privacy.ids import distinct

COLUMNS: dict[str, tuple[Any, list[Any]]] = {
    "texts": (["bo", "al", "bo"], ["al", "bo"]),
    "array of texts": (np.array(["bo", "al", "bo"]), ["al", "bo"]),
    "texts like numbers": (["9", "10", "9"], ["10", "9"]),
    "integers": ([10, 9, 10], [9, 10]),
    "integers of several widths": ([10, np.int64(9), np.int8(10)], [9, 10]),
    "numbers with a fraction": (np.array([1.5, 1.0, 1.5]), [1.0, 1.5]),
    "bytes": ([b"b", b"a", b"b"], [b"a", b"b"]),
    "dates": (np.array(["2020-02-01", "2020-01-01", "2020-02-01"], dtype="M8[D]"), None),
    "dates of Python": ([date(2020, 2, 1), date(2020, 1, 1), date(2020, 2, 1)], None),
    "pairs": ([("b", 1), ("a", 2), ("b", 1)], [("a", 2), ("b", 1)]),
    "series": (pd.Series(["bo", "al", "bo"], index=[7, 8, 9]), ["al", "bo"]),
    "nullable integers": (pd.Series([10, 9, 10], dtype="Int64"), [9, 10]),
    "category": (pd.Series(["bo", "al", "bo"], dtype="category"), ["al", "bo"]),
}


@pytest.mark.parametrize(("ids", "values"), COLUMNS.values(), ids=COLUMNS)
def test_one_bucket_for_each_value(ids: Any, values: list[Any] | None) -> None:
    found, inverse = distinct(ids, "user")
    assert inverse.tolist() == [1, 0, 1]
    assert inverse.dtype == np.int64
    if values is not None:
        assert found == values
    assert Partition.by_column(ids).num_buckets == 2


MISSING: dict[str, Any] = {
    "None": ["a", "b", None],
    "NaN": [1.0, 2.0, float("nan")],
    "NaN among texts": ["a", "b", float("nan")],
    "array with NaN": np.array([1.0, 2.0, np.nan]),
    "NaT": np.array(["2020-01-01", "2020-01-02", "NaT"], dtype="M8[D]"),
    "pandas.NA": [1, 2, pd.NA],
    "nullable integers": pd.Series([1, 2, None], dtype="Int64"),
    "column of a table with a gap": pd.Series(["a", "b", None]),
    "category": pd.Series(["a", "b", None], dtype="category"),
    "masked": np.ma.array([1, 2, 3], mask=[False, False, True]),
    "empty": ["a", "b", ""],
    "blank": np.array(["a", "b", "  "]),
}


@pytest.mark.parametrize("ids", MISSING.values(), ids=MISSING)
def test_a_missing_id_is_refused_with_its_record(ids: Any) -> None:
    with pytest.raises(
        ValueError, match=r"record 2 has no patient: its id is .* would count as records of one patient"
    ):
        Partition.by_column(ids, unit="patient")


MIXED: dict[str, tuple[Any, str]] = {
    "integer and text": ([1, "1", 1], r"record 0 has 1, an integer, and record 1 has '1', a text"),
    "integer and fraction": (
        [1, 1, 1.0],
        r"record 0 has 1, an integer, and record 2 has 1\.0, a number with",
    ),
    "truth and integer": ([True, 1], r"record 0 has True, a truth value, and record 1 has 1, an integer"),
    "text and bytes": (["a", b"a"], r"record 0 has 'a', a text, and record 1 has b'a', bytes"),
    "in a column": (pd.Series([1, "1"]), r"record 1 has '1', a text"),
    "date": ([date(2020, 1, 1), "2020-01-01"], r"a date, and record 1 has '2020-01-01', a text"),
}


@pytest.mark.parametrize(("ids", "words"), MIXED.values(), ids=MIXED)
def test_ids_of_several_types_are_refused(ids: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"ids of unit 'user' are of several types: .*{words}"):
        Partition.by_column(ids)


def test_a_table_of_ids_is_refused() -> None:
    with pytest.raises(ValueError, match=r"have shape \(2, 2\); expected one id per record"):
        Partition.by_column(np.ones((2, 2)))
