"""The contract of a defence: what it changes in training, and what it needs for that."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from dpmi.data import ImageSet
from dpmi.privacy import Account


@dataclass(frozen=True, kw_only=True)
class Session:
    """What the training loop runs with: as it was, or wrapped by a privacy engine.

    Args:
        module: called in the loop.
        optimizer: ``step()`` is called once per batch of ``loader``.
        loader: yields (images, labels); iterated over until enough steps have been taken.
        account: asked for after training; None where nothing is promised.
        ignored_warnings: starts of warnings by the libraries of this session that nobody can act on.
    """

    module: nn.Module
    optimizer: Optimizer
    loader: DataLoader[Any]
    account: Callable[[], Account] | None = None
    ignored_warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Defense:
    """A way of training a classifier; its fields are its hyper-parameters.

    A subclass overrides the hooks for what it changes and leaves the others alone. The flags say with what it
    can be combined: a batch-coupled loss is computed inside one bucket under differential privacy, or
    refused.
    """

    name: ClassVar[str]
    unit: ClassVar[str] = "none"
    """What one bucket of its guarantee is; "none" where there is no guarantee."""
    strength_field: ClassVar[str | None] = None
    """The hyper-parameter that a study varies; None where there is none."""
    loss_scope: ClassVar[Literal["per_sample", "batch_coupled"]] = "per_sample"
    stochastic_forward: ClassVar[bool] = False
    needs_pretrained: ClassVar[bool] = False

    @property
    def strength(self) -> float:
        """The value of the strength field; NaN where there is none."""
        return float("nan") if self.strength_field is None else float(getattr(self, self.strength_field))

    @property
    def label(self) -> str:
        """Name and strength, for tables and pictures."""
        if self.strength_field is None:
            return self.name
        return f"{self.name}, {self.strength_field.replace('_', ' ')} {self.strength:g}"

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """Names of the hyper-parameters."""
        return tuple(f.name for f in dataclasses.fields(cls))

    def build(self, model: nn.Module) -> nn.Module:
        """Change the architecture, before the optimizer is made."""
        return model

    def trainable(self, model: nn.Module) -> Iterable[nn.Parameter]:
        """The parameters that train."""
        return model.parameters()

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor, done: float) -> Tensor:
        """The mean loss over one batch.

        Args:
            model: the module of the session.
            images: (n, C, H, W).
            labels: (n,).
            done: fraction of the training that is done, in [0, 1]: schedules depend on nothing else.
        """
        return F.cross_entropy(model(images), labels)

    def privatize(
        self,
        *,
        module: nn.Module,
        optimizer: Optimizer,
        data: ImageSet,
        batch_size: int,
        steps: int,
        seed: int,
    ) -> Session:
        """Make the loader, and wrap all three if the defence is a differentially private one.

        Args:
            module: what :meth:`build` returned.
            optimizer: over :meth:`trainable`.
            data: the private training set.
            batch_size: records per step where the defence does not draw them itself.
            steps: updates that the training will take.
            seed: of everything random.
        """
        records = TensorDataset(data.images, data.labels)
        shuffled = RandomSampler(records, generator=torch.Generator().manual_seed(seed))
        # Indexing a whole batch at once is five times as fast as collating it record by record.
        loader = DataLoader(
            records, sampler=BatchSampler(shuffled, batch_size, drop_last=False), batch_size=None
        )
        return Session(module=module, optimizer=optimizer, loader=loader)
