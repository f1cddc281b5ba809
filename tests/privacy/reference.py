"""A float64 brute force of [Z20] Algorithm 2, and a private run that records what it drew."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import BucketOptimizer, Partition, PrivacyEngine

LEARNING_RATE, MOMENTUM = 0.2, 0.9


@dataclass
class Run:
    """What a private run did: its engine and optimizer, and the records of every logical step."""

    engine: PrivacyEngine
    optimizer: BucketOptimizer
    model: nn.Module
    steps: list[list[int]]
    batches: list[int]


def private_run(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    partition: Partition,
    *,
    reduction: str = "mean",
    epochs: int = 1,
    groups: Sequence[Sequence[int]] | None = None,
    **options: object,
) -> Run:
    """Train with the user's loop; ``options`` go to make_private, and the criterion where buckets may share a batch.

    ``groups`` are places of parameters, one list for each param group.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    in_groups = [{"params": [parameters[i] for i in group]} for group in groups or ()]
    records = TensorDataset(x, y, torch.arange(len(x)))
    engine = PrivacyEngine()
    arguments = {"sampling_rate": 0.5, "noise_multiplier": 0.0, "max_grad_norm": 0.3, "seed": 1, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # noise_multiplier = 0 warns, and is what is wanted here
        if arguments.get("grad_sample_mode") != "stream":
            arguments["criterion"] = nn.CrossEntropyLoss(reduction=reduction)
        module, optimizer, *criterion, loader = engine.make_private(
            module=model,
            optimizer=torch.optim.SGD(in_groups or parameters, lr=LEARNING_RATE, momentum=MOMENTUM),
            data_loader=DataLoader(records, batch_size=4),
            partition=partition,
            loss_reduction=reduction,
            **arguments,  # type: ignore[arg-type]
        )
    run = Run(engine, optimizer, model, [], [])
    drawn: list[int] = []

    def released(*_: object) -> None:  # also after an empty draw, where momentum still moves the parameters
        run.steps.append(drawn.copy())
        drawn.clear()

    optimizer.original_optimizer.register_step_post_hook(released)
    for _ in range(epochs):
        for inputs, labels, index in loader:
            if not optimizer.rehearsing:
                drawn += index.tolist()
                run.batches.append(len(index))
            step(module, optimizer, inputs, labels, *criterion, reduction=reduction)
    return run


def step(
    module: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    y: Tensor,
    criterion: Callable[..., Tensor] | None = None,
    *,
    reduction: str = "mean",
) -> None:
    """What a user's loop does with one batch; ``criterion`` is what make_private returned, if it did."""
    optimizer.zero_grad()
    (criterion or partial(F.cross_entropy, reduction=reduction))(module(x), y).backward()
    optimizer.step()


def brute_force(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    partition: Partition,
    steps: list[list[int]],
    *,
    sampling_rate: float = 0.5,
    max_grad_norm: float = 0.3,
    max_records_per_bucket: int | None = None,
    automatic: bool = False,
    groups: Mapping[tuple[int, ...], float] | None = None,
) -> list[Tensor]:
    """The parameters after the same steps without noise, one record at a time, in float64.

    ``groups`` are places of parameters, with the norm of each group; None is one group of all.
    """
    model = copy.deepcopy(model).double()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=LEARNING_RATE, momentum=MOMENTUM)
    for drawn in steps:
        total = [torch.zeros_like(p) for p in trained]
        for bucket in {int(partition.bucket_of[i]) for i in drawn}:
            size = len(partition.records(bucket))
            members = [i for i in drawn if partition.bucket_of[i] == bucket]
            assert len(set(members)) == len(members) == min(size, max_records_per_bucket or size), (
                "a bucket was drawn in part"
            )
            mean = [torch.zeros_like(p) for p in trained]
            for i in members:
                inputs = x[i : i + 1].double() if x.is_floating_point() else x[i : i + 1]
                grads = torch.autograd.grad(
                    F.cross_entropy(model(inputs), y[i : i + 1]), trained, allow_unused=True
                )
                for m, g in zip(mean, grads, strict=True):
                    if g is not None:
                        m.add_(g / len(members))
            for places, limit in (groups or {tuple(range(len(trained))): max_grad_norm}).items():
                norm = torch.stack([mean[i].square().sum() for i in places]).sum().sqrt()
                for i in places:
                    total[i].add_(
                        mean[i] * limit / (float(norm) + 0.01)
                        if automatic
                        else mean[i] / max(1.0, float(norm) / limit)
                    )
        for p, t in zip(trained, total, strict=True):
            p.grad = t / (sampling_rate * partition.num_buckets)
        optimizer.step()
    return [p.detach() for p in model.parameters()]


def relative_error(model: nn.Module, expected: list[Tensor]) -> float:
    """Largest difference over all parameters, relative to the largest expected value."""
    largest = max(float(e.abs().max()) for e in expected)
    return max(
        float((p.detach().double() - e).abs().max()) / largest
        for p, e in zip(model.parameters(), expected, strict=True)
    )
