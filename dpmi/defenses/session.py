"""What a defence gets from the training loop, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from dpmi.data import ImageSet
from dpmi.privacy import Account

from .objective import Objective


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a stage of training starts from.

    Args:
        module: what :meth:`Defense.build` returned.
        optimizer: over the parameters that train.
        data: the private training set.
        batch_size: records per step where the defence does not draw them itself.
        steps: updates that the stage will take.
        seed: of everything that stays the same from stage to stage, such as a partition.
        stage_seed: of everything that is drawn anew in every stage.
        objective: computes the loss.
        batch_coupled: the loss couples the records of a batch.
    """

    module: nn.Module
    optimizer: Optimizer
    data: ImageSet
    batch_size: int
    steps: int
    seed: int
    stage_seed: int
    objective: Objective
    batch_coupled: bool = False


@dataclass(frozen=True, kw_only=True)
class Session:
    """What the training loop runs with: as it was, or wrapped by a privacy engine.

    Args:
        module: called in the loop.
        optimizer: ``step()`` is called once per batch of ``loader``.
        loader: yields (images, labels); iterated over until enough steps have been taken.
        account: asked for after training; None where nothing is promised.
        criterion: takes what ``module`` returns, and labels; None where the objective runs ``module`` itself.
        ignored_warnings: starts of warnings by the libraries of this session that nobody can act on.
    """

    module: nn.Module
    optimizer: Optimizer
    loader: DataLoader[Any]
    account: Callable[[], Account] | None = None
    criterion: Callable[[Any, Tensor], Any] | None = None
    ignored_warnings: tuple[str, ...] = ()
