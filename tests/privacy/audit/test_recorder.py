"""The recorder in whole trainings: what it adds to them, what it finds, and what it finds in broken ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from accountants import BucketMechanism
from dpmi.privacy import PrivacyEngine
from dpmi.privacy.audit import Audit, Recorder
from dpmi.privacy.audit.canaries import LENGTH
from dpmi.privacy.finding import Finding
from dpmi.privacy.noise import NoiseSource

from .small import CANARIES, go_on, trained, wrap


def recorder(engine: PrivacyEngine) -> Recorder:
    observer = engine.observer
    assert isinstance(observer, Recorder)
    return observer


def p_of(finding: Finding, start: str) -> float:
    (check,) = (check for check in finding.checks if check.name.startswith(start))
    return check.p_value


def test_a_correct_run_is_consistent_and_its_bound_is_below_the_claim() -> None:
    engine = trained()
    finding = engine.finding()
    assert finding.verdict == "consistent"
    assert finding.canaries == CANARIES
    assert (finding.claimed.sampling_rate, finding.claimed.noise_multiplier) == (0.3, 1.0)
    assert finding.claimed.steps == finding.at_least.steps == engine.ledger.steps == 30
    for adjacency in ("replace", "add_remove"):
        claim = engine.guarantee(1e-3, adjacency=adjacency).epsilon  # type: ignore[arg-type]
        bound = finding.lower_bound(1e-3, adjacency)  # type: ignore[arg-type]
        assert 0.3 * claim < bound < 1.4 * claim  # above the claim in one of twenty runs
        assert 0.3 * claim < finding.ceiling.epsilon(1e-3, adjacency) < claim  # type: ignore[arg-type]


def test_canaries_are_drawn_clipped_and_summed_like_buckets() -> None:
    """A step of canaries alone, with next to no noise: every drawn one contributes S along its direction."""
    engine, module, optimizer, loader = wrap(noise_multiplier=1e-6, sampling_rate=1.0, steps_per_epoch=1)
    seen: list[Tensor] = []
    optimizer.original_optimizer.register_step_pre_hook(
        lambda o, *_: seen.append(torch.cat([p.grad.flatten() for g in o.param_groups for p in g["params"]]))
    )
    go_on(module, optimizer, loader)
    watch = recorder(engine)
    scores = watch._directions.scores(0, seen[0]) * engine.plan.expected_buckets / 0.5
    assert engine.plan.expected_buckets == 6 + CANARIES
    sign = torch.from_numpy(watch.coins.sign)
    assert set(sign[::2].tolist()) <= {0, 1}
    assert set(sign[1::2].tolist()) <= {-1, 1}
    others = scores - sign  # the projections of the six buckets' gradients
    assert float(others.abs().max()) < 6 * 5 / 1086**0.5
    assert LENGTH > 1  # so clipping is what makes them 1


def test_the_promise_and_the_ledger_are_those_of_a_run_without_audit() -> None:
    audited, plain = trained(), trained(audit=None)
    assert audited.ledger == plain.ledger
    assert audited.plan.mechanism == plain.plan.mechanism
    assert audited.account.buckets == plain.account.buckets == 6
    with pytest.raises(
        RuntimeError, match=r"no audit on this process: pass audit=Audit\(\) to make_private before"
    ):
        plain.finding()


def test_nothing_released_is_nothing_found() -> None:
    engine, *_ = wrap()
    with pytest.raises(RuntimeError, match="nothing was released yet"):
        engine.finding()
    assert engine.account.findings == ()


def test_a_seed_repeats_the_secrets_and_none_makes_new_ones() -> None:
    signs = [
        recorder(wrap(audit=Audit(canaries=40, seed=seed))[0]).coins.sign for seed in (1, 1, 2, None, None)
    ]
    assert np.array_equal(signs[0], signs[1])
    assert not any(np.array_equal(signs[i], signs[j]) for i, j in ((0, 2), (2, 3), (3, 4)))


def test_a_resumed_audit_goes_on_where_it_was(tmp_path: Path) -> None:
    options = {"audit": Audit(canaries=CANARIES, seed=3), "seed": 5}
    whole = trained(**options)
    engine, module, optimizer, loader = wrap(**options)
    path = tmp_path / "c.pt"
    go_on(module, optimizer, loader, lambda done: engine.save_checkpoint(path) if done == 11 else None)
    other = {
        **options,
        "audit": Audit(canaries=CANARIES, seed=4),
    }  # its secrets are replaced by the checkpoint's
    resumed, module, optimizer, loader = wrap(**other)
    resumed.load_checkpoint(tmp_path / "c.pt")
    go_on(module, optimizer, loader)
    assert resumed.finding() == whole.finding()
    unaudited, *_ = wrap(audit=None, seed=5)
    with pytest.raises(ValueError, match=f"canaries is {CANARIES} there and 0 here"):
        unaudited.load_checkpoint(tmp_path / "c.pt")


def test_two_runs_of_one_engine_are_found_apart() -> None:
    engine = trained()
    first = engine.finding()
    model = torch.nn.Linear(20, 40)
    with pytest.raises(
        ValueError, match="canaries is 44, but a model of 840 trained parameters has room for 42"
    ):
        engine.make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            data_loader=torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(60, 20))),
            partition=engine.plan.partition,
            sampling_rate=0.1,
            noise_multiplier=2.0,
            max_grad_norm=1.0,
            audit=Audit(canaries=44),
        )
    assert engine.finding() == first
    assert engine.account.findings == (first,)


Breaking = Callable[[pytest.MonkeyPatch], None]


def halved_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    original = NoiseSource.of

    def of(*args: Any, **options: Any) -> Any:
        source = original(*args, **options)
        fill = source.fill_
        monkeypatch.setattr(source, "fill_", lambda flat, std: fill(flat, std / 2))
        return source

    monkeypatch.setattr(NoiseSource, "of", of)


def test_noise_that_is_too_small_is_found_and_raises_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    halved_noise(monkeypatch)
    engine = trained()
    finding = engine.finding()
    assert finding.violated
    assert finding.p_value < 1e-12
    assert p_of(finding, "standard deviation of the noise, relative") == 0.0
    assert finding.lower_bound(1e-3, "replace") > engine.guarantee(1e-3).epsilon
    assert "contradicted by an audit" in engine.statement(1e-3).markdown().splitlines()[0]


def run_with(release: Callable[[Recorder, list[Tensor]], list[Tensor]], **options: Any) -> Finding:
    """The finding of a run whose released gradients were changed."""
    engine, module, optimizer, loader = wrap(**options)
    watch = recorder(engine)
    seen = watch.released
    watch.released = lambda drawn, gradients: seen(drawn, release(watch, gradients))  # type: ignore[method-assign]
    go_on(module, optimizer, loader)
    return engine.finding()


def test_a_release_that_is_not_what_was_summed_is_found() -> None:
    smaller = run_with(lambda _, gradients: [g * 0.5 for g in gradients])
    assert p_of(smaller, "correlation of the rest of a release") < 1e-9
    assert p_of(smaller, "mean contribution of a drawn canary") < 1e-6
    more = run_with(lambda _, gradients: [g + torch.randn_like(g) * 0.1 for g in gradients])
    assert p_of(more, "largest released sum") == 0.0


def test_steps_that_were_not_charged_are_found() -> None:
    engine = trained()
    watch = recorder(engine)
    missing = watch.finding(engine.plan.mechanism, steps=29)
    assert missing is not None
    assert missing.p_value == 0.0
    assert missing.verdict.startswith("violated (p = 0): released steps, of which each must be charged is 30")


def test_a_rate_that_was_not_charged_is_found() -> None:
    engine = trained(steps_per_epoch=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = recorder(engine).finding(BucketMechanism(sampling_rate=0.2, noise_multiplier=1.0), steps=200)
    assert found is not None
    assert p_of(found, "share of the canaries that a step draws") < 1e-12
    assert p_of(found, "share of the buckets that a step draws") < 1e-2


def test_scores_tell_the_coins_under_both_adjacencies() -> None:
    engine = trained(steps_per_epoch=150)
    scores = recorder(engine).scores()
    assert set(scores) == {"replace", "add_remove"}
    for found in scores.values():
        assert found.canaries == CANARIES // 2
        assert found.inside.mean() > found.outside.mean()
    assert scores["replace"].inside.min() > 0 > scores["replace"].outside.max()
