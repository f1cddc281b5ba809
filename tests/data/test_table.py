"""A table of the user: numbers, categories, units, a public table, and everything that is wrong with one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dpmi.data import Split, load

ROWS = 200


def customers(*, seed: int = 0, rows: int = ROWS) -> pd.DataFrame:
    """Two rows and more of each customer."""
    random = np.random.default_rng(seed)
    age = random.integers(18, 90, rows)
    return pd.DataFrame(
        {
            "customer": [f"c{number}" for number in random.integers(0, rows // 4, rows)],
            "age": age,
            "spent": random.normal(100, 30, rows),
            "plan": random.choice(["basic", "family", "pro"], rows),
            "member": random.random(rows) < 0.5,
            "churn": np.where(age + random.normal(0, 10, rows) > 55, "yes", "no"),
        }
    )


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    customers().to_csv(tmp_path / "customers.csv", index=False)
    customers(seed=1).drop(columns=["customer", "churn"]).to_parquet(tmp_path / "public.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def from_table(table: str = "customers.csv", **options: Any) -> Split:
    return load("table", **{"table": table, "label": "churn", "unit": "customer", **options})


def rows_of(split: Split) -> np.ndarray:
    """All private rows, in any order."""
    both = torch.cat([split.train.images, split.test.images]).flatten(1).numpy()
    return both[np.lexsort(both.T)]


@pytest.mark.usefixtures("place")
def test_numbers_are_scaled_and_categories_are_one_hot() -> None:
    split, table = from_table(), customers()
    assert split.class_names == ("no", "yes")
    assert split.image_shape == (1, 1, 7), "age, spent, three plans, member or not"
    expected = np.stack(
        [
            *(
                (table[name] - table[name].min()) / (table[name].max() - table[name].min())
                for name in ("age", "spent")
            ),
            *(table["plan"] == plan for plan in ("basic", "family", "pro")),
            *(table["member"] == member for member in (False, True)),
        ],
        axis=1,
    ).astype(np.float32)
    np.testing.assert_allclose(rows_of(split), expected[np.lexsort(expected.T)], atol=1e-6)
    labels = torch.cat([split.train.labels, split.test.labels])
    assert int(labels.sum()) == int((table["churn"] == "yes").sum())


@pytest.mark.usefixtures("place")
def test_a_unit_is_in_one_part_with_all_its_rows() -> None:
    split, table = from_table(test=0.25), customers()
    assert split.train.units is not None
    sizes = sorted(torch.bincount(split.train.units)[torch.unique(split.train.units)].tolist())
    every = table.groupby("customer").size()
    kept = len(sizes)
    assert kept == len(every) - -(-len(every) // 4)
    assert sum(sizes) + len(split.test) == ROWS
    # Each kept customer has all its rows: the sizes are those of the table.
    assert not set(sizes) - set(every.tolist())
    spent = torch.cat([split.train.images, split.test.images])[:, 0, 0, 1].double()
    low, high = table["spent"].min(), table["spent"].max()
    nearest = (spent[:, None] * (high - low) + low - torch.tensor(table["spent"])).abs().argmin(dim=1)
    names = table["customer"].to_numpy()[nearest].tolist()
    trained, tested = set(names[: len(split.train)]), set(names[len(split.train) :])
    assert not trained & tested
    units = [names[row] for row in range(len(split.train))]
    assert len(set(zip(units, split.train.units.tolist(), strict=True))) == kept, "one unit for each customer"


@pytest.mark.usefixtures("place")
def test_ranges_and_values_come_from_the_public_table() -> None:
    split, public = from_table(public="public.parquet"), customers(seed=1)
    assert len(split.public) == ROWS
    age = split.public[:, 0, 0, 0].double()
    np.testing.assert_allclose(
        age, (public["age"] - public["age"].min()) / (public["age"].max() - public["age"].min())
    )
    own = customers()["spent"]
    low, high = public["spent"].min(), public["spent"].max()
    assert own.min() < low or own.max() > high, "some private value is beyond the public ones"
    clipped = ((own - low) / (high - low)).clip(0, 1)
    found = np.sort(torch.cat([split.train.images, split.test.images])[:, 0, 0, 1].numpy())
    np.testing.assert_allclose(found, np.sort(clipped), atol=1e-6)


def test_a_category_that_is_not_public_is_zero(place: Path) -> None:
    public = customers(seed=1).drop(columns=["churn"])
    public[public["plan"] != "pro"].to_csv(place / "few.csv", index=False)
    split = from_table(public="few.csv")
    assert split.image_shape == (1, 1, 6)
    plans = rows_of(split)[:, 2:4].sum(axis=1)
    assert int((plans == 0).sum()) == int((customers()["plan"] == "pro").sum())


def test_equal_rows_train_together_and_never_test(place: Path) -> None:
    table = pd.DataFrame({"size": [1.0, 2.0] * 30 + [3.0, 4.0], "kind": ["a", "b"] * 31})
    table.to_csv(place / "equal.csv", index=False)
    with pytest.raises(ValueError, match=r"every test row of equal.csv equals a row of the train part"):
        load("table", table="equal.csv", label="kind", test=0.01, seed=1)
    table["noise"] = np.random.default_rng(0).random(62)
    table.loc[:39, "noise"] = 0.5
    table.to_csv(place / "equal.csv", index=False)
    split = load("table", table="equal.csv", label="kind")
    assert len(split.train) + len(split.test) < 62
    assert len(split.train) == 62 - 2 * 7, "20 % of 31, rounded up, of each class"


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"table": "none.csv"}, "table is 'none.csv', which is no file"),
        ({}, {"table": "."}, "table is '.', which is no file"),
        ({}, {"label": "churned"}, "label is 'churned', but customers.csv has the columns customer, age"),
        ({}, {"unit": "client"}, "unit is 'client', but customers.csv has the columns"),
        ({}, {"unit": "churn"}, "label and unit must be different columns"),
        ({}, {"test": 1.0}, "test must be between 0 and 1; got 1.0"),
        ({}, {"public": "none.csv"}, "public is 'none.csv', which is no file"),
        (
            {"age": [1.0, np.nan] * 100},
            {},
            "column 'age' of customers.csv must hold finite numbers; row 1 has nan",
        ),
        ({"age": [1.0, np.inf] * 100}, {}, "column 'age' of customers.csv must hold finite numbers"),
        ({"age": [np.nan] * 200}, {}, "column 'age' of customers.csv must hold finite numbers"),
        (
            {"plan": ["a", None] * 100},
            {},
            "column 'plan' of customers.csv has no value in row 1; fill missing",
        ),
        ({"churn": ["a", None] * 100}, {}, "record 1 has no churn"),
        ({"customer": ["a", None] * 100}, {}, "record 1 has no customer"),
        (
            {"churn": ["no"] * 200},
            {},
            "label 'churn' of customers.csv must have at least two values; it has 1",
        ),
        (
            {"name": [f"n{row}" for row in range(200)]},
            {},
            "column 'name' of customers.csv has 200 different texts",
        ),
        (
            {"churn": ["no"] * 199 + ["yes"]},
            {"unit": None},
            "class 'yes' of customers.csv has no row that trains",
        ),
    ],
)
def test_what_is_wrong_is_named(
    place: Path, change: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    customers().assign(**change).to_csv(place / "customers.csv", index=False)
    table = options.pop("table", "customers.csv")
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        from_table(table, **options)


def test_dates_and_columns_that_are_not_public_are_named(place: Path) -> None:
    table = customers()
    table["since"] = pd.date_range("2020-01-01", periods=ROWS)
    table.to_parquet(place / "dated.parquet")
    with pytest.raises(ValueError, match=r"column 'since' of dated.parquet holds dates"):
        from_table("dated.parquet")
    customers(seed=1).drop(columns=["age"]).to_csv(place / "public.csv", index=False)
    with pytest.raises(ValueError, match=r"public public.csv has no column 'age'"):
        from_table(public="public.csv")
    customers(seed=1).assign(age="old").to_csv(place / "public.csv", index=False)
    with pytest.raises(
        ValueError, match=r"column 'age' of customers.csv holds numbers, but the public rows have none"
    ):
        from_table(public="public.csv")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", b"a,b", "must end in .csv or .parquet"),
        ("empty.csv", b"", "cannot be read as a table"),
        ("header.csv", b"churn,age\n", "has no rows"),
        ("garbage.parquet", b"PAR1 and nothing", "cannot be read as a table"),
        ("binary.csv", bytes(range(256)), "cannot be read as a table"),
        ("alone.csv", b"churn,customer\nyes,a\nno,b\n", "has no column besides its labels and units"),
    ],
)
def test_a_file_that_is_no_table_is_named(place: Path, name: str, content: bytes, message: str) -> None:
    (place / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        from_table(name)
