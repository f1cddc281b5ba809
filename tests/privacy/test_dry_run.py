"""Two dry runs decide, before anything is released, whether buckets can share a physical batch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dpmi.privacy import Partition, PrivacyEngine

N = 40
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 4
Loop = Callable[["Trained", Tensor, Tensor], None]


def plain(run: Trained, x: Tensor, y: Tensor) -> None:
    """The loop of most users."""
    run.optimizer.zero_grad()
    run.criterion(run.module(x), y).backward()
    run.optimizer.step()


def with_loss(change: Callable[[Tensor], Tensor]) -> Loop:
    """The same loop, with something made of the loss."""

    def loop(run: Trained, x: Tensor, y: Tensor) -> None:
        run.optimizer.zero_grad()
        change(run.criterion(run.module(x), y)).backward()
        run.optimizer.step()

    return loop


class Trained:
    """Three logical steps of a user's loop without noise, and how many records it got at a time."""

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[..., Any] = F.cross_entropy,
        loop: Loop = plain,
        *,
        data: Any = None,
        **options: Any,
    ) -> None:
        self.model, self.engine = model, PrivacyEngine()
        arguments = {
            "partition": Partition.by_column(torch.arange(N).numpy() // 4),
            "sampling_rate": 0.5,
            "noise_multiplier": 0.0,
            "max_grad_norm": 1.0,
            "steps_per_epoch": 3,
            "seed": 0,
            **options,
        }
        if arguments.get("grad_sample_mode") != "stream":
            arguments["criterion"] = criterion
        self.module, self.optimizer, *wrapped, self.loader = self.engine.make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
            data_loader=data or DataLoader(TensorDataset(X, Y)),
            **arguments,
        )
        self.criterion = wrapped[0] if wrapped else criterion
        self.rehearsed: list[int] = []
        self.sizes: list[int] = []
        for x, y in self.loader:
            (self.rehearsed if self.optimizer.rehearsing else self.sizes).append(len(y))
            loop(self, x, y)

    @property
    def weights(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 4))


class Scaled(nn.Module):
    """A parameter in a call whose gradient cannot be split by bucket, in a module that has children."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 4)
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(torch.einsum("ni,i->ni", x, self.scale))


class Centred(nn.Module):
    """Takes the mean over all records, whatever their buckets."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        return h - h.mean(0)


class Leaning(nn.Module):
    """Centres records on those before them; gradients with respect to the inputs say nothing of it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        before = torch.cumsum(x, 0) - x
        return self.inner(x - before / torch.arange(1, len(x) + 1)[:, None])


class Counting(nn.Module):
    """Scales by the number of records, which is read off a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) / len(x)


def from_the_mean(run: Trained, x: Tensor, y: Tensor) -> None:
    run.optimizer.zero_grad()
    run.criterion(run.module(x - x.mean(0)), y).backward()
    run.optimizer.step()


def two_terms(run: Trained, x: Tensor, y: Tensor) -> None:
    run.optimizer.zero_grad()
    out = run.module(x)
    (run.criterion(out, y) + out.square().mean()).backward()
    run.optimizer.step()


def clipped(run: Trained, x: Tensor, y: Tensor) -> None:
    run.optimizer.zero_grad()
    run.criterion(run.module(x), y).backward()
    nn.utils.clip_grad_norm_(run.model.parameters(), 1e-3)
    run.optimizer.step()


PROBLEMS: dict[str, tuple[Callable[[], nn.Module], Loop, str]] = {
    "parameter": (Scaled, plain, "'scale'"),
    "mean": (Centred, plain, "mean"),
    "sum of those before": (Leaning, plain, "cumsum"),
    "number of records": (Counting, plain, "depends on the number of records"),
    "mean in the loop": (
        linear,
        from_the_mean,
        "is combined with the records|another physical batch",
    ),
    "second term": (linear, two_terms, "further terms"),
    "clipped gradients": (linear, clipped, "gradients are changed"),
}


@pytest.mark.parametrize("mode", ["auto", "hooks", "ghost"])
def test_buckets_share_a_physical_batch_after_two_dry_runs(mode: str) -> None:
    run = Trained(linear(), grad_sample_mode=mode)
    assert run.rehearsed == [2, 3]
    assert max(run.sizes) > 4
    assert run.engine.ledger.steps == 3
    alone = Trained(linear(), grad_sample_mode="stream")
    assert alone.rehearsed == []
    assert set(alone.sizes) == {4}
    assert torch.allclose(run.weights, alone.weights, atol=1e-6)


def test_only_the_first_pass_begins_with_dry_runs() -> None:
    run = Trained(linear(), grad_sample_mode="hooks")
    assert len(next(iter(run.loader))[1]) > 4


def test_there_is_none_without_a_criterion() -> None:
    engine, model = PrivacyEngine(), linear()
    _, optimizer, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(TensorDataset(X, Y)),
        partition=Partition.by_column(torch.arange(N).numpy() // 4),
        sampling_rate=0.5,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
    )
    assert len(next(iter(loader))[1]) == 4
    assert not optimizer.rehearsing


@pytest.mark.parametrize(("model", "loop", "word"), PROBLEMS.values(), ids=PROBLEMS)
def test_auto_takes_one_bucket_at_a_time_and_logs_why_once(
    model: Callable[[], nn.Module], loop: Loop, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "dpmi"):
        run = Trained(model(), loop=loop)
        for x, y in run.loader:
            loop(run, x, y)
    assert run.rehearsed[0] == 2
    assert set(run.sizes) == {4}
    assert run.engine.ledger.steps == 6
    told = [r.getMessage() for r in caplog.records if "one bucket" in r.getMessage()]
    assert len(told) == 1


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
@pytest.mark.parametrize(("model", "loop", "word"), PROBLEMS.values(), ids=PROBLEMS)
def test_it_is_refused_if_the_user_insists(
    model: Callable[[], nn.Module], loop: Loop, word: str, mode: str
) -> None:
    built = model()
    before = [p.detach().clone() for p in built.parameters()]
    with pytest.raises(RuntimeError, match=word) as error:
        Trained(built, loop=loop, grad_sample_mode=mode)
    assert "nothing was released. Use grad_sample_mode='stream' without a criterion" in str(error.value)
    assert all(torch.equal(p, b) for p, b in zip(built.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("mode", "word"),
    [("hooks", r"backward\(\) was not called on the loss"), ("auto", "no gradient for bucket")],
)
def test_a_loop_without_a_backward_pass_is_refused(mode: str, word: str) -> None:
    with pytest.raises(RuntimeError, match=word):
        Trained(linear(), loop=lambda run, x, y: run.optimizer.step(), grad_sample_mode=mode)


def test_a_record_is_fetched_for_the_dry_runs_only() -> None:
    """Random augmentation would make a bucket differ from itself."""
    fetched: list[int] = []

    class Augmented(Dataset[tuple[Tensor, Tensor]]):
        def __len__(self) -> int:
            return N

        def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
            fetched.append(i)
            return X[i] + torch.randn(6), Y[i]

    run = Trained(linear(), data=DataLoader(Augmented()), grad_sample_mode="hooks")
    assert fetched[:5] == [0] * 5
    assert len(fetched) == 5 + sum(run.sizes)


def test_they_leave_no_trace() -> None:
    """Not in torch's generator, nor in the modes of the layers, the account, or the optimizer's state."""
    model, engine = nn.Sequential(linear(), nn.Dropout(0.5)), PrivacyEngine()
    module, optimizer, criterion, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        criterion=F.cross_entropy,
        data_loader=DataLoader(TensorDataset(X, Y)),
        partition=Partition.by_column(torch.arange(N).numpy() // 4),
        sampling_rate=0.5,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        grad_sample_mode="hooks",
    )
    state, weights = torch.get_rng_state(), [p.detach().clone() for p in model.parameters()]
    rounds = 0
    for x, y in loader:
        if not optimizer.rehearsing:
            break
        rounds += 1
        torch.rand(3)
        criterion(module(x), y).backward()
        optimizer.step()
        assert all(m.training for m in module.modules())
        assert not optimizer.released
    assert rounds == 2
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
    assert engine.ledger.steps == optimizer.released_steps == 0
    assert not optimizer.original_optimizer.state


def after_the_dry_runs(change: Loop) -> Loop:
    return lambda run, x, y: (plain if run.optimizer.rehearsing else change)(run, x, y)


def called_twice(run: Trained, x: Tensor, y: Tensor) -> None:
    run.module(x)
    plain(run, x, y)


def criterion_called_twice(run: Trained, x: Tensor, y: Tensor) -> None:
    out = run.module(x)
    (run.criterion(out, y) + run.criterion(out, y)).backward()
    run.optimizer.step()


def other_order(run: Trained, x: Tensor, y: Tensor) -> None:
    run.criterion(run.module(x.flip(0)), y).backward()
    run.optimizer.step()


def other_module_option(run: Trained, x: Tensor, y: Tensor) -> None:
    run.model[1].inplace = False  # type: ignore[index, assignment]
    plain(run, x, y)


def made_of_the_batch(run: Trained, x: Tensor, y: Tensor) -> None:
    run.criterion(run.module(x - x.mean(0)), y).backward()
    run.optimizer.step()


DEVIATIONS = {
    "module twice": (called_twice, "called 2 times"),
    "criterion twice": (criterion_called_twice, "criterion is called 2 times"),
    "records in another order": (other_order, "."),
    "another call": (other_module_option, "differs from the dry runs"),
    "made of the batch": (made_of_the_batch, "."),
}


@pytest.mark.parametrize("mode", ["auto", "hooks"])
@pytest.mark.parametrize(("loop", "word"), DEVIATIONS.values(), ids=DEVIATIONS)
def test_a_later_deviation_is_an_error_before_anything_is_released(loop: Loop, word: str, mode: str) -> None:
    model = linear()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(RuntimeError, match=word):
        Trained(model, loop=after_the_dry_runs(loop), grad_sample_mode=mode)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_an_error_that_the_loop_swallows_still_stops_the_step() -> None:
    def loop(run: Trained, x: Tensor, y: Tensor) -> None:
        with suppress(RuntimeError):
            called_twice(run, x, y)
        run.optimizer.step()

    with pytest.raises(RuntimeError, match=r"called 2 times.*nothing of this step was released"):
        Trained(linear(), loop=after_the_dry_runs(loop), grad_sample_mode="hooks")
