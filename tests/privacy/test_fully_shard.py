"""Modules of ``fully_shard``: two ranks train the model that one process does, each with its shards.

Modules: dpmi/privacy/sharded.py, dpmi/privacy/gradients/sharded_sum.py.
"""

from __future__ import annotations

import copy
import math
import os
import pickle
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import AdaptiveClipping, GroupClipping, NonFiniteGradientError, Partition
from dpmi.privacy.audit import Audit
from dpmi.privacy.averaging import WeightAverage
from dpmi.privacy.distributed import Ranks

from .ranks import X, Y, failed_hook, on_ranks, weights, wrap
from .reference import private_run, step
from .test_distributed_failures import TIMEOUT

# What is trained


class Scale(nn.Module):
    """A scale of one value, which is in the shard of rank 0 only."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), 0.7))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Transformer(nn.Module):
    """Tokens, positions, one encoder layer and a head with the tokens' weights."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 8)
        self.places = nn.Parameter(torch.randn(1, 6, 8))
        self.encoder = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.tokens(x) + self.places).mean(1))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """Tokens, an LSTM, which keeps a list of its weights, and a head with a derived weight."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 5)
        self.layer = nn.LSTM(5, 6, batch_first=True)
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.tokens(x))[0][:, -1])  # type: ignore[no-any-return]


def problem(name: str) -> tuple[nn.Module, Tensor, Tensor, Partition]:
    """A model, 37 records, and buckets of one to eight of them."""
    torch.default_generator.manual_seed(3)
    generator = torch.Generator().manual_seed(3)
    n = 37
    y = torch.randint(3, (n,), generator=generator)
    partition = Partition.by_column(np.sort(np.random.default_rng(0).integers(0, 12, n)), unit="user")
    if name != "convolution":
        build = {"transformer": Transformer, "recurrent": Recurrent}[name]
        return build(), torch.randint(11, (n, 6), generator=generator), y, partition
    model = nn.Sequential(
        nn.Conv2d(1, 5, 3, stride=2),
        nn.GroupNorm(5, 5),
        nn.ReLU(),
        nn.Flatten(),
        Scale(),
        nn.Linear(20, 3),
    )
    return model, 3 * torch.randn(n, 1, 6, 6, generator=generator), y, partition


def shard(model: nn.Module) -> nn.Module:
    """The parts with parameters first, then the whole, as fully_shard is used."""
    if isinstance(model, Transformer):
        fully_shard(model.encoder)
    elif isinstance(model, Recurrent):
        fully_shard([model.layer, model.head])
    else:
        for part in model.children():
            if any(True for _ in part.parameters()):
                fully_shard(part, reshard_after_forward=True)
    return fully_shard(model)


def trained(
    rank: int, name: str, sharded: bool, options: dict[str, Any]
) -> tuple[np.ndarray, list[Any], Any]:
    del rank
    model, x, y, partition = problem(name)
    if sharded:
        shard(model)
    arguments = {"sampling_rate": 0.3, "seed": 3, "max_physical_batch_size": 9, "epochs": 1, **options}
    run = private_run(model, x, y, partition, steps_per_epoch=3, **arguments)
    return weights(model), run.steps, (run.engine.ledger.steps, run.optimizer.max_grad_norm)


# The same model as one process


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("convolution", {"grad_sample_mode": "ghost"}),
        ("convolution", {"grad_sample_mode": "hooks"}),
        ("convolution", {"grad_sample_mode": "stream", "max_physical_batch_size": 3}),
        ("convolution", {"grad_sample_mode": "ghost", "clipping": AdaptiveClipping(count_noise=1e-9)}),
        ("convolution", {"clipping": GroupClipping(relative_norms=[1, 2]), "groups": [[0, 1, 2], [3, 4, 5, 6]]}),
        ("recurrent", {"grad_sample_mode": "ghost"}),
        ("transformer", {"grad_sample_mode": "ghost"}),
        ("transformer", {"grad_sample_mode": "ghost", "sampling_rate": 0.05, "epochs": 4}),
    ],
)  # fmt: skip
def test_two_ranks_with_shards_train_the_model_that_one_process_does(
    name: str, options: dict[str, Any]
) -> None:
    expected, drawn, (billed, norm) = trained(0, name, False, options)
    one, two = on_ranks(trained, name, True, options)
    assert np.array_equal(one[0], two[0]), "all ranks have the same whole parameters"
    np.testing.assert_allclose(one[0], expected, atol=1e-6 * np.abs(expected).max(), rtol=0)
    assert [sorted(a + b) for a, b in zip(one[1], two[1], strict=True)] == [sorted(s) for s in drawn]
    assert one[2][0] == two[2][0] == billed == 3 * options.get("epochs", 1)
    assert one[2][1] == two[2][1] == pytest.approx(norm, rel=1e-6)
    if "epochs" in options:
        shares = list(zip(one[1], two[1], strict=True))
        assert any(a and not b for a, b in shares), "otherwise a rank without a bucket was not tested"
        assert any(not a and not b for a, b in shares), "nor was an empty draw"


def with_adam(rank: int, sharded: bool) -> tuple[np.ndarray, list[int]]:
    del rank
    torch.default_generator.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 6))
    if sharded:
        fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    _, module, private, loader = wrap(model, optimizer=optimizer, noise_multiplier=0.0, seed=0)
    for x, y in loader:
        step(module, private, x, y)
    if not sharded:
        return weights(model), []
    states = [optimizer.state[p]["exp_avg"] for group in optimizer.param_groups for p in group["params"]]
    assert all(isinstance(state, DTensor) for state in states)
    return weights(model), [state.to_local().numel() for state in states]


def test_each_rank_has_its_part_of_the_optimizers_state() -> None:
    one, two = on_ranks(with_adam, True)
    np.testing.assert_allclose(one[0], with_adam(0, False)[0], rtol=1e-4, atol=1e-6)
    assert np.array_equal(one[0], two[0])
    assert one[1] == [16, 4, 21, 3]
    assert two[1] == [12, 3, 21, 3]


# The sum of a step: sensitivity and noise


def released(rank: int, far: float) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """What one step without noise releases, as a sum over buckets, and the parameters before it."""
    del rank
    model, x, y, partition = problem("convolution")
    shard(model)
    start: list[np.ndarray] = []
    sums: list[np.ndarray] = []

    def look(optimizer: Any, *_: Any) -> None:
        start.append(weights(model))
        sums.append(
            torch.cat([p.grad.full_tensor().flatten() for p in optimizer.param_groups[0]["params"]]).numpy()
        )

    handle = register_optimizer_step_pre_hook(look)
    run = private_run(model, far * x, y, partition, steps_per_epoch=1, sampling_rate=0.6, max_grad_norm=0.3)
    handle.remove()
    return sums[0] * run.optimizer.expected_batch_size, start[0], run.steps[0]


@pytest.mark.parametrize("far", [1.0, 1e4])
def test_without_one_bucket_the_sum_moves_by_its_clipped_gradient_and_no_further(far: float) -> None:
    (total, start, mine), (other, _, theirs) = on_ranks(released, far)
    assert np.array_equal(total, other)
    assert mine
    assert theirs
    model, x, y, partition = problem("convolution")
    model = model.double()
    nn.utils.vector_to_parameters(torch.from_numpy(start).double(), model.parameters())
    clipped = {}
    for bucket in {int(partition.bucket_of[i]) for i in mine + theirs}:
        of = partition.records(bucket)
        loss = F.cross_entropy(model(far * x[of].double()), y[of])
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
        clipped[bucket] = gradient * min(1.0, 0.3 / float(gradient.norm()))
    for left_out, own in clipped.items():
        rest = sum(g for bucket, g in clipped.items() if bucket != left_out)
        moved = torch.from_numpy(total).double() - rest
        assert float(moved.norm()) <= 0.3 * (1 + 1e-6)
        assert float((moved - own).norm()) <= 1e-5
    assert any(float(g.norm()) > 0.299 for g in clipped.values()), "otherwise nothing was clipped"


def shards_of(optimizer: Any) -> list[Tensor]:
    return [p.detach().to_local() for p in optimizer.params]


def noise_of(rank: int, options: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, list[int], np.ndarray]:
    """The noise of 20 steps without buckets, in units of its deviation: of the whole parameters, and of this rank's
    shards; their sizes, and the padding behind them."""
    del rank
    model = nn.Sequential(nn.Linear(64, 33), nn.Linear(33, 1))
    fully_shard(model)
    _, _, optimizer, loader = wrap(
        model,
        data_loader=DataLoader(TensorDataset(X.repeat(1, 16), Y)),
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        sampling_rate=1e-9,
        steps_per_epoch=20,
        max_grad_norm=0.5,
        noise_multiplier=2.0,
        **options,
    )
    whole, own = [weights(model)], [torch.cat([s.flatten() for s in shards_of(optimizer)]).numpy()]

    def look(*_: Any) -> None:
        whole.append(weights(model))
        own.append(torch.cat([s.flatten() for s in shards_of(optimizer)]).numpy())

    optimizer.original_optimizer.register_step_post_hook(look)
    assert not list(loader), "no bucket is drawn"
    std = 2.0 * 0.5 / (1e-9 * 6)
    shards = shards_of(optimizer)
    ends = [s.storage_offset() + s.numel() for s in shards]
    padding = [
        s.as_strided((s.untyped_storage().nbytes() // 4 - end,), (1,), end)
        for s, end in zip(shards, ends, strict=True)
    ]
    return (
        np.diff(np.stack(whole), axis=0) / std,
        np.diff(np.stack(own), axis=0) / std,
        [s.numel() for s in shards],
        torch.cat(padding).numpy(),
    )


@pytest.mark.parametrize(
    "options", [{}, {"seed": 3}, {"secure_mode": True}], ids=["ordinary", "seeded", "secure"]
)
def test_every_value_has_the_noise_of_one_process_and_two_shards_have_independent_noise(
    options: dict[str, Any],
) -> None:
    (whole, one, sizes, padding), (same, two, others, other_padding) = on_ranks(noise_of, options)
    assert np.array_equal(whole, same)
    assert sizes == [17 * 64, 17, 33, 1]
    assert others == [16 * 64, 16, 0, 0]
    assert one.shape[1] + two.shape[1] == whole.shape[1]
    for part in (one, two):
        assert abs(part.mean()) < 5 / math.sqrt(part.size)
        assert abs(part.var() - 1) < 5 * math.sqrt(2 / part.size)
    # A chi-squared variable with 20 degrees of freedom leaves this range with probability 1e-9.
    of_each = np.square(whole).sum(axis=0)
    assert of_each.min() > 0.9
    assert of_each.max() < 85
    for shift in range(-64, 65):
        left, right = one[:, max(0, shift) :], two[:, max(0, -shift) :]
        m = min(left.shape[1], right.shape[1])
        assert abs(np.mean(left[:, :m] * right[:, :m])) < 5.5 / math.sqrt(20 * m), (
            "two shards have related noise"
        )
    assert np.isin(one, two).mean() < 0.01
    assert len(other_padding) >= 64, "a row less than rank 0"
    assert not padding.any()
    assert not other_padding.any(), "the padding of an uneven shard got noise"


# What make_private leaves


class Remembering(nn.Module):
    """A layer of the user's own, with a method that is called like forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]

    def classify(self, x: Tensor) -> Tensor:
        return self(x).argmax(1)  # type: ignore[no-any-return]


def left(rank: int) -> dict[str, Any]:
    torch.default_generator.manual_seed(0)
    model: Any = fully_shard(Remembering())
    register_fsdp_forward_method(model, "classify")
    with torch.no_grad():
        model(X)  # FSDP adds further hooks, and leaves the parameters of the root whole
    model.reshard()
    model.state_dict()
    _, module, optimizer, loader = wrap(model, noise_multiplier=0.0, seed=1)
    found: dict[str, Any] = {"type": type(model), "start": weights(model)}
    for x, y in loader:
        step(module, optimizer, x, y)
    module.eval()
    if rank == 0:  # alone: nothing is sent
        found["outputs"] = module(X).detach().numpy()
        found["classes"] = model.classify(X).tolist()
    copied, loaded = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    found["state"] = [
        {k: v.numpy().copy() for k, v in m.state_dict().items()} for m in (model, copied, loaded)
    ]
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.0)  # a loop may change parameters between steps
    before = weights(model)
    for x, y in loader:
        step(module, optimizer, x, y)
    found["moved"] = float(np.abs(weights(model) - before).max())
    found["doubled"] = float(np.abs(before).max())
    return found


def test_the_module_is_plain_and_whole_from_make_private_on() -> None:
    for rank, found in enumerate(on_ranks(left)):
        assert found["type"] is Remembering
        torch.default_generator.manual_seed(0)
        assert np.array_equal(found["start"], weights(Remembering()))
        first, *others = found["state"]
        assert set(first) == {"layer.weight", "layer.bias"}
        assert first["layer.weight"].shape == (6, 4)
        for other in others:
            assert all(np.array_equal(first[name], other[name]) for name in first)
        if rank == 0:
            expected = X.numpy() @ first["layer.weight"].T + first["layer.bias"]
            np.testing.assert_allclose(found["outputs"], expected, rtol=1e-5, atol=1e-6)
            assert found["classes"] == expected.argmax(1).tolist()
        assert found["moved"] < 0.5 * found["doubled"], "a change between steps was undone"


def single(rank: int) -> np.ndarray:
    del rank
    model, x, y, partition = problem("convolution")
    shard(model)
    private_run(model, x, y, partition, steps_per_epoch=2, noise_multiplier=1.0, seed=5)
    return weights(model)


def test_a_process_alone_trains_the_same_model_with_the_same_noise() -> None:
    model, x, y, partition = problem("convolution")
    private_run(model, x, y, partition, steps_per_epoch=2, noise_multiplier=1.0, seed=5)
    (found,) = on_ranks(single, ranks=1)
    np.testing.assert_allclose(found, weights(model), rtol=1e-6, atol=1e-6)


# What is refused


def sharded_otherwise(rank: int, how: str) -> nn.Module:
    model: Any = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6))
    meshes = {
        "all": init_device_mesh("cpu", (2,)),
        "two dimensions": init_device_mesh("cpu", (2, 1), mesh_dim_names=("one", "two")),
    }
    columns = {"0": ColwiseParallel(), "1": ColwiseParallel()}
    if how == "tensor parallel too":
        parallelize_module(model, meshes["two dimensions"]["two"], columns)
        return fully_shard(model, mesh=meshes["two dimensions"]["one"])
    if how == "some ranks":
        groups = [torch.distributed.new_group([i]) for i in range(2)]
        return fully_shard(model, mesh=torch.distributed.DeviceMesh.from_group(groups[rank], "cpu"))
    if how == "after a pass":
        fully_shard(model)
        with torch.no_grad():
            model(X)
        return model  # type: ignore[no-any-return]
    of: dict[str, Any] = {
        "tensor parallel": lambda: parallelize_module(model, meshes["all"], columns),
        "replicas": lambda: fully_shard(model, mesh=meshes["two dimensions"]),
        "one part": lambda: fully_shard(model[0]) and model,
        "columns": lambda: fully_shard(model, shard_placement_fn=lambda p: Shard(p.dim() - 1)),
        "16 bits": lambda: fully_shard(model, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16)),
        "outputs in 16 bits": lambda: fully_shard(
            model, mp_policy=MixedPrecisionPolicy(output_dtype=torch.bfloat16)
        ),
        "one rank": lambda: fully_shard(model) if rank else model,
        "batch norm": lambda: fully_shard(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))),
        "audit": lambda: fully_shard(model),
    }
    return of[how]()  # type: ignore[no-any-return]


def refused(rank: int, how: str) -> str:
    model = sharded_otherwise(rank, how)
    before = [(type(m), len(m._forward_hooks)) for m in model.modules()]
    try:
        wrap(model, **({"audit": Audit()} if how == "audit" else {}))
    except ValueError as error:
        assert before == [(type(m), len(m._forward_hooks)) for m in model.modules()], (
            "the module is as it was"
        )
        return str(error)
    return "not refused"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (
            "tensor parallel",
            "parameter '0.weight' of module is a DTensor, but no part of module is one of fully_shard",
        ),
        ("tensor parallel too", "neither tensor parallelism, nor replicas (HSDP)"),
        ("replicas", "neither tensor parallelism, nor replicas (HSDP)"),
        ("some ranks", "among all 2 ranks"),
        ("columns", "divided along dimension 0 among all 2 ranks"),
        ("one part", "parameter '1.weight' of module is not sharded, and others are"),
        ("after a pass", "call module.reshard() first"),
        ("16 bits", "use torch.autocast"),
        ("outputs in 16 bits", "use torch.autocast"),
        ("one rank", "the ranks disagree on tensor '0.weight' (nothing on rank 0, (6, 4) torch.float32"),
        ("batch norm", "BatchNorm1d"),
        ("audit", "audit the plain module on every rank"),
    ],
)
def test_other_sharding_is_refused_before_training(how: str, words: str) -> None:
    for message in on_ranks(refused, how):
        assert words in str(message)


def refused_later(rank: int, path: str) -> list[str]:
    engine, module, optimizer, loader = wrap(fully_shard(nn.Linear(4, 6)))
    errors = []
    for attempt in (
        lambda: engine.save_checkpoint(path),
        lambda: engine.load_checkpoint(path),
        lambda: WeightAverage(optimizer, "ema", steps=3),
        lambda: wrap(module._module, optimizer=optimizer.original_optimizer),
    ):
        with pytest.raises((RuntimeError, ValueError)) as error:
            attempt()
        errors.append(str(error.value))
    with torch.no_grad():
        optimizer.params[0].to_local().add_(1.0)
    with pytest.raises(RuntimeError) as error:
        for x, y in loader:
            step(module, optimizer, x, y)
    assert engine.ledger.steps == 0
    return [*errors, str(error.value)]


def test_checkpoints_averages_and_changed_shards_are_refused(tmp_path: Path) -> None:
    for errors in on_ranks(refused_later, str(tmp_path / "checkpoint")):
        saved, loaded, averaged, again, changed = errors
        assert saved == loaded
        assert "Save module.state_dict(), which is whole on every rank" in saved
        assert "would not reach the module" in averaged
        assert "optimizer holds 2 parameters that module does not have" in again
        assert "change module.parameters() instead" in changed
    assert not list(tmp_path.iterdir())


class Centred(nn.Module):
    """Mixes the records of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x - x.mean(0))  # type: ignore[no-any-return]


def mixing(rank: int, mode: str) -> tuple[str, int, list[int]]:
    del rank
    engine, module, optimizer, criterion, loader = wrap(
        fully_shard(Centred()),
        criterion=nn.CrossEntropyLoss(),
        grad_sample_mode=mode,
        max_physical_batch_size=12,
        steps_per_epoch=1,
    )
    sizes = []
    try:
        for x, y in loader:
            if not optimizer.rehearsing:
                sizes.append(len(x))
            step(module, optimizer, x, y, criterion)
    except RuntimeError as error:
        return str(error), engine.ledger.steps, sizes
    return "", engine.ledger.steps, sizes


def test_a_module_that_mixes_records_is_found_in_the_dry_runs() -> None:
    for message, billed, sizes in on_ranks(mixing, "ghost"):
        assert "several buckets cannot share a physical batch" in message
        assert billed == 0
        assert sizes == []
    for message, billed, sizes in on_ranks(mixing, "auto"):
        assert message == ""
        assert billed == 1
        assert sizes == [4, 4, 4], "one bucket at a time"


# When a rank fails


def poisoned(rank: int) -> tuple[type, str, int, int, np.ndarray]:
    del rank
    x = X.clone()
    x[Y == 5] = math.nan  # of six equal buckets dealt in turns, the last is rank 1's
    engine, module, optimizer, loader = wrap(
        fully_shard(nn.Linear(4, 6)), data_loader=DataLoader(TensorDataset(x, Y))
    )
    failed: Exception | None = None
    try:
        for inputs, labels in loader:
            step(module, optimizer, inputs, labels)
    except RuntimeError as error:
        failed = error
    billed = engine.ledger.steps
    x[Y == 5] = 0.0
    for inputs, labels in loader:
        step(module, optimizer, inputs, labels)
    return type(failed), str(failed), billed, engine.ledger.steps, weights(module)


def test_a_bucket_that_is_not_finite_ends_the_step_on_all_ranks_uncharged() -> None:
    one, two = on_ranks(poisoned)
    assert one[0] is RuntimeError
    assert (
        "rank 1 raised an error in this step, see its output. Nothing of it was released or charged" in one[1]
    )
    assert two[0] is NonFiniteGradientError
    assert one[2] == two[2] == 0
    assert one[3] == two[3] == 3, "the next pass is as good as any"
    assert np.array_equal(one[4], two[4])


def failing_update(rank: int) -> tuple[str, int, float, int, np.ndarray]:
    engine, module, optimizer, loader = wrap(fully_shard(nn.Linear(4, 6)))
    start = weights(module)
    failures = [OSError("disk full")] if rank else []

    def fail(*_: Any) -> None:
        if failures:
            raise failures.pop()

    optimizer.original_optimizer.register_step_pre_hook(fail)
    with pytest.raises(OSError if rank else RuntimeError) as error:
        for x, y in loader:
            step(module, optimizer, x, y)
    billed, moved = engine.ledger.steps, float(np.abs(weights(module) - start).max())
    for x, y in loader:
        step(module, optimizer, x, y)
    return str(error.value), billed, moved, engine.ledger.steps, weights(module)


def test_an_update_that_fails_on_one_rank_is_charged_and_lost_on_all() -> None:
    one, two = on_ranks(failing_update)
    assert "rank 1 raised an error in this step" in one[0]
    assert "The step was charged, but not released on any rank" in one[0]
    assert two[0] == "disk full"
    for _, billed, moved, later, _ in (one, two):
        assert billed == 1
        assert moved == 0.0
        assert later == 4
    assert np.array_equal(one[4], two[4])


def gone(rank: int, when: str) -> tuple[str, int, int, bool]:
    engine, module, optimizer, loader = wrap(fully_shard(nn.Linear(4, 6)))
    start = weights(module)

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if rank and when == "update":
        optimizer.original_optimizer.register_step_pre_hook(die)
    elif rank:
        meet = optimizer.ranks.any
        optimizer.ranks.any = lambda problem: die(meet(problem))
    with pytest.raises(RuntimeError) as error:
        for x, y in loader:
            step(module, optimizer, x, y)
    with pytest.raises(RuntimeError, match="the connection between the ranks was lost"):
        next(iter(loader))
    return (
        str(error.value),
        engine.ledger.steps,
        optimizer.released_steps,
        np.array_equal(start, weights(module)),
    )


@pytest.mark.parametrize(("when", "billed"), [("round", 0), ("update", 1)])
def test_a_step_is_charged_when_a_rank_is_lost_after_its_sum(when: str, billed: int) -> None:
    found, _ = on_ranks(gone, when, answers=1, timeout=TIMEOUT)
    assert "another rank died" in found[0]
    assert (
        "The step was charged, but not released" if billed else "Nothing of it was released or charged"
    ) in found[0]
    assert found[1:] == (billed, 0, True)


def absent(rank: int) -> tuple[str, bool, bool]:
    """Rank 1 fails when all have agreed to charge the step, before it has charged it."""
    _, module, optimizer, loader = wrap(fully_shard(nn.Linear(4, 6)))
    start, shards = weights(module), [s.clone() for s in shards_of(optimizer)]
    message = failed_hook(rank, module, optimizer, loader)
    same = all(torch.equal(a, b) for a, b in zip(shards, shards_of(optimizer), strict=True))
    return message, np.array_equal(start, weights(module)), same


def test_no_rank_updates_its_shards_before_all_have_charged_the_step() -> None:
    one, two = on_ranks(absent, timeout=TIMEOUT)
    assert "The step was charged, but this rank released nothing of it" in one[0]
    assert two[0] == "disk full"
    for _, whole, shards in (one, two):
        assert whole
        assert shards


def failing_round(rank: int) -> tuple[str, int]:
    """Rank 1 changes an input after backward(), which is found when its sum is exchanged."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 40)
            self.second = nn.Linear(40, 6)

        def forward(self, x: Tensor) -> Tensor:
            kept.append(torch.relu(self.first(x)))
            return self.second(kept[-1])  # type: ignore[no-any-return]

    kept: list[Tensor] = []
    engine, module, optimizer, criterion, loader = wrap(
        fully_shard(Layer()),
        criterion=nn.CrossEntropyLoss(),
        max_physical_batch_size=12,
        grad_sample_mode="ghost",
    )
    with pytest.raises(RuntimeError) as error:
        for x, y in loader:
            optimizer.zero_grad()
            criterion(module(x), y).backward()
            if rank and not optimizer.rehearsing:
                with torch.no_grad():
                    kept[-1].add_(1.0)
            optimizer.step()
    return str(error.value), engine.ledger.steps


def test_a_rank_that_fails_within_a_round_sends_nothing_else() -> None:
    one, two = on_ranks(failing_round, timeout=TIMEOUT)
    assert "was modified in place between backward() and the optimizer's step()" in two[0]
    assert "another rank died, left its loop, or took longer" in one[0]
    assert one[1] == two[1] == 0
    alone = Ranks(0, 2)
    with pytest.raises(KeyError), alone.exchanging():
        raise KeyError
    with pytest.raises(RuntimeError, match="the connection between the ranks was lost earlier"):
        alone.compare({})
