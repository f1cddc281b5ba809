"""The steps that benchmarks time: dpmi's, an epoch without privacy, and per-record gradients grouped by bucket."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import Partition, PrivacyEngine
from dpmi.privacy.gradients.row_norms import row_norms

Data = tuple[Tensor, Tensor, Partition]
"""Inputs (n, ...), targets (n, ...) of a cross entropy, and the bucket of every record."""

Rule = Callable[..., torch.optim.Optimizer]
SGD: Rule = partial(torch.optim.SGD, lr=1e-3, momentum=0.9)


def private_step(
    model: nn.Module,
    data: Data,
    *,
    with_criterion: bool = True,
    rule: Rule = SGD,
    bfloat16: bool = False,
    passes: list[int] | None = None,
    steps: int = 1,
    device: str = "cpu",
    **options: object,
) -> Callable[[], None]:
    """Run logical steps through the public API: loader, forward, backward, clipping, noise, update.

    The first call starts with the dry runs.

    Args:
        model: the model.
        data: inputs, targets and buckets.
        with_criterion: whether the engine gets the criterion, so that several buckets may share a pass.
        rule: makes the optimizer.
        bfloat16: whether forward pass and loss run under autocast.
        passes: gets the number of records of every physical batch that is released.
        steps: logical steps of a call.
        device: of the computation.
        options: of ``make_private``.
    """
    inputs, targets, partition = data
    model = model.to(device)
    criterion = nn.CrossEntropyLoss()
    settings = {
        "sampling_rate": 1.0 - 1e-12,  # practically every bucket is drawn
        "noise_multiplier": 1.0,
        "max_grad_norm": 1.0,
        "steps_per_epoch": steps,
        **({"criterion": criterion} if with_criterion else {}),
        **options,
    }
    module, optimizer, *wrapped, loader = PrivacyEngine().make_private(
        module=model,
        optimizer=rule(_trained(model)),
        data_loader=DataLoader(TensorDataset(inputs.to(device), targets.to(device))),
        partition=partition,
        **settings,  # type: ignore[arg-type]
    )
    loss_of = wrapped[0] if with_criterion else criterion

    def step() -> None:
        for x, y in loader:
            if passes is not None and not optimizer.rehearsing:
                passes.append(len(y))
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
                loss = loss_of(module(x), y)
            loss.backward()
            optimizer.step()

    return step


def ordinary_epoch(
    model: nn.Module,
    data: Data,
    batch_size: int,
    *,
    rule: Rule = SGD,
    bfloat16: bool = False,
    device: str = "cpu",
) -> Callable[[], None]:
    """Train once over the same records in shuffled batches, with the fastest fetching; see :func:`private_step`."""
    inputs, targets, _ = data
    inputs, targets = inputs.to(device), targets.to(device)
    model = model.to(device)
    optimizer = rule(_trained(model))

    def epoch() -> None:
        order = torch.randperm(len(inputs), device=device)
        for index in order.split(batch_size):
            optimizer.zero_grad()
            x, y = inputs.index_select(0, index), targets.index_select(0, index)
            with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
                loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()

    return epoch


def per_record_step(
    model: nn.Module,
    data: Data,
    record_batch: int,
    *,
    max_grad_norm: float = 1.0,
    noise_multiplier: float = 1.0,
    rule: Rule = SGD,
    device: str = "cpu",
) -> Callable[[], None]:
    """Average Opacus's per-record gradients by bucket and clip them; its convolutions need the contiguous layout."""
    inputs, targets, partition = data
    order, start = partition.by_bucket
    sizes = torch.as_tensor(np.diff(start), device=device)
    inputs, targets = inputs[order].to(device), targets[order].to(device)
    # Torch warns that the input of the first layer needs no gradient.
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    module = GradSampleModule(model.to(device, memory_format=torch.contiguous_format), loss_reduction="sum")
    for layer in module.modules():  # Opacus's hooks do not support in-place modification
        if hasattr(layer, "inplace"):
            layer.inplace = False
    parameters = list(module.parameters())
    optimizer = rule(parameters)

    def step() -> None:
        total: list[Tensor] | None = None
        first = 0
        while first < partition.num_buckets:
            most = start[first] + record_batch
            last = max(first + 1, int(np.searchsorted(start, most, side="right")) - 1)
            rows: list[Tensor] | None = None
            for begin in range(int(start[first]), int(start[last]), record_batch):
                end = min(begin + record_batch, int(start[last]))
                losses = F.cross_entropy(module(inputs[begin:end]), targets[begin:end], reduction="none")
                losses.view(end - begin, -1).mean(1).sum().backward()
                bucket = torch.as_tensor(partition.bucket_of[order[begin:end]] - first, device=device)
                if rows is None:
                    rows = [p.new_zeros(last - first, *p.shape) for p in parameters]
                for row, p in zip(rows, parameters, strict=True):
                    row.index_add_(0, bucket, p.grad_sample)  # type: ignore[attr-defined]
                    p.grad_sample = p.grad = None  # type: ignore[attr-defined]
            assert rows is not None
            means = row_norms(rows) / sizes[first:last]
            factors = ((max_grad_norm / means).clamp(max=1.0) / sizes[first:last]).float()
            sums = [(factors @ row.flatten(1)).view(row.shape[1:]) for row in rows]
            total = sums if total is None else [t.add_(s) for t, s in zip(total, sums, strict=True)]
            first = last
        assert total is not None
        for p, gradient in zip(parameters, total, strict=True):
            noise = torch.randn_like(gradient).mul_(noise_multiplier * max_grad_norm)
            p.grad = gradient.add_(noise).div_(partition.num_buckets)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def machine(device: str = "cpu") -> str:
    """The machine of the measurements."""
    name = torch.cuda.get_device_name() if device != "cpu" else platform.machine()
    return f"{name}, {os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads"
