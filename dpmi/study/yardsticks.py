"""The distances beside which those of reconstructions are read; computed once per data set, for all its classes."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from dpmi import metrics
from dpmi.data import Split
from dpmi.metrics import Baselines, Ceilings


@dataclass(frozen=True, eq=False)
class Yardsticks:
    """Distances of images that need no model, and of images that show a class well, per class."""

    baselines: Baselines
    ceilings: Ceilings

    @classmethod
    def of(cls, split: Split) -> Yardsticks:
        """Compute those of every class of a data set."""
        classes = torch.arange(split.num_classes)
        private = split.train.images, split.train.labels
        return cls(
            metrics.baselines(classes, *private, split.public, kind=split.distance),
            metrics.ceilings(classes, *private, split.test.images, split.test.labels, kind=split.distance),
        )

    def columns(self, classes: Tensor, distance: Tensor) -> dict[str, Tensor]:
        """The columns of some classes, float64 (C,) each.

        Args:
            classes: int64 (C,), classes of the data set.
            distance: float64 (C,), MIA distance of their reconstructions.
        """
        baselines = Baselines(*(getattr(self.baselines, f.name)[classes] for f in fields(Baselines)))
        return {
            "distance_blank": baselines.blank,
            "distance_public_mean": baselines.public_mean,
            "distance_public_nearest": baselines.public_nearest,
            "advantage": metrics.advantage(distance, baselines),
            "advantage_over_nearest": metrics.advantage_over_nearest(distance, baselines),
            "advantage_class_mean": metrics.advantage(self.ceilings.class_mean[classes], baselines),
            "advantage_unseen": metrics.advantage(self.ceilings.unseen[classes], baselines),
        }
