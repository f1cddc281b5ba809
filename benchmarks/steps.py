"""One logical step through the public API, and one epoch of ordinary training over the same records."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import Partition, PrivacyEngine


def private_step(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    partition: Partition,
    *,
    with_criterion: bool = True,
    bfloat16: bool = False,
    passes: list[int] | None = None,
    **options: object,
) -> Callable[[], None]:
    """Run a logical step of every bucket: loader, forward, backward, clipping, noise, update.

    Args:
        model: on the device of the records; its outputs have one row per entry of ``y``.
        x: inputs, (N, ...).
        y: classes, (N,) or (N, tokens).
        partition: the buckets.
        with_criterion: whether the engine gets the criterion, so that several buckets may share a pass.
        bfloat16: whether forward pass and loss run under autocast.
        passes: gets the number of records of every physical batch that is released.
        options: of ``make_private``.

    Returns:
        The step, after a first one.
    """
    criterion = nn.CrossEntropyLoss()
    if with_criterion:
        options = {**options, "criterion": criterion}
    module, optimizer, *wrapped, loader = PrivacyEngine().make_private(
        module=model,
        optimizer=_optimizer(model),
        data_loader=DataLoader(TensorDataset(x, y)),
        partition=partition,
        sampling_rate=1.0 - 1e-12,  # practically every bucket is drawn
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        **{"steps_per_epoch": 1, **options},  # type: ignore[arg-type]
    )
    loss_of = wrapped[0] if with_criterion else criterion
    autocast = _autocast(x, bfloat16)

    def step() -> None:
        for inputs, targets in loader:
            if passes is not None and not optimizer.rehearsing:
                passes.append(len(targets))
            optimizer.zero_grad()
            with autocast():
                loss = loss_of(module(inputs), targets.flatten())
            loss.backward()
            optimizer.step()

    step()  # the first pass starts with the dry run
    return step


def ordinary_epoch(
    model: nn.Module, x: Tensor, y: Tensor, batch_size: int, *, bfloat16: bool = False
) -> Callable[[], None]:
    """Train once over the records in shuffled batches, with the fastest fetching; see :func:`private_step`."""
    optimizer = _optimizer(model)
    autocast = _autocast(x, bfloat16)

    def epoch() -> None:
        order = torch.randperm(len(x), device=x.device)
        for index in order.split(batch_size):
            optimizer.zero_grad()
            with autocast():
                outputs = model(x.index_select(0, index))
                loss = F.cross_entropy(outputs, y.index_select(0, index).flatten())
            loss.backward()
            optimizer.step()

    return epoch


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.SGD(trained, lr=1e-3, momentum=0.9)


def _autocast(x: Tensor, bfloat16: bool) -> Callable[[], AbstractContextManager[object]]:
    return partial(torch.autocast, x.device.type, torch.bfloat16, enabled=bfloat16)
