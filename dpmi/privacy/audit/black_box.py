"""Black-box audit: canary buckets of crafted records, scored by the final model only.

It sees less than a white-box audit, because most of what a step releases about a canary is overwritten by later steps.
It needs no access to the training, and it is what an attacker with the model can do. Crafted inputs that share no
feature are the strongest canaries; mislabelled ordinary records look like the data, and are weak. From initial weights
that classify all ordinary records well (:func:`worst_case_start`), the bound is largest [Annamalai & De Cristofaro
2024].
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, Dataset, TensorDataset

from accountants import checks

from ..partition import Partition
from .one_run import Scores


@dataclass(frozen=True, eq=False)
class PlantedCanaries:
    """Canary buckets of one record each (with copies), in or out by secret coins.

    Args:
        inputs: (m, ...), one input per canary.
        labels: (m,), its label.
        coins: (m,) bool, whether it is in.
        copies: records of the canary's bucket.

    Example:
        >>> x, y = torch.rand(30, 4), torch.arange(30) % 3
        >>> canaries = PlantedCanaries.crafted(4, (4,), classes=3, seed=0)
        >>> data, partition = canaries.join(TensorDataset(x, y), Partition.by_class(y))
        >>> partition.num_buckets == 3 + int(canaries.coins.sum()) and len(data) == len(partition)
        True
    """

    inputs: Tensor
    labels: Tensor
    coins: NDArray[np.bool_]
    copies: int = 1

    def __post_init__(self) -> None:
        sizes = {len(self.inputs), len(self.labels), len(self.coins)}
        if len(sizes) > 1:
            raise ValueError(
                f"inputs, labels and coins have {len(self.inputs)}, {len(self.labels)} and {len(self.coins)} entries; "
                "each needs one per canary"
            )
        checks.integer("copies", self.copies, minimum=1)

    @classmethod
    def crafted(
        cls,
        canaries: int,
        shape: Sequence[int],
        *,
        classes: int,
        norm: float = 5.0,
        copies: int = 1,
        seed: int | None = None,
    ) -> PlantedCanaries:
        """Return canaries whose inputs are orthogonal: random signs on features of their own, with random labels.

        Args:
            canaries: m, from 2 to the number of features.
            shape: of one input.
            classes: C >= 2.
            norm: of one input, above 0.
            copies: records of each canary's bucket.
            seed: of inputs, labels and coins; None draws it from the operating system.

        Raises:
            ValueError: more canaries than features, or an argument is out of range.
        """
        features = math.prod(shape)
        checks.integer("canaries", canaries, minimum=2)
        checks.integer("classes", classes, minimum=2)
        if canaries > features:
            raise ValueError(
                f"canaries is {canaries}, but an input of shape {tuple(shape)} has {features} features, and each "
                f"canary needs one of its own; use at most {features}"
            )
        if not checks.real("norm", norm) > 0:
            raise ValueError(f"norm must be above 0, got {norm}")
        generator = np.random.default_rng(seed)
        owner = generator.permutation(features) % canaries
        inputs = np.where(owner == np.arange(canaries)[:, None], generator.choice([-1.0, 1.0], features), 0.0)
        inputs *= norm / np.linalg.norm(inputs, axis=1, keepdims=True)
        return cls(
            torch.from_numpy(inputs.astype(np.float32)).view(canaries, *shape),
            torch.from_numpy(generator.integers(0, classes, canaries)),
            generator.integers(0, 2, canaries).astype(bool),
            copies,
        )

    @classmethod
    def mislabelled(
        cls, inputs: Tensor, labels: Tensor, *, copies: int = 1, seed: int | None = None
    ) -> PlantedCanaries:
        """Return canaries with another label each, drawn at random.

        Args:
            inputs: (m, ...), ordinary records that are not in the data.
            labels: (m,) their true labels, 0 to C - 1.
            copies: records of each canary's bucket.
            seed: of labels and coins; None draws it from the operating system.

        Raises:
            ValueError: there are fewer than two classes or canaries.
        """
        classes = int(labels.max()) + 1 if len(labels) else 0
        if classes < 2 or len(labels) < 2:
            raise ValueError(
                f"labels has {len(labels)} entries of {classes} classes; mislabelled canaries need at least 2 of each"
            )
        generator = np.random.default_rng(seed)
        shift = torch.from_numpy(generator.integers(1, classes, len(labels)))
        return cls(
            inputs,
            (labels.cpu() + shift).remainder(classes).to(labels),
            generator.integers(0, 2, len(labels)).astype(bool),
            copies,
        )

    def join(self, data: Dataset[Any], partition: Partition) -> tuple[Dataset[Any], Partition]:
        """Return data and partition with the canaries that are in, each as a bucket of its own.

        Args:
            data: N records (input, label), as a TensorDataset yields.
            partition: of these records.

        Raises:
            ValueError: the partition has another length than the data.
        """
        records = len(data)  # type: ignore[arg-type]
        if records != len(partition):
            raise ValueError(
                f"data has {records} records, but the partition {len(partition)}; use the data's own"
            )
        inside = np.flatnonzero(self.coins)
        chosen = torch.from_numpy(np.repeat(inside, self.copies))
        together: Dataset[Any] = (
            TensorDataset(
                *(torch.cat(pair) for pair in zip(data.tensors, self._records(chosen), strict=True))
            )
            if isinstance(data, TensorDataset)
            else ConcatDataset([data, TensorDataset(*self._records(chosen))])
        )
        new = partition.num_buckets + np.repeat(np.arange(len(inside)), self.copies)
        return together, dataclasses.replace(
            partition,
            bucket_of=np.concatenate([partition.bucket_of, new]).astype(np.int64),
            names=(*partition.names, *(f"canary {i}" for i in inside)),
            kept=None,  # the records are these and the canaries now
            left_out=0,
        )

    def scores(self, model: nn.Module, *, start: nn.Module | None = None) -> Scores:
        """Return minus the loss of every canary's record under the model, less that under ``start``.

        Args:
            model: the trained classifier: inputs (n, ...) -> logits (n, C).
            start: the model before training; its losses are what chance explains.

        Raises:
            ValueError: all scores are equal, or one is not a number.
        """
        found = -self._losses(model)
        if start is not None:
            found = found + self._losses(start)
        return Scores.of(found.numpy(), self.coins)

    def _records(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        return self.inputs[chosen], self.labels[chosen]

    @torch.no_grad()
    def _losses(self, model: nn.Module) -> Tensor:
        device, training = next(model.parameters()).device, model.training
        model.eval()
        try:
            logits = model(self.inputs.to(device))
        finally:
            model.train(training)
        return F.cross_entropy(logits.double(), self.labels.to(device), reduction="none").cpu()


def worst_case_start(
    model: nn.Module, inputs: Tensor, labels: Tensor, *, steps: int = 200, learning_rate: float = 1e-2
) -> nn.Module:
    """Return a copy of the model that classifies public records well, as initial weights of a black-box audit.

    Ordinary records then have small gradients, and the canaries' influence on the final model is the largest.

    Args:
        model: inputs (n, ...) -> logits (n, C).
        inputs: (n, ...) public records like the private ones.
        labels: (n,).
        steps: steps of Adam on all records.
        learning_rate: of Adam.

    >>> inputs, labels = torch.eye(6), torch.arange(6) % 3
    >>> start = worst_case_start(nn.Linear(6, 3), inputs, labels)
    >>> start(inputs).argmax(1).tolist()
    [0, 1, 2, 0, 1, 2]
    """
    trained = copy.deepcopy(model).train()
    optimizer = torch.optim.Adam(trained.parameters(), lr=learning_rate)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(trained(inputs), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return trained
