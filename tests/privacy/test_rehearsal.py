"""Several buckets share a physical batch only where that was seen to change neither of two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dpmi.privacy import BucketDataLoader, Partition, PrivacyEngine

N = 40
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 4
Loss = Callable[[Tensor, Tensor], Tensor]


class Trained:
    """Three logical steps of the user's loop, and what the loader yielded."""

    def __init__(
        self, model: nn.Module, loss: Loss = F.cross_entropy, data: Any = None, **options: Any
    ) -> None:
        self.engine = PrivacyEngine()
        module, optimizer, loader = self.engine.make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            data_loader=data or DataLoader(TensorDataset(X, Y)),
            **{
                "partition": Partition.by_column(torch.arange(N).numpy() // 4),
                "sampling_rate": 0.5,
                "noise_multiplier": 1.0,
                "max_grad_norm": 1.0,
                "steps_per_epoch": 3,
                **options,
            },
        )
        self.loader: BucketDataLoader = loader
        self.sizes: list[int] = []
        self.rehearsed: list[int] = []
        for x, y in loader:
            (self.rehearsed if optimizer.rehearsing else self.sizes).append(len(y))
            optimizer.zero_grad()
            loss(module(x), y).backward()
            optimizer.step()


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, 4))


class Scaled(nn.Module):
    """A parameter that no known layer uses, in a module that has children."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 4)
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * self.scale)


class Centred(nn.Module):
    """Takes the mean over all records, whatever their buckets."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        return h - h.mean(0)


class Transposed(nn.Module):
    """Has the records in the second dimension; here there are as many as features."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LazyLinear(4)
        self.inner(torch.zeros(1, 1))
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x.T.unsqueeze(2))  # (6, records, 4)
        return self.head(h.transpose(0, 1).flatten(1))


class Leaning(nn.Module):
    """Centres records on those before them; their gradients say nothing of it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        before = torch.cumsum(x, 0) - x
        return self.inner(x - before / torch.arange(1, len(x) + 1)[:, None])


class Noisy(nn.Module):
    """Random in evaluation too."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + torch.randn_like(x))


def coupled(outputs: Tensor, labels: Tensor) -> Tensor:
    """A mean loss with a small term across records, such as a regularizer on the batch."""
    return F.cross_entropy(outputs, labels) + 0.01 * outputs.mean(0).square().sum()


@pytest.mark.parametrize("mode", ["auto", "hooks", "ghost"])
def test_buckets_share_a_physical_batch_after_three_small_ones(mode: str) -> None:
    run = Trained(linear(), grad_sample_mode=mode)
    assert run.rehearsed == [4 + 3, 4, 3]
    assert max(run.sizes) > 4
    assert run.engine.ledger.steps == 3


def test_only_the_first_pass_rehearses() -> None:
    run = Trained(linear())
    assert len(next(iter(run.loader))[1]) > 4


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (6, 1, 1)),
        nn.Upsample(scale_factor=12),
        nn.Conv2d(6, 160, 3),
        nn.ReLU(),
        nn.Conv2d(160, 100, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(100, 4),
    )


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 4))


@pytest.mark.parametrize(("model", "alone"), [(convolutions, True), (wide, False)])
def test_auto_streams_what_keeps_the_machine_busy_alone(model: Callable[[], nn.Module], alone: bool) -> None:
    """150,000 parameters of convolutions, each used at 64 positions or more, or as many of linear layers."""
    run = Trained(model())
    assert len(run.rehearsed) == 3
    assert (set(run.sizes) == {4}) == alone
    assert max(Trained(model(), grad_sample_mode="ghost").sizes) > 4


PROBLEMS: list[tuple[Callable[[], nn.Module], Loss, dict[str, Any], str]] = [
    (linear, coupled, {}, "couples"),
    (linear, F.cross_entropy, {"loss_reduction": "sum"}, "loss_reduction"),
    (Scaled, F.cross_entropy, {}, "'scale'"),
    (Centred, F.cross_entropy, {}, "couples"),
    (Leaning, F.cross_entropy, {}, "couples"),
    (Transposed, F.cross_entropy, {}, "'inner"),
    (Noisy, F.cross_entropy, {}, "changed by"),
]


@pytest.mark.parametrize(("model", "loss", "options", "word"), PROBLEMS)
def test_what_would_mix_buckets_is_streamed(
    model: Callable[[], nn.Module], loss: Loss, options: dict[str, Any], word: str
) -> None:
    run = Trained(model(), loss, **options)
    assert len(run.rehearsed) == 3
    assert set(run.sizes) == {4}
    assert run.engine.ledger.steps == 3


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
@pytest.mark.parametrize(("model", "loss", "options", "word"), PROBLEMS)
def test_it_is_refused_if_the_user_insists(
    model: Callable[[], nn.Module], loss: Loss, options: dict[str, Any], word: str, mode: str
) -> None:
    built = model()
    before = [p.detach().clone() for p in built.parameters()]
    with pytest.raises(RuntimeError, match="grad_sample_mode='stream'") as error:
        Trained(built, loss, grad_sample_mode=mode, **options)
    assert word in str(error.value)
    assert "nothing was released" in str(error.value)
    assert all(torch.equal(p, b) for p, b in zip(built.parameters(), before, strict=True))


def test_a_loss_inside_the_model_is_split_if_it_is_a_mean_over_records() -> None:
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear()

        def forward(self, x: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(self.inner(x), labels)

    model, engine, sizes = WithLoss(), PrivacyEngine(), []
    module, optimizer, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(TensorDataset(X, Y)),
        partition=Partition.by_column(torch.arange(N).numpy() // 4),
        sampling_rate=0.5,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        grad_sample_mode="hooks",
    )
    for x, y in loader:
        module(x, labels=y).backward()
        optimizer.step()
        sizes.append(len(y))
    assert max(sizes) > 8


def test_records_are_not_fetched_twice_for_a_rehearsal() -> None:
    """Random augmentation would make a bucket differ from itself."""
    fetched: list[int] = []

    class Augmented(Dataset[tuple[Tensor, Tensor]]):
        def __len__(self) -> int:
            return N

        def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
            fetched.append(i)
            return X[i] + torch.randn(6), Y[i]

    run = Trained(linear(), data=DataLoader(Augmented()), grad_sample_mode="hooks")
    assert fetched[:7] == [0, 1, 2, 3, 4, 5, 6]
    assert len(fetched) == 7 + sum(run.sizes)


def test_it_leaves_no_trace() -> None:
    """Not in torch's generator, nor in the modes of the layers, nor in the account."""
    model = linear()
    engine = PrivacyEngine()
    module, optimizer, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        data_loader=DataLoader(TensorDataset(X, Y)),
        partition=Partition.by_column(torch.arange(N).numpy() // 4),
        sampling_rate=0.5,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
    )
    state, weights = torch.get_rng_state(), [p.detach().clone() for p in model.parameters()]
    for x, y in loader:
        if not optimizer.rehearsing:
            break
        torch.rand(3)
        F.cross_entropy(module(x), y).backward()
        optimizer.step()
        assert all(m.training for m in module.modules())
        assert not optimizer.released
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
    assert engine.ledger.steps == optimizer.released_steps == 0
    assert not optimizer.original_optimizer.state


def test_a_rehearsal_without_a_gradient_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no gradient of a bucket"):
        Trained(
            linear(), lambda outputs, _: outputs.detach().sum().requires_grad_(), grad_sample_mode="hooks"
        )


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="grad_sample_mode is 'fast'; it must be one of auto, stream, hooks"):
        Trained(linear(), grad_sample_mode="fast")
