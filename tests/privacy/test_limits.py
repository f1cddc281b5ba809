"""Privacy filters in the engine: plans that change on the way, and the step that is not taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from accountants import BucketMechanism, PrivacyFilter, Tries
from dpmi.privacy import FixedNumberSampling, Partition, PrivacyEngine
from dpmi.privacy.account import Account

from .reference import step
from .test_engine import X, Y, weights, wrap

FIRST = BucketMechanism(sampling_rate=0.5, noise_multiplier=4.0)
SECOND = BucketMechanism(sampling_rate=0.25, noise_multiplier=2.0)
LIMIT = PrivacyFilter.planned(FIRST, target_epsilon=4.0, delta=1e-3)


def begin(engine: PrivacyEngine, mechanism: BucketMechanism, **options: Any) -> tuple[Any, ...]:
    return wrap(
        engine=engine,
        sampling_rate=mechanism.sampling_rate,
        noise_multiplier=mechanism.noise_multiplier,
        **options,
    )


def train(engine: PrivacyEngine, module: Any, optimizer: Any, loader: Any) -> None:
    for x, y in loader:
        step(module, optimizer, x, y)


def test_a_plan_may_change_and_the_target_holds() -> None:
    engine = PrivacyEngine(privacy_filter=LIMIT)
    train(*begin(engine, FIRST, steps_per_epoch=5))
    left = LIMIT.steps_left(engine.ledger, SECOND)
    assert 3 < left < 200
    wrapped = begin(engine, SECOND, steps_per_epoch=left + 10)
    with pytest.raises(RuntimeError, match="would exceed the target of this engine's filter, epsilon = 4"):
        train(*wrapped)
    assert engine.ledger.totals == {FIRST: 5, SECOND: left}
    before = weights(wrapped[1])
    with pytest.raises(RuntimeError, match="this step released nothing"):
        train(*wrapped)
    assert torch.equal(weights(wrapped[1]), before)
    found = engine.guarantee(1e-3)
    assert (found.epsilon, found.accountant, found.steps) == (4.0, "filter", 5 + left)
    assert engine.account.ledger.guarantee(delta=1e-3, unit="class").epsilon < 4.0


def test_its_account_is_saved_and_stated() -> None:
    engine = PrivacyEngine(privacy_filter=LIMIT)
    train(*begin(engine, FIRST, steps_per_epoch=2))
    account = engine.account
    assert account.rule == LIMIT
    assert Account.from_json(account.to_json()) == account
    assert "a filter stops before epsilon = 4 at delta = 0.001" in engine.statement(1e-3).markdown()


def test_a_target_of_its_own_is_refused() -> None:
    engine, arguments = PrivacyEngine(privacy_filter=LIMIT), {}
    _, module, *_ = wrap()
    arguments = {"module": module, "optimizer": None, "data_loader": None, "partition": None}
    with pytest.raises(ValueError, match="this engine's filter has a target of its own"):
        engine.make_private_with_epsilon(**arguments, target_epsilon=1.0)
    with pytest.raises(ValueError, match="this engine was used before, or has a filter"):
        engine.search(
            lambda *_: None,
            float,
            candidates=[1],
            partition=wrap()[0].plan.partition,
            sampling_rate=0.5,
            noise_multiplier=1.0,
            steps=1,
            tries=None,  # type: ignore[arg-type]
        )


def test_a_checkpoint_goes_on_under_the_same_filter_only(tmp_path: Path) -> None:
    engine = PrivacyEngine(privacy_filter=LIMIT)
    train(*begin(engine, FIRST, steps_per_epoch=3, seed=0))
    engine.save_checkpoint(tmp_path / "saved")
    other = PrivacyFilter.planned(FIRST, target_epsilon=5.0, delta=1e-3)
    for wrong in (None, other):
        fresh = PrivacyEngine(privacy_filter=wrong)
        begin(fresh, FIRST, steps_per_epoch=3, seed=0)
        with pytest.raises(ValueError, match="resume with the same privacy_filter"):
            fresh.load_checkpoint(tmp_path / "saved")
        assert fresh.ledger.steps == 0
    resumed = PrivacyEngine(privacy_filter=LIMIT)
    begin(resumed, FIRST, steps_per_epoch=3, seed=0)
    resumed.load_checkpoint(tmp_path / "saved")
    assert resumed.ledger == engine.ledger
    assert resumed.account.rule == LIMIT


def test_a_checkpoint_without_a_filter_is_refused_under_one(tmp_path: Path) -> None:
    engine = PrivacyEngine()
    train(*begin(engine, FIRST, steps_per_epoch=3, seed=0))
    engine.save_checkpoint(tmp_path / "saved")
    fresh = PrivacyEngine(privacy_filter=LIMIT)
    begin(fresh, FIRST, steps_per_epoch=3, seed=0)
    with pytest.raises(ValueError, match="of an engine with the rule none, and this engine has a filter"):
        fresh.load_checkpoint(tmp_path / "saved")


def test_owners_of_several_buckets_need_a_filter_for_them() -> None:
    limit = PrivacyFilter.planned(FIRST, target_epsilon=30.0, delta=1e-3, buckets_per_unit=3)
    with pytest.raises(ValueError, match="make the filter with buckets_per_unit=3"):
        begin(PrivacyEngine(privacy_filter=LIMIT), FIRST, **owned())
    engine = PrivacyEngine(privacy_filter=limit)
    train(*begin(engine, FIRST, **owned()))
    assert engine.guarantee(1e-3).epsilon == 30.0
    assert Account.from_json(engine.account.to_json()) == engine.account


def test_a_search_on_owners_is_charged_for_all_their_buckets() -> None:
    def one(engine: PrivacyEngine, _: int) -> int:
        train(*begin(engine, FIRST, **owned()))
        return 0

    engine = PrivacyEngine()
    engine.search(
        one,
        float,
        candidates=[0],
        partition=owned()["partition"],
        sampling_rate=FIRST.sampling_rate,
        noise_multiplier=FIRST.noise_multiplier,
        steps=2,
        tries=Tries(mean=2),
    )
    expected = Tries(mean=2).guarantee(engine.ledger, delta=1e-3, unit="owner", buckets_per_unit=3)
    assert engine.guarantee(1e-3).epsilon == expected.epsilon
    assert engine.statement(1e-3).to_dict()["promises"][0]["mu"] == {}


def test_other_draws_are_refused_where_only_poisson_draws_are_accounted_for() -> None:
    draws = {"sampling": FixedNumberSampling(2), "sampling_rate": None}
    with pytest.raises(ValueError, match="privacy filters and searches account for Poisson draws"):
        wrap(engine=PrivacyEngine(privacy_filter=LIMIT), **draws)
    engine = PrivacyEngine()
    with pytest.raises(
        ValueError, match="one owner owns up to 3 buckets, which is accounted for with Poisson draws"
    ):
        wrap(engine=engine, **owned(), **draws)
    with pytest.raises(ValueError, match="privacy filters and searches account for Poisson draws"):
        engine.search(
            lambda inner, _: wrap(engine=inner, **draws),
            lambda _: 0.0,
            candidates=[0],
            partition=wrap()[0].plan.partition,
            sampling_rate=0.5,
            noise_multiplier=1.0,
            steps=2,
            tries=Tries(mean=2),
        )


def owned() -> dict[str, Any]:
    """Options of a run on records with two owners each, who own up to three buckets."""
    owners = Partition.by_owners([[n % 5, 5 + n % 7] for n in range(len(Y))], buckets_per_owner=3)
    assert owners.buckets_per_unit == 3
    assert owners.kept is not None
    kept = Subset(TensorDataset(X, Y), owners.kept.tolist())
    return {"partition": owners, "data_loader": DataLoader(kept), "steps_per_epoch": 2}
