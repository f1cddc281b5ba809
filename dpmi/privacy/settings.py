"""The checked arguments of ``make_private`` and ``make_private_with_epsilon``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, default_collate
from typing_extensions import NotRequired, TypedDict

from . import preconditions
from .clipping import Clipping, GroupClipping
from .gradients.strategy import Choice, GradSampleMode, choose
from .observer import AMBIENT, Auditor
from .partition import Partition
from .physical_limit import OF_A_MODEL, PhysicalBatchSize, PhysicalLimit
from .plan import Plan
from .samplers import POISSON, Sampling, steps_of_a_pass
from .sharded import is_sharded


class Options(TypedDict):
    """The arguments of :meth:`PrivacyEngine.make_private` that ``make_private_with_epsilon`` passes on."""

    module: nn.Module
    optimizer: Optimizer
    data_loader: DataLoader[Any]
    criterion: NotRequired[Callable[..., Any] | None]
    clipping: NotRequired[Clipping]
    max_records_per_bucket: NotRequired[int | None]
    views: NotRequired[int]
    loss_reduction: NotRequired[str]
    max_physical_batch_size: NotRequired[PhysicalBatchSize]
    steps_per_epoch: NotRequired[int | None]
    grad_sample_mode: NotRequired[GradSampleMode]
    secure_mode: NotRequired[bool]
    seed: NotRequired[int | None]
    audit: NotRequired[Auditor | None]
    sampling: NotRequired[Sampling]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments that :meth:`PrivacyEngine.make_private` and ``make_private_with_epsilon`` share.

    See the docstring of ``make_private``; the defaults are those of its signature.

    Raises:
        ValueError: ``max_physical_batch_size`` or ``steps_per_epoch`` is below 1.
    """

    module: nn.Module
    optimizer: Optimizer
    data_loader: DataLoader[Any]
    partition: Partition
    max_grad_norm: float
    sampling_rate: float | None = None
    sampling: Sampling = POISSON
    criterion: Callable[..., Any] | None = None
    clipping: Clipping = "flat"
    max_records_per_bucket: int | None = None
    views: int = 1
    loss_reduction: str = "mean"
    max_physical_batch_size: PhysicalBatchSize = OF_A_MODEL
    steps_per_epoch: int | None = None
    grad_sample_mode: GradSampleMode = "auto"
    secure_mode: bool = False
    seed: int | None = None
    audit: Auditor | None = None

    def __post_init__(self) -> None:
        size = self.max_physical_batch_size
        if size != "auto" and not (isinstance(size, int) and size >= 1):
            raise ValueError(f"max_physical_batch_size is {size!r}; it must be at least 1, or 'auto'")
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch is {self.steps_per_epoch}; it must be at least 1")
        if self.audit is None:
            object.__setattr__(self, "audit", AMBIENT.get())

    def plan(self, noise_multiplier: float) -> Plan:
        """Return the plan of a run with this noise; the plan checks every number that is charged."""
        return Plan(
            partition=self.partition,
            sampling_rate=self.sampling_rate,
            sampling=self.sampling,
            noise_multiplier=noise_multiplier,
            max_grad_norm=self.max_grad_norm,
            clipping=self.clipping,
            max_records_per_bucket=self.max_records_per_bucket,
            views=self.views,
            canaries=0 if self.audit is None else self.audit.canaries,
        )

    def check(self) -> None:
        """Reject arguments for which no guarantee would hold; see :mod:`dpmi.privacy.preconditions`."""
        preconditions.check_module(self.module)
        if self.audit is not None and is_sharded(self.module):
            raise ValueError(
                "audit is given, but module is sharded, so no rank sees the noise and the sum that an audit watches; "
                "audit the plain module on every rank"
            )
        preconditions.check_optimizer(self.optimizer, self.module)
        if isinstance(self.clipping, GroupClipping):
            self.clipping.check(len(self.optimizer.param_groups))
        preconditions.check_loader(self.data_loader, self.partition)
        preconditions.check_criterion(self.criterion, self.loss_reduction)

    def choice(self, plan: Plan, limit: PhysicalLimit) -> Choice:
        """Return how bucket gradients are computed, and how many buckets share a physical batch."""
        groups = self.optimizer.param_groups
        return choose(
            self.grad_sample_mode,
            self.module,
            plan,
            row_elements=sum(p.numel() for group in groups for p in group["params"] if p.requires_grad),
            max_physical_batch_size=limit.most,
            criterion=self.criterion is not None,
            own_collate=self.data_loader.collate_fn is not default_collate,
            device=next(self.module.parameters()).device,
        )

    def steps_of_a_pass(self, plan: Plan) -> int:
        """Return the number of logical steps in one pass over the loader.

        Raises:
            ValueError: ``steps_per_epoch`` contradicts the sampling.
        """
        return steps_of_a_pass(plan.sampling, plan.rate, self.steps_per_epoch)
