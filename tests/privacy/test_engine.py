"""The engine: the user's loop, what is billed, and everything that is refused."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

from dpmi.privacy import NonFiniteGradientError, Partition, PrivacyEngine

from .reference import step

N = 24
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3


def wrap(
    model: nn.Module | None = None, *, engine: PrivacyEngine | None = None, **options: Any
) -> tuple[Any, ...]:
    engine = engine or PrivacyEngine()
    model = model or nn.Linear(4, 3)
    arguments: dict[str, Any] = {
        "module": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "data_loader": DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=True),
        "partition": Partition.by_class(Y.numpy()),
        "sampling_rate": 0.5,
        "noise_multiplier": 1.0,
        "max_grad_norm": 1.0,
        **options,
    }
    return engine, *engine.make_private(**arguments)


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()]).clone()


def test_the_guarantee_names_unit_adjacency_delta_and_accountant() -> None:
    engine, module, optimizer, loader = wrap(steps_per_epoch=20)
    for x, y in loader:
        step(module, optimizer, x, y)
    result = engine.guarantee(delta=1e-3)
    assert (result.unit, result.adjacency, result.delta, result.accountant) == (
        "class",
        "replace",
        1e-3,
        "tight",
    )
    assert result.is_guarantee
    assert 0 < result.epsilon < math.inf
    assert engine.ledger.steps == optimizer.released_steps == 20
    assert engine.guarantee(delta=1e-3, adjacency="add_remove").epsilon < result.epsilon


def test_default_pass_expects_every_bucket_once() -> None:
    engine, module, optimizer, loader = wrap(sampling_rate=0.2)
    for x, y in loader:
        step(module, optimizer, x, y)
    assert engine.ledger.steps == 5


def test_break_in_a_logical_step_releases_and_bills_nothing() -> None:
    engine, module, optimizer, loader = wrap(
        sampling_rate=1.0, noise_multiplier=1.0, max_physical_batch_size=3
    )
    before = weights(module)
    for i, (x, y) in enumerate(loader):
        step(module, optimizer, x, y)
        if i == 4:
            break
    assert torch.equal(weights(module), before)
    assert engine.ledger.steps == 0
    assert all(
        p.grad is None and p.grad_sample is None and p.summed_grad is None for p in module.parameters()
    )


def test_nothing_of_a_dropped_step_leaks_into_the_next() -> None:
    """The same draws after a dropped step as without it give the same parameters."""

    def run(*, drop: bool) -> Tensor:
        torch.default_generator.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            engine, module, optimizer, loader = wrap(
                sampling_rate=1.0, noise_multiplier=0.0, max_physical_batch_size=8, steps_per_epoch=1, seed=0
            )
        if drop:
            for i, (x, y) in enumerate(loader):
                F.cross_entropy(module(x), (y + 1) % 3).backward()
                if i == 1:
                    break  # in the middle of a batch, after a whole bucket was summed
                optimizer.step()
            assert not optimizer.is_between_steps
        for x, y in loader:
            step(module, optimizer, x, y)
        assert engine.ledger.steps == 1
        return weights(module)

    assert torch.equal(run(drop=True), run(drop=False))


@pytest.mark.parametrize("batches", [1, 2])
def test_what_a_dropped_step_has_summed_is_dropped_with_it(batches: int) -> None:
    """Each physical batch is a whole bucket, which is clipped and summed at once."""

    def run(*, drop: bool) -> Tensor:
        torch.default_generator.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _, module, optimizer, loader = wrap(
                sampling_rate=1.0,
                noise_multiplier=0.0,
                max_physical_batch_size=8,
                steps_per_epoch=1,
                grad_sample_mode="stream",
                seed=0,
            )
        if drop:
            for i, (x, y) in enumerate(loader, start=1):
                step(module, optimizer, x * 100, y)
                if i == batches:
                    break
        for x, y in loader:
            step(module, optimizer, x, y)
        return weights(module)

    assert torch.equal(run(drop=True), run(drop=False))


def test_zero_grad_is_not_needed_and_may_follow_the_step() -> None:
    def run(when: str) -> Tensor:
        torch.default_generator.manual_seed(0)
        _, module, optimizer, loader = wrap(steps_per_epoch=6, max_physical_batch_size=3, seed=0)
        for x, y in loader:
            if when == "before":
                optimizer.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimizer.step()
            if when == "after":
                optimizer.zero_grad()
        return weights(module)

    assert torch.equal(run("before"), run("after"))
    assert torch.equal(run("before"), run("never"))


def test_empty_draws_update_with_noise_and_are_billed() -> None:
    engine, module, optimizer, loader = wrap(sampling_rate=1e-9, steps_per_epoch=7)
    updates: list[Tensor] = []
    optimizer.original_optimizer.register_step_post_hook(lambda *_: updates.append(weights(module)))
    seen = sum(1 for _ in loader)
    assert seen == 0
    assert engine.ledger.steps == optimizer.released_steps == len(updates) == 7
    assert not torch.equal(updates[0], updates[1])


def test_a_released_step_can_be_told_from_a_physical_one() -> None:
    _, module, optimizer, loader = wrap(sampling_rate=1.0, max_physical_batch_size=4, steps_per_epoch=2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    flags = []
    for x, y in loader:
        step(module, optimizer, x, y)
        flags.append(optimizer.released)
        if optimizer.released:
            scheduler.step()
    assert flags == ([False] * 5 + [True]) * 2
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 4)
    assert loader.__length_hint__() == 12


def test_a_non_finite_gradient_is_refused_before_anything_is_released() -> None:
    x = X.clone()
    x[4] = math.nan  # of class 1
    model = nn.Linear(4, 3)
    engine, module, optimizer, loader = wrap(
        model, data_loader=DataLoader(TensorDataset(x, Y), batch_size=8), sampling_rate=1.0
    )
    before = weights(module)
    with pytest.raises(NonFiniteGradientError, match=r"bucket 1 \(class 1\)"):
        for inputs, labels in loader:
            step(module, optimizer, inputs, labels)
    assert torch.equal(weights(module), before)
    assert engine.ledger.steps == 0
    assert all(p.summed_grad is None for p in module.parameters())


def test_a_step_is_billed_even_if_the_optimizer_crashes_while_it_is_released() -> None:
    class Crashing(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            raise OSError("disk full")

    model = nn.Linear(4, 3)
    engine, module, optimizer, loader = wrap(
        model, optimizer=Crashing(model.parameters(), lr=0.1), sampling_rate=1.0
    )
    with pytest.raises(OSError, match="disk full"):
        for x, y in loader:
            step(module, optimizer, x, y)
    assert engine.ledger.steps == 1
    assert all(p.grad is None for p in module.parameters())


def test_same_seed_same_run_and_no_seed_no_repeat() -> None:
    def run(seed: int | None) -> tuple[Tensor, bool]:
        torch.default_generator.manual_seed(0)
        engine, module, optimizer, loader = wrap(steps_per_epoch=3, seed=seed)
        for x, y in loader:
            step(module, optimizer, x, y)
        return weights(module), engine.guarantee(delta=1e-3).is_guarantee

    assert torch.equal(run(7)[0], run(7)[0])
    assert not torch.equal(run(None)[0], run(None)[0])
    assert (run(7)[1], run(None)[1]) == (False, True)


def test_the_global_generator_is_not_touched() -> None:
    before = torch.get_rng_state()
    _, module, optimizer, loader = wrap(nn.Linear(4, 3))
    state = torch.get_rng_state()
    for x, y in loader:
        step(module, optimizer, x, y)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(before, state)  # nn.Linear did draw from it


def test_a_seeded_or_fitted_run_says_so() -> None:
    partition = Partition.by_kmeans(X.numpy(), Y.numpy(), 2)
    engine, module, optimizer, loader = wrap(partition=partition, seed=0)
    for x, y in loader:
        step(module, optimizer, x, y)
    result = engine.guarantee(delta=1e-3)
    assert result.unit == "subclass"
    assert "conditional on the partition" in result.caveats[0]
    assert "seed" in result.caveats[1]
    assert "conditional on the partition" in engine.statement(1e-3).markdown().splitlines()[0]


def test_two_runs_on_one_engine_add_up_and_another_partition_is_refused() -> None:
    engine, module, optimizer, loader = wrap(steps_per_epoch=4)
    for x, y in loader:
        step(module, optimizer, x, y)
    _, module, optimizer, loader = wrap(engine=engine, steps_per_epoch=3, noise_multiplier=2.0)
    for x, y in loader:
        step(module, optimizer, x, y)
    assert [(m.noise_multiplier, steps) for m, steps in engine.ledger.runs] == [(1.0, 4), (2.0, 3)]
    with pytest.raises(ValueError, match="two partitions"):
        wrap(engine=engine, partition=Partition.by_record(N))


def test_map_style_data_with_a_collate_function_and_workers() -> None:
    class Records(Dataset[tuple[Tensor, int]]):
        def __len__(self) -> int:
            return N

        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            return X[i], int(Y[i])

    def run(**options: Any) -> Tensor:
        torch.default_generator.manual_seed(0)
        _, module, optimizer, loader = wrap(seed=3, steps_per_epoch=5, sampling_rate=0.4, **options)
        for x, y in loader:
            step(module, optimizer, x, y)
        return weights(module)

    plain = run()
    assert torch.allclose(plain, run(data_loader=DataLoader(Records(), batch_size=4)))
    assert torch.allclose(plain, run(data_loader=DataLoader(Records(), batch_size=4, num_workers=2)))


class Endless(IterableDataset[Tensor]):
    def __iter__(self) -> Any:
        return iter(X)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampling_rate": 0.0}, ["sampling_rate", "0"]),
        ({"sampling_rate": -0.5}, ["sampling_rate", "-0.5"]),
        ({"sampling_rate": 1.5}, ["sampling_rate", "1.5"]),
        ({"sampling_rate": math.nan}, ["sampling_rate", "nan"]),
        ({"noise_multiplier": -1.0}, ["noise_multiplier", "-1"]),
        ({"noise_multiplier": math.inf}, ["noise_multiplier", "inf"]),
        ({"max_grad_norm": 0.0}, ["max_grad_norm", "0"]),
        ({"loss_reduction": "none"}, ["loss_reduction", "'none'", "mean"]),
        ({"max_physical_batch_size": 0}, ["max_physical_batch_size", "0"]),
        ({"steps_per_epoch": 0}, ["steps_per_epoch", "0"]),
        ({"partition": Partition.by_record(N + 1)}, ["25 records", "24"]),
        ({"data_loader": [(X, Y)]}, ["data_loader", "list", "DataLoader"]),
        ({"data_loader": DataLoader(Endless())}, ["iterable-style", "map-style"]),
        ({"data_loader": DataLoader(TensorDataset(X[:0], Y[:0]))}, ["empty"]),
        (
            {"data_loader": DataLoader(TensorDataset(X, Y), sampler=WeightedRandomSampler([1.0] * N, N))},
            ["WeightedRandomSampler", "Poisson"],
        ),
        ({"data_loader": DataLoader(TensorDataset(X, Y), batch_sampler=[[0, 1]])}, ["list", "Poisson"]),
        ({"module": nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))}, ["'1'", "BatchNorm1d", "GroupNorm"]),
        ({"module": nn.InstanceNorm1d(3, affine=True, track_running_stats=True)}, ["InstanceNorm1d"]),
        ({"module": nn.Linear(4, 3).requires_grad_(False)}, ["no trainable parameters"]),
        (
            {"optimizer": torch.optim.SGD(nn.Linear(4, 3).parameters(), lr=0.1)},
            ["2 parameters", "module does not have"],
        ),
    ],
)
def test_what_cannot_be_guaranteed_is_refused_before_training(
    options: dict[str, Any], words: list[str]
) -> None:
    if "module" in options:
        options = {"optimizer": torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1), **options}
    with pytest.raises((ValueError, TypeError)) as error:
        wrap(**options)
    for word in words:
        assert word in str(error.value)


def test_records_from_another_loader_are_refused() -> None:
    engine, module, optimizer, loader = wrap(sampling_rate=1.0)  # an empty draw would be billed
    with pytest.raises(RuntimeError, match="private loader"):
        module(X)
    with pytest.raises(RuntimeError, match="private loader"):
        optimizer.step()
    for _ in loader:
        with pytest.raises(RuntimeError, match="got 24 records"):
            module(X)
        break
    with torch.no_grad():
        assert module(X).shape == (N, 3)  # evaluation is anybody's
    assert engine.ledger.steps == 0


@pytest.mark.parametrize("stepped", [0, 2])
def test_a_forgotten_step_is_an_error_not_a_free_pass(stepped: int) -> None:
    engine, module, optimizer, loader = wrap(sampling_rate=1.0, max_physical_batch_size=8)
    with pytest.raises(RuntimeError, match=r"step\(\) was not called"):
        for i, (x, y) in enumerate(loader):
            optimizer.zero_grad()
            F.cross_entropy(module(x), y).backward()
            if i < stepped:
                optimizer.step()
    with pytest.raises(RuntimeError, match="without a batch"):
        optimizer.step()
    assert engine.ledger.steps == 0


def test_a_step_without_a_gradient_is_an_error() -> None:
    _, module, optimizer, loader = wrap(sampling_rate=1.0)
    with pytest.raises(RuntimeError, match="no gradient for bucket 0"):
        for x, y in loader:
            F.cross_entropy(module(x), y).backward()
            optimizer.zero_grad()
            optimizer.step()


def test_a_closure_is_refused() -> None:
    _, _, optimizer, _ = wrap()
    with pytest.raises(ValueError, match="closure"):
        optimizer.step(lambda: 0.0)


def test_a_layer_that_keeps_statistics_of_its_own_is_refused_before_the_first_release() -> None:
    class Sneaky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.register_buffer("mean", torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
            return self.layer(x)

    engine, module, optimizer, loader = wrap(Sneaky(), sampling_rate=1.0)
    before = weights(module)
    with pytest.raises(RuntimeError, match="buffer 'mean'"):
        for x, y in loader:
            step(module, optimizer, x, y)
    assert torch.equal(weights(module), before)
    assert engine.ledger.steps == 0


def test_wrapping_twice_is_refused() -> None:
    _, module, optimizer, _ = wrap()
    with pytest.raises(ValueError, match="private already"):
        wrap(module)
    plain = copy.deepcopy(nn.Linear(4, 3))
    with pytest.raises(ValueError, match="private already"):
        wrap(plain, optimizer=optimizer)


def test_asking_before_make_private() -> None:
    with pytest.raises(RuntimeError, match="make_private"):
        PrivacyEngine().guarantee(delta=1e-3)


def test_gradients_of_the_input_still_flow_for_an_attack() -> None:
    _, module, *_ = wrap()
    x = X.clone().requires_grad_()
    module.eval()(x).sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0
