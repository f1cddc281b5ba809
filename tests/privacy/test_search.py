"""Private search: what it charges, what it refuses, and what an interrupted one admits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from accountants import BucketMechanism, Ledger, Tries
from dpmi.privacy import AdaptiveClipping, Partition, PrivacyEngine, Statement, combine
from dpmi.privacy.account import Account
from dpmi.privacy.audit import Audit
from dpmi.privacy.noise import NoiseMode

from .reference import step
from .test_engine import Y, weights, wrap

STEP, STEPS = BucketMechanism(sampling_rate=0.5, noise_multiplier=4.0), 5
PARTITION = Partition.by_class(Y.numpy())
TRIES = Tries(mean=6)


def train(engine: PrivacyEngine, candidate: Any, **options: Any) -> nn.Module:
    chosen = {"noise_multiplier": 4.0, "steps_per_epoch": STEPS, "seed": 0, **options}
    _, module, optimizer, loader = wrap(engine=engine, **chosen)
    for x, y in loader:
        step(module, optimizer, x, y)
    module.candidate = candidate
    return module


def search(
    engine: PrivacyEngine,
    train: Callable[[PrivacyEngine, Any], Any] = train,
    score: Callable[[Any], Any] = lambda module: module.candidate,
    **changed: Any,
) -> Any:
    arguments: dict[str, Any] = {
        "candidates": range(10),
        "partition": PARTITION,
        "sampling_rate": 0.5,
        "noise_multiplier": 4.0,
        "steps": STEPS,
        "tries": TRIES,
        "seed": 4,
        **changed,
    }
    return engine.search(train, score, **arguments)


def counted(seen: list[Any], **options: Any) -> Callable[[PrivacyEngine, Any], nn.Module]:
    def one(engine: PrivacyEngine, candidate: Any) -> nn.Module:
        seen.append(candidate)
        return train(engine, candidate, **options)

    return one


def test_it_returns_the_best_and_charges_a_selection() -> None:
    engine, seen = PrivacyEngine(), []
    best = search(engine, counted(seen))
    assert len(seen) > 2, "the seed gives several tries"
    assert (best.candidate, best.score, best.result.candidate) == (max(seen),) * 3
    for adjacency in ("replace", "add_remove"):
        expected = TRIES.guarantee(
            Ledger().record(STEP, STEPS), delta=1e-3, unit="class", adjacency=adjacency, buckets=3
        )
        found = engine.guarantee(1e-3, adjacency=adjacency)
        assert (found.epsilon, found.accountant) == (expected.epsilon, "selection")
        assert (
            found.epsilon
            > Ledger().record(STEP, STEPS).guarantee(delta=1e-3, unit="class", adjacency=adjacency).epsilon
        )
    assert engine.ledger == Ledger().record(STEP, STEPS)


def test_a_run_that_took_fewer_steps_is_charged_as_the_most_expensive_one() -> None:
    """What a run took may tell which candidate it had."""
    engine = PrivacyEngine()
    search(engine, counted([], steps_per_epoch=1, noise_multiplier=9.0, sampling_rate=0.1))
    assert engine.ledger == Ledger().record(STEP, STEPS)


def test_number_and_candidates_are_drawn_as_stated() -> None:
    numbers, candidates = Counter[int](), Counter[int]()
    for seed in range(400):
        seen: list[int] = []
        search(
            PrivacyEngine(),
            lambda engine, candidate, seen=seen: (seen.append(candidate), wrap(engine=engine)),
            score=lambda _: 0.0,
            seed=seed,
            candidates=range(4),
        )
        numbers[len(seen)] += 1
        candidates.update(seen)
    total = sum(candidates.values())
    assert total / 400 == pytest.approx(6, rel=0.25)
    first = (1 - TRIES._gamma) / -math.log(TRIES._gamma)  # of the logarithmic distribution
    assert abs(numbers[1] / 400 - first) < 4 * math.sqrt(first * (1 - first) / 400)
    assert all(abs(candidates[i] / total - 1 / 4) < 4 * math.sqrt(3 / 16 / total) for i in range(4))


def test_without_a_seed_the_number_is_not_repeated() -> None:
    lengths = set()
    for secure in (False, True):
        for _ in range(12):
            seen: list[int] = []
            search(
                PrivacyEngine(),
                lambda engine, candidate, seen=seen: (seen.append(candidate), wrap(engine=engine)),
                score=lambda _: 0.0,
                seed=None,
                secure_mode=secure,
            )
            lengths.add(tuple(seen))
    assert len(lengths) > 12


def test_the_first_of_equal_runs_wins_and_one_that_diverged_loses() -> None:
    results: list[Any] = []

    def remember(engine: PrivacyEngine, candidate: Any) -> int:
        wrap(engine=engine)
        results.append(candidate)
        return len(results) - 1

    scores = [math.nan, 1.0, 1.0, *[0.5] * 100]
    best = search(PrivacyEngine(), remember, score=lambda number: scores[number])
    assert (best.result, best.score) == (1, 1.0)
    best = search(PrivacyEngine(), remember, score=lambda _: math.nan)
    assert best.score == -math.inf


class TestInterrupted:
    def test_it_charges_every_run(self) -> None:
        engine, runs = PrivacyEngine(), []

        def fails(inner: PrivacyEngine, candidate: Any) -> nn.Module:
            runs.append(inner)
            if len(runs) < 3:
                return train(inner, candidate)
            _, module, optimizer, loader = wrap(
                engine=inner, noise_multiplier=4.0, steps_per_epoch=STEPS, seed=0
            )
            for x, y in loader:
                step(module, optimizer, x, y)
                if inner.ledger.steps >= 2:
                    raise KeyboardInterrupt
            raise AssertionError("the seed draws a bucket in one of the steps")

        with pytest.raises(KeyboardInterrupt):
            search(engine, fails)
        account, last = engine.account, runs[2].ledger.steps
        assert account.rule is None
        assert 2 <= last <= STEPS
        assert account.ledger.totals == {STEP: 2 * STEPS + last}
        assert engine.guarantee(1e-3).epsilon == account.ledger.guarantee(delta=1e-3, unit="class").epsilon

    def test_a_score_that_fails_charges_the_run_that_it_judged(self) -> None:
        engine = PrivacyEngine()
        with pytest.raises(TypeError, match="score must return a real number, got 'good'"):
            search(engine, score=lambda _: "good")
        assert engine.account.ledger.totals == {STEP: STEPS}

    def test_before_the_first_run_there_is_no_account(self) -> None:
        engine = PrivacyEngine()
        with pytest.raises(ZeroDivisionError):
            search(engine, lambda *_: 1 / 0)
        with pytest.raises(RuntimeError, match="no run of this search has called make_private yet"):
            _ = engine.account


class TestLimit:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"sampling_rate": 0.51}, "which costs more; it released nothing of it"),
            ({"noise_multiplier": 3.99}, "which costs more; it released nothing of it"),
            ({"steps_per_epoch": STEPS + 1}, "at most 5 steps, which were taken; this step released nothing"),
        ],
    )
    def test_a_run_that_costs_more_stops_before_it_releases(
        self, options: dict[str, Any], message: str
    ) -> None:
        engine, inner = PrivacyEngine(), []

        def one(running: PrivacyEngine, candidate: Any) -> nn.Module:
            inner.append(running)
            return train(running, candidate, **options)

        with pytest.raises(RuntimeError, match=message):
            search(engine, one)
        (running,) = inner
        assert running.ledger.steps == (STEPS if "steps_per_epoch" in options else 0)
        assert engine.account.ledger == running.ledger

    def test_another_partition_or_an_audit_is_refused_before_training(self) -> None:
        other = Partition.by_record(len(Y))
        with pytest.raises(ValueError, match=r"partition is .* but this search was planned for"):
            search(PrivacyEngine(), counted([], partition=other))
        with pytest.raises(ValueError, match="audit is given, but a search releases nothing"):
            search(PrivacyEngine(), counted([], audit=Audit(canaries=4)))

    def test_a_run_ends_with_train(self) -> None:
        kept: list[Any] = []

        def keeps(engine: PrivacyEngine, candidate: Any) -> int:
            kept.append(wrap(engine=engine, noise_multiplier=4.0, steps_per_epoch=2))
            return 0

        search(PrivacyEngine(), keeps, score=float)
        _, module, optimizer, loader = kept[0]
        before = weights(module)
        with pytest.raises(RuntimeError, match="this run of a search has ended"):
            for x, y in loader:
                step(module, optimizer, x, y)
        assert torch.equal(weights(module), before)

    def test_steps_of_a_checkpoint_count(self, tmp_path: Path) -> None:
        expensive = PrivacyEngine()
        train(expensive, 0, steps_per_epoch=STEPS + 3)
        expensive.save_checkpoint(tmp_path / "saved")

        def resumes(engine: PrivacyEngine, candidate: Any) -> int:
            wrap(engine=engine, noise_multiplier=4.0, steps_per_epoch=STEPS + 3, seed=0)
            engine.load_checkpoint(tmp_path / "saved")
            return 0

        with pytest.raises(RuntimeError, match="at most 5 steps"):
            search(PrivacyEngine(), resumes, score=float)

    def test_training_elsewhere_is_refused(self) -> None:
        with pytest.raises(
            ValueError, match="train did not call make_private of the engine that it was given"
        ):
            search(PrivacyEngine(), lambda _, candidate: train(PrivacyEngine(), candidate))


class TestEngine:
    def test_it_is_used_once(self) -> None:
        engine = PrivacyEngine()
        search(engine)
        with pytest.raises(ValueError, match="this engine has run a search"):
            wrap(engine=engine)
        with pytest.raises(ValueError, match="this engine was used before"):
            search(engine)
        used, *_ = wrap()
        with pytest.raises(ValueError, match="this engine was used before"):
            search(used)

    @pytest.mark.parametrize(
        ("changed", "error", "message"),
        [
            ({"candidates": []}, ValueError, "candidates is empty"),
            ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
            ({"tries": 10}, TypeError, "tries must be accountants.Tries, .* got 10"),
            ({"sampling_rate": 0}, ValueError, "sampling_rate must be in"),
            ({"secure_mode": True}, ValueError, "seed is 4 and secure_mode is True"),
        ],
    )
    def test_bad_input(self, changed: dict[str, Any], error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            search(PrivacyEngine(), **changed)

    def test_a_group_of_processes_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        with pytest.raises(ValueError, match="search runs in one process"):
            search(PrivacyEngine())


class TestAccount:
    def test_it_is_saved_stated_and_not_composed(self) -> None:
        engine = PrivacyEngine()
        search(engine, counted([], seed=None, clipping=AdaptiveClipping()), seed=None)
        account = engine.account
        assert Account.from_json(account.to_json()) == account
        assert (account.rule, account.adaptive, account.noise) == (TRIES, True, NoiseMode.ORDINARY)
        statement = engine.statement(1e-3)
        assert "the best of a random number of runs, 6 on average (logarithmic)" in statement.markdown()
        assert "except those that a search or a filter accounts for" in statement.text()
        (promise,) = statement.to_dict()["promises"]
        assert promise["rule"] == {"rule": "selection", "mean": 6.0, "shape": 0.0}
        assert promise["guarantees"][0]["accountant"] == "selection"
        other, *_ = wrap()
        with pytest.raises(ValueError, match=r"has a rule .* which does not compose"):
            combine([account, other.account])
        with pytest.raises(ValueError, match=r"has a rule .* which does not compose"):
            Statement(accounts=[other.account, account], delta=1e-3)

    def test_a_seed_anywhere_is_no_guarantee(self) -> None:
        for seeds in ({"inner": 0, "outer": None}, {"inner": None, "outer": 0}):
            engine = PrivacyEngine()
            search(engine, counted([], seed=seeds["inner"]), seed=seeds["outer"])
            assert not engine.guarantee(1e-3).is_guarantee

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            ('"mean": 0.5', "rule: mean must be above 1"),
            ('"mean": 6.5', "sha256 must be"),
            ('"means": 6.0', "rule: expected the keys mean, rule, shape"),
        ],
    )
    def test_an_edited_rule_is_refused(self, edit: str, message: str) -> None:
        engine = PrivacyEngine()
        search(engine)
        text = engine.account.to_json()
        assert text.count('"mean": 6.0') == 1
        with pytest.raises(ValueError, match=message):
            Account.from_json(text.replace('"mean": 6.0', edit))
        with pytest.raises(ValueError, match="rule: expected a rule, one of selection, filter, got"):
            Account.from_json(text.replace('"rule": "selection"', '"rule": "best"'))
