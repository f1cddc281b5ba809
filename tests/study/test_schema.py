"""The tables hold what their schema says, and the documentation says the same."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from dpmi.metrics.strangers import STRANGERS
from dpmi.study import Results, Store
from dpmi.study.schema import PER_CLASS, TRIALS, VERSION, Column, column, markdown, problems

from .conftest import JUDGED, run_study

PRIVATE = (
    '[[defenses]]\nname = "class-dp"\nnoise_multiplier = 0.5\nsampling_rate = 0.3\nmax_grad_norm = 1.0\n\n'
)
BIDO = '[[defenses]]\nname = "bido-hsic"\n\n'
EVERYTHING = (
    JUDGED.replace("seeds = [0, 1]", "seeds = [0]")
    .replace('model = "softmax"', 'model = "cnn-small"')
    .replace("[[attacks]]", PRIVATE + BIDO + "[[attacks]]", 1)
)


def without_games(columns: set[str]) -> set[str]:
    """Without those that other tests hold to it: of linkage, units, audits, strangers, and on request."""
    games = ("audit_", "linkage_", "identified_", "accuracy_bound", "unit_auc", "unit_bound_auc")
    own = ("strangers_", "type_one_errors", "lpips", "knowledge")
    return {name for name in columns if not name.startswith((*games, *own)) and not name.endswith(STRANGERS)}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Results]:
    """With an evaluator, a private defence, and one that has diagnostics."""
    return run_study(EVERYTHING, tmp_path_factory.mktemp("schema") / "study")


def test_the_writer_is_held_to_it(study: tuple[Store, Results]) -> None:
    _, results = study
    assert list(problems(results.trials, TRIALS)) == []
    assert list(problems(results.per_class, PER_CLASS)) == []
    missing = {c.name for c in TRIALS} - {known.name for c in results.trials if (known := column(c, TRIALS))}
    assert without_games(missing) == {"ssim"}, "the digits are smaller than its window"
    assert without_games({c.name for c in PER_CLASS} - set(results.per_class)) == {"ssim"}


def test_the_version_is_in_the_files(study: tuple[Store, Results]) -> None:
    store, results = study
    for name, table in (("trials", results.trials), ("per_class", results.per_class)):
        path = store.root / f"{name}.parquet"
        assert pq.read_schema(path).metadata[b"dpmi.schema"].decode() == f"{name} {VERSION}"
        pd.testing.assert_frame_equal(pd.read_parquet(path), table)


def test_the_documentation_is_printed_by_it() -> None:
    page = Path(__file__).parents[2] / "docs" / "tables.md"
    assert page.read_text(encoding="utf-8") == markdown(), "run python docs/tables.py > docs/tables.md"


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ([0.5, 1.5], Column("x", "number", "", "", 0.0, 1.0), "x ranges from 0.5 to 1.5; it must be 0 to 1"),
        ([1.0, 1.5], Column("x", "integer", ""), "x holds numbers that are not integers"),
        (["a", 1], Column("x", "text", ""), "x holds values that are not text"),
        (["a", "b"], Column("x", "number", ""), "x holds values that are not numbers"),
        ([1], Column("y", "number", ""), "x is not a column of the schema"),
    ],
)
def test_what_is_not_as_it_says_is_found(values: list[object], kind: Column, message: str) -> None:
    assert list(problems(pd.DataFrame({"x": values}), [kind])) == [message]
    assert list(problems(pd.DataFrame({"x": []}, dtype=float), [Column("x", "number", "")])) == []


def test_no_column_is_named_twice() -> None:
    for columns in (TRIALS, PER_CLASS):
        assert len({c.name for c in columns}) == len(columns)
        assert all(c.meaning for c in columns)
