"""A private step on a GPU: its noise, what it refuses, and every option with the same result as on a CPU.

Modules: dpmi/privacy/clipping.py, dpmi/privacy/noise.py, dpmi/privacy/optimizer.py, dpmi/privacy/parameter_groups.py,
dpmi/privacy/unclipped_count.py.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import AdaptiveClipping, GroupClipping, NonFiniteGradientError, Partition, PrivacyEngine
from dpmi.privacy.audit import Audit

MODES = ("stream", "hooks", "ghost")
N = 60
X = torch.randn(N, 30, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 6
USERS = Partition.by_column((torch.arange(N) // 5).numpy())


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def network() -> nn.Module:
    torch.default_generator.manual_seed(0)
    return nn.Sequential(nn.Linear(30, 40), nn.LayerNorm(40), nn.Tanh(), nn.Linear(40, 6))


def wrapped(device: str, mode: str, *, x: Tensor = X, **options: Any) -> tuple[Any, ...]:
    """Engine, model, module, optimizer, criterion and loader, of two steps in a pass."""
    model, engine = network().to(device), PrivacyEngine()
    groups = [{"params": layer.parameters()} for layer in model if list(layer.parameters())]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no noise warns
        module, optimizer, *criterion, loader = engine.make_private(
            module=model,
            optimizer=torch.optim.SGD(groups, lr=0.1, momentum=0.9),
            data_loader=DataLoader(TensorDataset(x.to(device), Y.to(device))),
            grad_sample_mode=mode,
            **{
                "partition": USERS,
                "sampling_rate": 0.5,
                "noise_multiplier": 0.0,
                "max_grad_norm": 0.3,
                "steps_per_epoch": 2,
                "seed": 0,
                **({} if mode == "stream" else {"criterion": F.cross_entropy}),
                **options,
            },
        )
    return engine, model, module, optimizer, criterion[0] if criterion else F.cross_entropy, loader


def train(module: Any, optimizer: Any, criterion: Any, loader: Any, epochs: int = 2) -> None:
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            criterion(module(x), y).backward()
            optimizer.step()


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).cpu()


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "automatic": {"clipping": "automatic"},
    "groups": {"clipping": GroupClipping(relative_norms=[1.0, 0.5, 2.0])},
    "some records": {"max_records_per_bucket": 3},
    "parts of buckets": {"max_physical_batch_size": 2},
}


@pytest.mark.gpu
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("mode", MODES)
def test_options_give_the_same_on_a_gpu(mode: str, name: str) -> None:
    """The draws come from a generator of the CPU, so they are those of the same seed."""
    found = []
    for device in ("cpu", "cuda"):
        _, model, *rest = wrapped(device, mode, **OPTIONS[name])
        before = weights(model)
        train(*rest)
        found.append(weights(model))
    moved = float((found[0] - before).norm())
    assert moved > 1e-2
    assert float((found[1] - found[0]).norm()) < 1e-4 * moved


@pytest.mark.parametrize("secure", [False, True])
def test_the_noise_of_a_step_has_its_standard_deviation(secure: bool, device: str) -> None:
    """Of 12 users, 6 are expected; the gradients are zero, so all that is released is noise."""
    _, model, module, optimizer, _, loader = wrapped(
        device, "stream", noise_multiplier=2.0, seed=None, secure_mode=secure
    )
    given: list[Tensor] = []
    optimizer.original_optimizer.register_step_pre_hook(
        lambda *_: given.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    )
    for x, _ in loader:
        optimizer.zero_grad()
        (module(x).sum() * 0.0).backward()
        optimizer.step()
    one, other = (g.cpu().double().numpy() for g in given[:2])
    assert given[0].device.type == device
    for noise in (one, other):
        assert stats.kstest(noise, stats.norm(scale=2.0 * 0.3 / 6).cdf).pvalue > 1e-6
    assert abs(stats.pearsonr(one, other).statistic) < 6 / len(one) ** 0.5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("mode", MODES)
def test_a_gradient_that_is_not_finite_is_refused_before_release(
    mode: str, value: float, device: str
) -> None:
    x = X.clone()
    x[17, 3] = value
    engine, model, *rest = wrapped(device, mode, x=x, noise_multiplier=1.0, sampling_rate=1.0)
    before = weights(model)
    with pytest.raises(NonFiniteGradientError, match=r"bucket 3 \(user 3\) has norm (nan|inf)"):
        train(*rest)
    assert torch.equal(weights(model), before)
    assert engine.ledger.steps == 0


def test_a_move_of_parameters_within_a_step_is_refused(device: str) -> None:
    _, model, module, optimizer, criterion, loader = wrapped(device, "hooks", max_physical_batch_size=10)
    with pytest.raises(RuntimeError, match=r"'3\.bias' was changed within a logical step"):
        for x, y in loader:
            optimizer.zero_grad()
            criterion(module(x), y).backward()
            if not optimizer.rehearsing:
                model[3].bias.data[0] += 1e-3
            optimizer.step()
    assert optimizer.released_steps == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_norm_that_adapts_moves(mode: str, device: str) -> None:
    _, model, module, optimizer, criterion, loader = wrapped(
        device, mode, clipping=AdaptiveClipping(), noise_multiplier=1.0
    )
    train(module, optimizer, criterion, loader)
    assert optimizer.max_grad_norm != 0.3
    assert bool(weights(model).isfinite().all())


@pytest.mark.gpu
def test_an_audit_counts_its_canaries() -> None:
    engine, _, module, optimizer, criterion, loader = wrapped(
        "cuda", "stream", noise_multiplier=1.0, seed=None, audit=Audit(canaries=20), steps_per_epoch=20
    )
    train(module, optimizer, criterion, loader, epochs=1)
    assert engine.ledger.steps == 20
    assert "canar" in engine.statement(delta=1e-3).text()
