"""Adaptive clipping: what the count costs, how the norm moves, and that the charge covers both releases."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import Account, AdaptiveClipping, Partition, PrivacyEngine
from dpmi.privacy.audit import Audit
from dpmi.privacy.plan import Plan
from dpmi.privacy.unclipped_count import UnclippedCount

from .reference import private_run
from .test_update import problem


@pytest.mark.parametrize("sigma", [0.3, 1.0, 20.0])
@pytest.mark.parametrize("count_noise", [None, 30.0])
def test_one_bucket_moves_both_releases_by_one_over_the_charged_noise(
    sigma: float, count_noise: float | None
) -> None:
    gradients, count = AdaptiveClipping(count_noise=count_noise).noises(sigma, 100.0)
    assert gradients > sigma
    # The length of (unit gradient / its noise, 1/2 / the count's noise), by hand.
    assert math.hypot(1 / gradients, 0.5 / count) == pytest.approx(1 / sigma)
    assert count == (count_noise or max(5.0, sigma))


def test_the_norm_moves_towards_the_quantile() -> None:
    rule = AdaptiveClipping(quantile=0.8, learning_rate=0.5)
    assert rule.moved(2.0, 0.8) == 2.0
    assert rule.moved(2.0, 1.0) == pytest.approx(2 * math.exp(-0.1))
    assert rule.moved(2.0, 0.0) == pytest.approx(2 * math.exp(0.4))


def adapted(epochs: int = 30, **options: Any) -> Any:
    model, x, y, partition = problem("linear")
    rule = options.pop("rule", AdaptiveClipping(quantile=0.6))
    return private_run(
        model, x, y, partition, epochs=epochs, clipping=rule, **{"sampling_rate": 1.0, **options}
    )


@pytest.mark.parametrize("mode", ["stream", "hooks", "ghost"])
@pytest.mark.parametrize("max_physical_batch_size", [512, 5])
def test_without_noise_the_norm_ends_at_the_quantile(mode: str, max_physical_batch_size: int) -> None:
    model, x, y, partition = problem("linear")
    start = copy.deepcopy(model)
    engine, optimizer = PrivacyEngine(), torch.optim.SGD(model.parameters(), lr=0.0)
    options: dict[str, Any] = {} if mode == "stream" else {"criterion": nn.CrossEntropyLoss()}
    with pytest.warns(UserWarning, match="noise_multiplier is 0"):
        module, private, *criterion, loader = engine.make_private(
            module=model,
            optimizer=optimizer,
            data_loader=DataLoader(TensorDataset(x, y)),
            partition=partition,
            sampling_rate=1.0,
            noise_multiplier=0.0,
            max_grad_norm=5.0,
            clipping=AdaptiveClipping(quantile=0.5, count_noise=1e-6),
            grad_sample_mode=mode,
            max_physical_batch_size=max_physical_batch_size,
            steps_per_epoch=60,
            **options,
        )
    for inputs, labels in loader:
        private.zero_grad()
        (criterion[0] if criterion else F.cross_entropy)(module(inputs), labels).backward()
        private.step()
    norms = []
    for bucket in range(partition.num_buckets):
        members = torch.as_tensor(partition.records(bucket))
        loss = F.cross_entropy(start(x[members]), y[members])
        found = torch.autograd.grad(loss, list(start.parameters()))
        norms.append(float(torch.cat([g.flatten() for g in found]).norm()))
    # Five buckets: the norm swings about the median, below which two of five are not clipped and above which three.
    assert private.max_grad_norm == pytest.approx(float(np.median(norms)), rel=0.1)


def test_gradients_have_the_noise_that_the_count_leaves_and_the_current_norm() -> None:
    torch.default_generator.manual_seed(0)
    model = nn.Linear(60, 50, bias=False)
    rule = AdaptiveClipping(quantile=0.5, learning_rate=1.0, count_noise=3.0)
    engine = PrivacyEngine()
    module, optimizer, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
        data_loader=DataLoader(TensorDataset(torch.zeros(4, 60), torch.zeros(4).long())),
        partition=Partition.by_record(4),
        sampling_rate=1.0,
        noise_multiplier=2.0,
        max_grad_norm=0.5,
        clipping=rule,
        steps_per_epoch=4,
        seed=3,
    )
    gradients, norms = [], []

    def release(*_: object) -> None:
        assert model.weight.grad is not None
        gradients.append(model.weight.grad.clone())
        norms.append(optimizer.max_grad_norm)

    optimizer.original_optimizer.register_step_pre_hook(release)
    for x, y in loader:
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    noise, _ = rule.noises(2.0, 4.0)
    assert noise == pytest.approx((1 / 4 - 1 / 36) ** -0.5)
    assert len(set(norms)) == 4, "the norm moves in every step"
    for gradient, norm in zip(gradients, norms, strict=True):
        assert float(gradient.std()) == pytest.approx(noise * norm / 4, rel=0.06)
    assert engine.ledger.runs[0][0].noise_multiplier == 2.0, "the charge is that of both releases"


def test_the_count_has_its_noise_once() -> None:
    count = UnclippedCount(
        AdaptiveClipping(learning_rate=1.0), noise=3.0, expected_buckets=10.0, device=torch.device("cpu")
    )
    filled: list[float] = []

    def fill(values: torch.Tensor, std: float) -> None:
        filled.append(std)
        values.fill_(0.25)

    count.start(fill)
    count.add(np.array([True, True, False]))
    count.add(np.array([True]))
    assert filled == [3.0]
    assert count.value.item() == pytest.approx(0.25 + 3 / 2 - 1 / 2)
    assert count.next_norm(1.0) == pytest.approx(math.exp(-(1.25 / 10 + 0.5 - 0.5)))
    count.start(None)
    assert count.value.item() == 0


def test_a_resumed_training_goes_on_with_the_norm_it_had(tmp_path: Any) -> None:
    path = f"{tmp_path}/checkpoint.pt"
    whole = adapted(2, noise_multiplier=1.0)
    first = adapted(1, noise_multiplier=1.0)
    first.engine.save_checkpoint(path)
    second = adapted(0, noise_multiplier=1.0)
    second.engine.load_checkpoint(path)
    assert second.optimizer.max_grad_norm == first.optimizer.max_grad_norm != 0.3
    assert first.optimizer.max_grad_norm != whole.optimizer.max_grad_norm
    with pytest.raises(ValueError, match=r"clipping is 'AdaptiveClipping.*' there and 'flat' here"):
        model, x, y, partition = problem("linear")
        private_run(
            model, x, y, partition, epochs=0, noise_multiplier=1.0, sampling_rate=1.0
        ).engine.load_checkpoint(path)


def test_account_and_statement_say_that_the_norm_adapted() -> None:
    run = adapted(1, noise_multiplier=1.0)
    account = run.engine.account
    assert account.adaptive
    assert Account.from_json(account.to_json()) == account
    assert "then followed a quantile of the norms by a noisy count" in run.engine.statement(1e-2).text()
    model, x, y, partition = problem("linear")
    flat = private_run(model, x, y, partition, noise_multiplier=1.0).engine.account
    assert not flat.adaptive
    assert '"adaptive"' not in flat.to_json()
    with pytest.raises(ValueError, match="adaptive must be true or false, got 3"):
        Account.from_json(resealed(account.to_json(), adaptive=3))


def resealed(text: str, **changed: object) -> str:
    import json

    from accountants import sealed_json

    content = {**json.loads(text), **changed}
    del content["sha256"]
    return sealed_json.dump(sealed_json.sealed(content))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"quantile": 1.5}, r"quantile must be in \[0, 1\], got 1.5"),
        ({"learning_rate": 0.0}, r"learning_rate must be above 0, got 0"),
        ({"count_noise": -1.0}, r"count_noise must be above 0, got -1"),
    ],
)
def test_wrong_settings(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptiveClipping(**wrong)


def test_what_cannot_be_is_refused_before_training() -> None:
    plan = {
        "partition": Partition.by_record(3),
        "sampling_rate": 0.5,
        "noise_multiplier": 4.0,
        "max_grad_norm": 1.0,
    }
    with pytest.raises(ValueError, match=r"count_noise must be above 2, half the noise multiplier.* got 2"):
        Plan(**plan, clipping=AdaptiveClipping(count_noise=2.0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="an audit needs one fixed max_grad_norm"):
        model, x, y, partition = problem("linear")
        private_run(
            model, x, y, partition, noise_multiplier=1.0, clipping=AdaptiveClipping(), audit=Audit(canaries=2)
        )
