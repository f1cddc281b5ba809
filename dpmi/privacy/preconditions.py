"""What no guarantee would hold for is refused here, before training starts."""

from __future__ import annotations

import inspect
from collections.abc import Sized
from typing import Any

from opacus.grad_sample import AbstractGradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.optim import Optimizer, SparseAdam
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from .criterion.reduction import reduction_of
from .partition import Partition


def check_module(module: nn.Module) -> None:
    """Refuse statistics of the data inside the module, and modules that are wrapped already.

    Raises:
        ValueError: names the layer.
    """
    if isinstance(module, AbstractGradSampleModule) or hasattr(module, "autograd_grad_sample_hooks"):
        raise ValueError(
            "module is private already; call make_private once, with the module you started from"
        )
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise ValueError(f"module is {type(module).__name__}; pass the module inside it (module.module)")
    for layer in module.modules():
        if isinstance(layer, FullyShardedDataParallel | FSDPModule):
            raise ValueError(
                "module is sharded (FSDP): no process has the whole gradient of a bucket, which is what is clipped. "
                "Pass the plain module on every rank; under torchrun each trains a whole copy, and the engine adds "
                "up their sums"
            )
    for name, layer in module.named_modules():
        running = isinstance(layer, _InstanceNorm) and layer.track_running_stats
        if (isinstance(layer, _BatchNorm) and layer.training) or running:
            raise ValueError(
                f"layer {name!r} of module is {type(layer).__name__}: it keeps statistics of the private records, "
                "which would be released without noise. Replace it by GroupNorm, for instance with "
                "opacus.validators.ModuleValidator.fix(module), and build the optimizer afterwards"
            )
    if not any(p.requires_grad for p in module.parameters()):
        raise ValueError("module has no trainable parameters, so there is nothing to train or to account for")


def check_optimizer(optimizer: Optimizer, module: nn.Module) -> None:
    """Refuse an optimizer that would update parameters whose gradients nobody clips, or that cannot work privately.

    Raises:
        ValueError: says which parameters, of the module but not in the optimizer or the other way round, or which
            optimizers work.
    """
    if isinstance(optimizer, DPOptimizer):
        raise ValueError("optimizer is private already; pass the plain torch optimizer")
    own = {id(p) for p in module.parameters()}
    foreign = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in own]
    if foreign:
        shapes = ", ".join(str(tuple(p.shape)) for p in foreign[:3])
        raise ValueError(
            f"optimizer holds {len(foreign)} parameters that are not module's (shapes {shapes}): their gradients "
            "would not be private. Build the optimizer from module.parameters(), after any change to module"
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(p.requires_grad and id(p) in held for p in module.parameters()):
        raise ValueError("optimizer holds no parameter that requires a gradient")
    left = [
        name for name, p in module.named_parameters() if p.requires_grad and p.numel() and id(p) not in held
    ]
    if left:
        raise ValueError(
            f"optimizer does not hold parameter {left[0]!r} of module ({len(left)} in all), which is trainable: "
            "another optimizer could train it without noise. Freeze what is not to be trained "
            "(requires_grad_(False)), or add it to the optimizer"
        )
    _check_kind(optimizer)


def _check_kind(optimizer: Optimizer) -> None:
    """A private step has one noisy gradient, which is dense, and cannot be computed again."""
    kind = type(optimizer)
    closure = inspect.signature(kind.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        why = "computes the loss several times in one step"
    elif isinstance(optimizer, SparseAdam):
        why = "takes sparse gradients only, and a noisy gradient is dense"
    else:
        return
    raise ValueError(
        f"optimizer is {kind.__name__}, which {why}; use one that makes a step of one dense gradient, such as SGD, "
        "Adam, AdamW or RMSprop"
    )


def check_criterion(criterion: object, loss_reduction: str) -> None:
    """Refuse a criterion that nobody can compute bucket by bucket, or that combines records otherwise than stated.

    Raises:
        TypeError: it cannot be called.
        ValueError: it has trainable parameters, or another reduction.
    """
    if criterion is None:
        return
    if not callable(criterion):
        raise TypeError(
            f"criterion is {criterion!r}; it must be callable with outputs and targets, such as "
            "nn.CrossEntropyLoss()"
        )
    if isinstance(criterion, nn.Module) and any(p.requires_grad for p in criterion.parameters()):
        name = next(name for name, p in criterion.named_parameters() if p.requires_grad)
        raise ValueError(
            f"criterion has a trainable parameter, {name!r}, whose gradient nobody clips; make it part of module, or "
            "freeze it by requires_grad_(False)"
        )
    stated = reduction_of(criterion)
    if stated in ("mean", "sum") and stated != loss_reduction:
        raise ValueError(
            f"loss_reduction is {loss_reduction!r}, and criterion has reduction={stated!r}; pass "
            f"loss_reduction={stated!r}"
        )


def check_loader(loader: DataLoader[Any], partition: Partition) -> None:
    """Refuse loaders whose records cannot be drawn by bucket, or whose own sampling would be lost.

    Raises:
        TypeError: not a DataLoader.
        ValueError: no map-style data set, a sampler that weighs or selects records, or a wrong length.
    """
    if not isinstance(loader, DataLoader):
        raise TypeError(
            f"data_loader is {type(loader).__name__}; it must be a torch.utils.data.DataLoader, because the "
            "engine draws the records itself"
        )
    if isinstance(loader.dataset, IterableDataset) or not isinstance(loader.dataset, Sized):
        raise ValueError(
            "data_loader has an iterable-style data set; buckets can only be drawn from a map-style data set "
            "(with __getitem__ and __len__)"
        )
    own = loader.sampler if type(loader.batch_sampler) in (BatchSampler, type(None)) else loader.batch_sampler
    if type(own) not in (RandomSampler, SequentialSampler):
        raise ValueError(
            f"data_loader has a {type(own).__name__}, which weighs or selects records; the engine draws "
            "whole buckets by Poisson sampling instead. Pass a loader without a sampler of its own, over a "
            "torch.utils.data.Subset if only some records train"
        )
    records = len(loader.dataset)
    if records == 0:
        raise ValueError("data_loader has an empty data set; at least 1 record is needed")
    if records != len(partition):
        raise ValueError(
            f"partition has {len(partition)} records, data_loader has {records}; build the partition from the "
            "labels of exactly the records that train"
        )
