"""The noise-free update equals the brute force, whatever the layers and however the records are split.

Modules: dpmi/privacy/gradients/bucket_gradients.py, dpmi/privacy/gradients/row_norms.py, dpmi/privacy/optimizer.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import Partition, PrivacyEngine

from .gradients.test_layers import capture_of, send_back, trained
from .gradients.test_layers import run as forward
from .reference import brute_force, private_run, relative_error

DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))
TOLERANCE = 1e-5


class UnevenUse(nn.Module):
    """One layer used twice, and one that only some records reach."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(6, 6)
        self.rare = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.shared(torch.tanh(self.shared(x))))
        return self.head(self.rare(h) if len(x) == 1 and x[0, 0] > 0 else h)


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def convolution() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 6, 6)),
        nn.Conv2d(1, 4, 3, stride=2),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def embedding() -> nn.Module:
    return nn.Sequential(nn.Embedding(11, 5), nn.Flatten(), nn.Linear(30, 3))


def frozen() -> nn.Module:
    model = linear()
    model[0].requires_grad_(False)  # type: ignore[index]
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "linear": (linear, 6),
    "convolution-groupnorm": (convolution, 36),
    "embedding": (embedding, 0),
    "frozen-layer": (frozen, 6),
}


def problem(name: str, n: int = 37) -> tuple[nn.Module, Tensor, Tensor, Partition]:
    build, width = MODELS[name]
    generator = torch.Generator().manual_seed(3)
    torch.default_generator.manual_seed(3)
    x = (
        torch.randn(n, width, generator=generator)
        if width
        else torch.randint(11, (n, 6), generator=generator)
    )
    y = torch.randint(3, (n,), generator=generator)
    # Sizes 1, 2, 4, 8 and what is left: unequal buckets, the last one larger than a physical batch below.
    ids = np.repeat(np.arange(5), [1, 2, 4, 8, n - 15])
    return build(), x, y, Partition.by_column(np.random.default_rng(0).permutation(ids))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("max_physical_batch_size", [512, 9, 1])
@pytest.mark.parametrize("mode", ["stream", "hooks", "ghost"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("device", DEVICES)
def test_update_equals_brute_force(
    device: str, name: str, mode: str, max_physical_batch_size: int, reduction: str
) -> None:
    model, x, y, partition = problem(name)
    start = copy.deepcopy(model)
    with torch.backends.cudnn.flags(allow_tf32=False):  # 19 bits would not agree to 1e-5
        run = private_run(
            model.to(device),
            x.to(device),
            y.to(device),
            partition,
            reduction=reduction,
            epochs=3,
            max_physical_batch_size=max_physical_batch_size,
            grad_sample_mode=mode,
        )
    model.cpu()
    assert len(run.steps) == 6
    assert max(run.batches) <= max_physical_batch_size
    assert relative_error(start, brute_force(start, x, y, partition, run.steps)) > 1e-3  # it did train
    assert relative_error(model, brute_force(start, x, y, partition, run.steps)) < TOLERANCE


def test_some_buckets_are_clipped_and_some_are_not() -> None:
    """Otherwise the test above would say nothing about one of the two."""
    model, x, y, partition = problem("linear")
    norms = []
    for bucket in range(partition.num_buckets):
        members = torch.as_tensor(partition.records(bucket))
        grads = torch.autograd.grad(F.cross_entropy(model(x[members]), y[members]), list(model.parameters()))
        norms.append(float(torch.cat([g.flatten() for g in grads]).norm()))
    assert min(norms) < 0.3 * 2 < max(norms) * 2


def test_a_parameter_that_some_buckets_do_not_reach_has_gradient_zero_there() -> None:
    torch.default_generator.manual_seed(0)
    model, x, y = UnevenUse(), torch.randn(6, 6), torch.tensor([0, 1, 2, 0, 1, 2])
    partition = Partition.by_record(6)
    start = copy.deepcopy(model)
    run = private_run(model, x, y, partition, epochs=2, grad_sample_mode="stream")
    assert relative_error(model, brute_force(start, x, y, partition, run.steps)) < TOLERANCE


@pytest.mark.parametrize("name", MODELS)
def test_one_record_per_bucket_equals_opacus(name: str) -> None:
    from opacus.grad_sample import GradSampleModule

    model, x, y, _ = problem(name, n=20)
    theirs = GradSampleModule(copy.deepcopy(model))
    F.cross_entropy(theirs(x), y).backward()

    capture = capture_of(model, [1] * len(x))
    send_back(F.cross_entropy(forward(model, x, capture), y, reduction="sum"), capture)
    assert all(p.grad is None for p in model.parameters())
    for ours, p in zip(trained(model), trained(theirs), strict=True):
        torch.testing.assert_close(capture.rows[ours[1]], p[1].grad_sample, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_clipped_norm_never_exceeds_the_bound_in_float64(scale: float) -> None:
    """On a large gradient, where a norm taken in float32 comes out too small."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(4200, 153, bias=False)
    x = torch.randn(8, 4200, generator=generator) * scale
    clipped: list[float] = []

    class Recording(torch.optim.SGD):
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            clipped.append(float(torch.linalg.vector_norm(model.weight.grad.double())))  # type: ignore[union-attr]

    engine, optimizer = PrivacyEngine(), Recording(model.parameters(), lr=1.0)
    with pytest.warns(UserWarning, match="noise_multiplier"):
        module, private, loader = engine.make_private(
            module=model,
            optimizer=optimizer,
            data_loader=DataLoader(TensorDataset(x, torch.arange(8))),
            partition=Partition.by_column([0] * 8),
            sampling_rate=1.0,
            noise_multiplier=0.0,
            max_grad_norm=1e-3,
        )
    for inputs, labels in loader:
        F.cross_entropy(module(inputs), labels).backward()
        private.step()
    assert len(clipped) == 1
    assert 1e-3 * (1 - 1e-5) < clipped[0] <= 1e-3
