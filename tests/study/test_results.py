"""The tables and statements that are gathered from a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from accountants.guarantee import rounded_up
from dpmi.study import Store, gather, parse, prepare
from dpmi.study.results import NO_PROMISE, statement

from ..privacy.test_account import ACCOUNT
from .conftest import TINY


def test_gather_of_a_study_without_a_finished_trial(tmp_path: Path) -> None:
    store = Store.create(tmp_path, TINY)
    store.save_classes(("a",), np.zeros((1, 1, 2, 2), dtype=np.float32))
    store.save_content(prepare(parse(TINY)))
    results = gather(parse(TINY), store)
    assert results.trials.empty
    assert results.planned == 6
    assert not (tmp_path / "trials.csv").exists()


def test_a_statement_has_epsilon_and_what_is_not_accounted() -> None:
    text = statement(ACCOUNT.to_json(), 1e-3, ("the seed was chosen by its result",))
    told = ACCOUNT.guarantee(1e-3)
    assert f"epsilon = {rounded_up(told.epsilon)}" in text
    assert "the seed was chosen by its result" in text
    assert "the seed was chosen" not in statement(ACCOUNT.to_json(), 1e-3, ())


def test_a_model_without_an_account_promises_nothing() -> None:
    assert statement("", 1e-3, ("the seed was chosen by its result",)) == NO_PROMISE
