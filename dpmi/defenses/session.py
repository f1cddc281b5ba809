"""The exchange between the training loop and a defence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from dpmi.data import Images, ImageSet
from dpmi.privacy import Account

from .augmentation import Augmentation, Augmented
from .objective import Objective
from .records import records


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The inputs of a training stage.

    Args:
        module: the result of :meth:`Defense.build`, or only its head if the features of all images are known.
        optimizer: optimizer of the trained parameters.
        data: the private training set.
        inputs: what ``module`` takes, one row per image of ``data``: the images, or their features. The images of a
            large data set are no tensor; :attr:`records` pairs them with their labels.
        batch_size: records per step, unless the defence draws the records itself.
        steps: number of updates of the stage.
        seed: seed of everything that is the same in all stages, such as a partition.
        stage_seed: seed of everything that is drawn anew in every stage.
        objective: computes the loss.
        batch_coupled: whether the loss couples the records of a batch.
        augmentation: random variants of ``inputs``, drawn anew whenever a record is fetched.

    >>> from dpmi import data, models
    >>> from dpmi.defenses import NoDefense, Recipe, train
    >>> class Announced(NoDefense):
    ...     def privatize(self, setup: Setup) -> Session:
    ...         print(setup.steps, "steps on", len(setup.records), "records, in batches of", setup.batch_size)
    ...         return super().privatize(setup)
    >>> digits = data.load("digits")
    >>> model = models.build("softmax", image_shape=digits.image_shape, num_classes=10, seed=0)
    >>> trained = train(Announced(), model, digits.train, Recipe(steps=5, learning_rate=0.1), seed=0)
    5 steps on 1197 records, in batches of 128
    """

    module: nn.Module
    optimizer: Optimizer
    data: ImageSet
    inputs: Images
    batch_size: int
    steps: int
    seed: int
    stage_seed: int
    objective: Objective
    batch_coupled: bool = False
    augmentation: tuple[Augmentation, ...] = ()

    @property
    def records(self) -> Dataset[tuple[Tensor, ...]]:
        """The inputs and labels as a data set, which also takes a list of rows."""
        if self.augmentation:
            return Augmented(self.inputs, self.data.labels, self.augmentation)
        return records(self.inputs, self.data.labels)


@dataclass(frozen=True, kw_only=True)
class Session:
    """The objects of the training loop, possibly wrapped by a privacy engine.

    Args:
        module: called in the loop.
        optimizer: ``step()`` is called once per batch of ``loader``.
        loader: yields (images, labels); the loop iterates over it until all steps are taken.
        account: returns the privacy account after training; None if there is no guarantee.
        criterion: maps the output of ``module`` and labels to the loss; None if the objective runs ``module`` itself.
        ignored_warnings: prefixes of library warnings that are suppressed because the user cannot act on them.

    >>> from dpmi import data, models
    >>> from dpmi.defenses import NoDefense, Recipe, train
    >>> class InOrder(NoDefense):
    ...     def privatize(self, setup: Setup) -> Session:
    ...         loader = DataLoader(setup.records, batch_size=setup.batch_size)  # not shuffled
    ...         return Session(module=setup.module, optimizer=setup.optimizer, loader=loader)
    >>> digits = data.load("digits")
    >>> model = models.build("softmax", image_shape=digits.image_shape, num_classes=10, seed=0)
    >>> trained = train(InOrder(), model, digits.train, Recipe(steps=5, learning_rate=0.1), seed=0)
    >>> trained.account is None  # it gives no guarantee
    True
    """

    module: nn.Module
    optimizer: Optimizer
    loader: DataLoader[Any]
    account: Callable[[], Account] | None = None
    criterion: Callable[[Any, Tensor], Any] | None = None
    ignored_warnings: tuple[str, ...] = ()
