"""Checks before training starts: modules, optimizers, criteria and loaders without a guarantee are rejected."""

from __future__ import annotations

import inspect
from collections.abc import Sized
from typing import Any

import torch
from opacus.grad_sample import AbstractGradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.optim import Optimizer, SparseAdam
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from .criterion.reduction import reduction_of
from .partition import Partition
from .sharded import check_sharding


def check_module(module: nn.Module) -> None:
    """Reject modules that keep statistics of the data, that are wrapped already, or that have nothing to train.

    Raises:
        ValueError: the module is rejected; the message names the layer, or parameters on two devices.
    """
    if isinstance(module, AbstractGradSampleModule) or hasattr(module, "autograd_grad_sample_hooks"):
        raise ValueError("module is private already; call make_private once, with the original module")
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise ValueError(f"module is {type(module).__name__}; pass the module inside it (module.module)")
    for layer in module.modules():
        if isinstance(layer, FullyShardedDataParallel):
            raise ValueError(
                "module is sharded by FullyShardedDataParallel (FSDP1), whose flat parameters cannot be told apart. "
                "Shard the plain module by torch.distributed.fsdp.fully_shard, or pass it as it is on every rank; "
                "under torchrun the engine sums over the ranks"
            )
    check_sharding(module)
    for name, layer in module.named_modules():
        running = isinstance(layer, _InstanceNorm) and layer.track_running_stats
        if (isinstance(layer, _BatchNorm) and layer.training) or running:
            raise ValueError(
                f"layer {name!r} of module is {type(layer).__name__}: it keeps statistics of the private records, "
                "which would be released without noise. Replace it by GroupNorm, for example with "
                "opacus.validators.ModuleValidator.fix(module), and build the optimizer afterwards"
            )
    _check_devices(module)
    if not any(p.requires_grad for p in module.parameters()):
        raise ValueError(
            "module has no trainable parameters, so there is nothing to train; set requires_grad_(True) on some"
        )


def _check_devices(module: nn.Module) -> None:
    first: dict[torch.device, str] = {}
    for name, p in module.named_parameters():
        first.setdefault(p.device, name)
    if len(first) > 1:
        (one, name), (other, second), *_ = first.items()
        raise ValueError(
            f"module has parameters on two devices, {name!r} on {one} and {second!r} on {other}, but noise and "
            "gradients are added up on one; move the whole module, module.to(device), and build the optimizer "
            "afterwards. Several GPUs are several processes, see docs/distributed.md"
        )
    if any(device.type == "meta" for device in first):
        raise ValueError(
            "module is on the device meta, which holds no values; move it by module.to_empty(device=...), load its "
            "weights, and build the optimizer afterwards"
        )


def check_optimizer(optimizer: Optimizer, module: nn.Module) -> None:
    """Reject an optimizer with parameters whose gradients are not clipped, or of a type that cannot be private.

    Raises:
        ValueError: the optimizer is rejected; the message names the parameters that only the module or only the
            optimizer has, or the optimizers that work.
    """
    if isinstance(optimizer, DPOptimizer):
        raise ValueError("optimizer is private already; pass the plain torch optimizer")
    if getattr(optimizer, "_is_accelerate_prepared", False):
        raise ValueError(
            "optimizer was prepared by Accelerate, which skips its step while gradients accumulate: a step would be "
            "charged without an update. Pass the plain torch optimizer, and prepare what make_private returns"
        )
    own = {id(p) for p in module.parameters()}
    foreign = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in own]
    if foreign:
        shapes = ", ".join(str(tuple(p.shape)) for p in foreign[:3])
        raise ValueError(
            f"optimizer holds {len(foreign)} parameters that module does not have (shapes {shapes}): their gradients "
            "would not be private. Build the optimizer from module.parameters(), after any change to module"
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(p.requires_grad and id(p) in held for p in module.parameters()):
        raise ValueError(
            "optimizer holds no parameter that requires a gradient; build it from the parameters of module that train"
        )
    left = [
        name for name, p in module.named_parameters() if p.requires_grad and p.numel() and id(p) not in held
    ]
    if left:
        raise ValueError(
            f"optimizer does not hold parameter {left[0]!r} of module ({len(left)} in total), which is trainable: "
            "another optimizer could train it without noise. Freeze parameters that should not train "
            "(requires_grad_(False)), or add them to the optimizer"
        )
    _check_kind(optimizer)


def _check_kind(optimizer: Optimizer) -> None:
    """Reject optimizers that need several gradients per step or sparse ones: a private step has one dense gradient."""
    kind = type(optimizer)
    closure = inspect.signature(kind.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        why = "computes the loss several times in one step"
    elif isinstance(optimizer, SparseAdam):
        why = "takes sparse gradients only, and a noisy gradient is dense"
    else:
        return
    raise ValueError(
        f"optimizer is {kind.__name__}, which {why}; use an optimizer that needs one dense gradient per step, such as "
        "SGD, Adam, AdamW or RMSprop"
    )


def check_criterion(criterion: object, loss_reduction: str) -> None:
    """Reject a criterion that cannot be computed bucket by bucket, or whose reduction is not `loss_reduction`.

    Raises:
        TypeError: the criterion is not callable.
        ValueError: the criterion has trainable parameters, or another reduction.
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
            f"criterion has a trainable parameter, {name!r}, whose gradient would not be clipped; make it part of "
            "module, or freeze it by requires_grad_(False)"
        )
    stated = reduction_of(criterion)
    if stated in ("mean", "sum") and stated != loss_reduction:
        raise ValueError(
            f"loss_reduction is {loss_reduction!r}, but criterion has reduction={stated!r}; pass "
            f"loss_reduction={stated!r}"
        )


def check_loader(loader: DataLoader[Any], partition: Partition) -> None:
    """Reject loaders whose records cannot be drawn by bucket, or whose own sampling would be ignored.

    Raises:
        TypeError: the loader is not a DataLoader.
        ValueError: no map-style data set, a sampler that weights or selects records, or a wrong length.
    """
    if not isinstance(loader, DataLoader):
        raise TypeError(
            f"data_loader is {type(loader).__name__}; it must be a torch.utils.data.DataLoader, because the "
            "engine draws the records itself"
        )
    if getattr(loader, "_is_accelerate_prepared", False):
        raise ValueError(
            "data_loader was prepared by Accelerate, which reorders and shards the records, or is private already; "
            "pass the plain DataLoader, and prepare what make_private returns"
        )
    if isinstance(loader.dataset, IterableDataset) or not isinstance(loader.dataset, Sized):
        raise ValueError(
            "data_loader has an iterable-style data set; buckets can only be drawn from a map-style data set "
            "(with __getitem__ and __len__)"
        )
    own = loader.sampler if type(loader.batch_sampler) in (BatchSampler, type(None)) else loader.batch_sampler
    if type(own) not in (RandomSampler, SequentialSampler):
        raise ValueError(
            f"data_loader has a {type(own).__name__}, which weights or selects records; the engine draws whole buckets "
            "instead, by Poisson sampling or as `sampling` says. Pass a loader without a custom sampler, and with a "
            "torch.utils.data.Subset if only some records train"
        )
    records = len(loader.dataset)
    if records == 0:
        raise ValueError("data_loader has an empty data set; at least 1 record is needed")
    if records != len(partition):
        remedy = (
            f"it left out {partition.left_out} of the records that it was given; train on "
            "torch.utils.data.Subset(data, partition.kept)"
            if partition.left_out
            else "build the partition from the labels of exactly the records that train"
        )
        raise ValueError(f"partition has {len(partition)} records, data_loader has {records}; {remedy}")
