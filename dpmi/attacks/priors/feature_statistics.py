"""The moments of the target's features over public images, for LOMMA's regularizer.

N.-B. Nguyen et al., "Re-thinking Model Inversion Attacks Against Deep Neural Networks", CVPR 2023, section 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dpmi.attacks.checks import require
from dpmi.attacks.target import Target
from dpmi.data.lazy import Images, blocks, taken

from .base import ImageShape, Prior, Trainer

_ASKED_AT_ONCE = 256


class FeatureMoments(nn.Module):
    """Mean and standard deviation of each feature, float32 (d,).

    d is 0 until the target is queried or a stored state is loaded.

    >>> moments = FeatureMoments()
    >>> _ = moments.load_state_dict({"mean": torch.zeros(5), "std": torch.ones(5)})
    >>> moments.mean.shape
    torch.Size([5])
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(0))
        self.register_buffer("std", torch.zeros(0))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        for name, buffer in self.named_buffers():
            stored = state_dict.get(prefix + name, buffer)
            setattr(self, name, buffer.new_zeros(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


@dataclass(frozen=True, kw_only=True)
class FeatureStatistics(Prior):
    """The moments of the input of the target's classification head over the first public images.

    The module is :class:`FeatureMoments`, with the unbiased standard deviation. The target is queried once for each of
    the images. ``seed`` has no effect.

    Args:
        count: number of public images, the first ones; about 5,000 in the paper.

    Raises:
        ValueError: a value is outside its range.

    >>> from dpmi import models
    >>> from dpmi.attacks.priors import fetch
    >>> model = models.build("mlp", image_shape=(1, 8, 8), num_classes=3, seed=0).eval().requires_grad_(False)
    >>> target = Target(model)
    >>> moments = fetch(
    ...     FeatureStatistics(count=20), public=torch.rand(50, 1, 8, 8), target=target, image_shape=(1, 8, 8),
    ...     num_classes=3, folder=None, progress=lambda done, total: None)
    >>> moments.mean.shape, target.queries
    (torch.Size([3000]), 20)
    """

    name: ClassVar[str] = "feature-statistics"
    distils: ClassVar[bool] = True

    count: int = 5000

    def __post_init__(self) -> None:
        require("count", self.count, self.count >= 2, "at least 2")

    def build(self, image_shape: ImageShape, num_classes: int) -> FeatureMoments:
        """Return empty moments."""
        return FeatureMoments()

    def trainer(self, module: nn.Module, public: Images, target: Target | None) -> Trainer:
        """Return a training of one step, which queries the target.

        Raises:
            ValueError: there is a single public image, which has no standard deviation.
        """
        assert isinstance(module, FeatureMoments)
        assert target is not None
        if len(public) < 2:
            raise ValueError(f"public must hold at least 2 images for {self.name}; got {len(public)}")
        return _Asking(module, taken(public, torch.arange(min(self.count, len(public)))), target)


class _Asking(Trainer):
    steps = 1

    def __init__(self, moments: FeatureMoments, images: Images, target: Target) -> None:
        self._moments = moments
        self._images = images
        self._target = target

    def step(self) -> dict[str, float]:
        with torch.no_grad():
            asked = [
                self._target.logits_and_features(some)[1].flatten(1)
                for some in blocks(self._images, _ASKED_AT_ONCE)
            ]
        features = torch.cat(asked).float()
        self._moments.mean, self._moments.std = features.mean(dim=0), features.std(dim=0)
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: a training of one step has no state."""
