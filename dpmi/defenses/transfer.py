"""Transfer learning ([TL-DMI]): public images train the first layers, private images train only the others.

[TL-DMI] S.-T. Ho, K. J. Hao, K. Chandrasegaran, N.-B. Nguyen, N.-M. Cheung, "Model Inversion Robustness: Can
Transfer Learning Help?", CVPR 2024.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from itertools import accumulate, takewhile
from typing import ClassVar

import torch
from torch import Tensor, nn

from accountants import checks
from dpmi.data import ImageSet
from dpmi.models import Adaptation, head, in_batches, layer, observe, replace
from dpmi.progress import Progress

from .base import Defense
from .heads import replace_head, whole_head
from .none import NoDefense
from .recipe import Recipe
from .training import train

#: Weight of the penalty that :meth:`Transfer.adaptations` adds to the identity loss.
EARLY_WEIGHT = 0.1

_AMOUNTS = ("frozen_fraction", "frozen_parameters", "frozen_through")


@dataclass(frozen=True, kw_only=True)
class Transfer(Defense):
    """Trains on labelled public images, then freezes the first layers and trains the others on private images.

    Layers are frozen as a whole, in the order in which the model registers them; the classification head is never
    frozen. Exactly one of the first three fields determines the number of frozen layers.

    >>> from dpmi import models
    >>> model = models.build("cnn-small", image_shape=(1, 8, 8), num_classes=10, seed=0)
    >>> for fraction in (0.0, 0.1, 1.0):
    ...     print(fraction, Transfer(frozen_fraction=fraction).frozen(model))
    0.0 ()
    0.1 ('0', '1', '2')
    1.0 ('0', '1', '2', '3', '4', '5', '6')

    Args:
        frozen_fraction: fraction of the parameters in front of the head, in [0, 1]: freezes the smallest number of
            layers with at least this fraction. At 1, private images train only the head.
        frozen_parameters: at least 0; freezes the smallest number of layers with at least this many parameters.
        frozen_through: freezes this layer and all layers before it.
        pretrain_steps: updates on public images, at least 0; None means as many as on private images. With 0 the frozen
            layers stay as they are built, such as those of a study's file of weights, and no public images are needed.
        pretrain_learning_rate: learning rate of these updates, above 0; None means that of the recipe.
    """

    name: ClassVar[str] = "transfer"
    strength_field: ClassVar[str | None] = "frozen_fraction"
    strength_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)
    needs_pretrained: ClassVar[bool] = True

    frozen_fraction: float | None = None
    frozen_parameters: int | None = None
    frozen_through: str | None = None
    pretrain_steps: int | None = None
    pretrain_learning_rate: float | None = None

    def __post_init__(self) -> None:
        fraction, rate = self.frozen_fraction, self.pretrain_learning_rate
        if fraction is not None and not 0 <= checks.real("frozen_fraction", fraction) <= 1:
            raise ValueError(f"frozen_fraction must be in [0, 1], got {fraction}")
        if self.frozen_parameters is not None:
            checks.integer("frozen_parameters", self.frozen_parameters, minimum=0)
        if self.frozen_through == "":
            raise ValueError("frozen_through must be the name of a layer, got ''")
        if self.pretrain_steps is not None:
            checks.integer("pretrain_steps", self.pretrain_steps, minimum=0)
        if rate is not None and checks.real("pretrain_learning_rate", rate) <= 0:
            raise ValueError(f"pretrain_learning_rate must be above 0, got {rate}")
        given = [field for field in _AMOUNTS if getattr(self, field) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of {', '.join(_AMOUNTS)}; got {' and '.join(given) or 'none'}"
            )

    @property
    def strength(self) -> float:
        """The frozen fraction; NaN if another field is set."""
        return math.nan if self.frozen_fraction is None else self.frozen_fraction

    @property
    def pretrains(self) -> bool:
        """Whether it makes an update on public images."""
        return self.pretrain_steps != 0

    @property
    def label(self) -> str:
        """The name and the frozen amount."""
        field = next(field for field in _AMOUNTS if getattr(self, field) is not None)
        amount = getattr(self, field)
        return (
            f"{self.name}, {field.replace('_', ' ')} {f'{amount:g}' if isinstance(amount, float) else amount}"
        )

    def check(self, model: nn.Module, data: ImageSet, public: ImageSet | None) -> None:
        """Refuse public images whose shape is not that of the private images."""
        if public is not None and public.images.shape[1:] != data.images.shape[1:]:
            raise ValueError(
                f"the public images must have the shape of the private images, {tuple(data.images.shape[1:])}, "
                f"got {tuple(public.images.shape[1:])}"
            )

    def pretrain(
        self,
        model: nn.Module,
        public: ImageSet | None,
        recipe: Recipe,
        *,
        seed: int,
        progress: Progress | None,
    ) -> nn.Module:
        """Train all layers but the head on the public classes, with a temporary head for these classes."""
        if not self.pretrains:
            return model
        assert public is not None
        classes = int(public.labels.max()) + 1
        name = head(model)
        own = layer(model, name)
        classifier = deepcopy(model)
        replace_head(classifier, lambda old: nn.Linear(old.in_features, classes, bias=old.bias is not None))
        public_recipe = dataclasses.replace(
            recipe,
            steps=self.pretrain_steps or recipe.steps,
            learning_rate=self.pretrain_learning_rate or recipe.learning_rate,
        )
        pretrained = train(NoDefense(), classifier, public, public_recipe, seed=seed, progress=progress).model
        replace(pretrained, name, own)
        model.load_state_dict(pretrained.state_dict())
        return model

    def frozen(self, model: nn.Module) -> tuple[str, ...]:
        """Return the frozen prefix: leaf layers, and parameters outside of them, such as a position embedding.

        Raises:
            ValueError: the layer does not exist, or the prefix would include the head.
        """
        sizes = _sizes(model)
        names = list(sizes)
        last = whole_head(model)
        trunk = list(takewhile(lambda name: not f"{name}.".startswith(f"{last}."), names))
        held = list(accumulate((sizes[name] for name in trunk), initial=0))
        if self.frozen_through is not None:
            layer(model, self.frozen_through)
            inside = [name for name in names if f"{name}.".startswith(f"{self.frozen_through}.")]
            end = names.index(inside[-1]) + 1
        elif self.frozen_parameters is not None:
            end = bisect_left(held, self.frozen_parameters)
        else:
            assert self.frozen_fraction is not None
            end = bisect_left([count / max(held[-1], 1) for count in held], self.frozen_fraction)
        if end > len(trunk):
            raise ValueError(
                f"{self.label}: the head {last!r} is never frozen, and the model has only {held[-1]} parameters in "
                f"{len(trunk)} layers in front of it; freeze fewer, or use a deeper model"
            )
        return tuple(trunk[:end])

    def adaptations(self) -> tuple[Adaptation, ...]:
        """Add a penalty that keeps the frozen layers' outputs as on public images, which alone trained them."""
        if 0 in (self.frozen_fraction, self.frozen_parameters):
            return super().adaptations()
        early = Adaptation(name="early layers", penalty=self._early_layers, asks=2, learns=True)
        return (*super().adaptations(), early)

    def _early_layers(self, model: nn.Module, public: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the penalty on channel means and deviations of the last frozen layer, relative to public images.

        It is :data:`EARLY_WEIGHT` times the mean squared difference from the public images, in units of the standard
        deviation among them.
        """
        layers = dict(model.named_modules())
        last = [name for name in self.frozen(model) if name in layers][-1]

        def moments(images: Tensor) -> Tensor:
            with observe(model, [last]) as found:
                model(images)
            of_channels = found[last].flatten(2) if found[last].ndim > 2 else found[last][:, None]
            means = of_channels.mean(dim=2)
            # The standard deviation of a single position would be NaN.
            return means if of_channels.shape[2] == 1 else torch.cat([means, of_channels.std(dim=2)], dim=1)

        usual = in_batches(moments, public)
        mean, std = usual.mean(dim=0), usual.std(dim=0).clamp_min(1e-6)
        return lambda images: EARLY_WEIGHT * ((moments(images) - mean) / std).square().mean(dim=1)

    def diagnose(self, model: nn.Module, data: ImageSet, *, seed: int) -> dict[str, float]:
        """Return the number of parameters trained on private images, ``|theta_C|`` of [TL-DMI]."""
        sizes = _sizes(model)
        return {
            "trained_parameters": float(sum(sizes.values()) - sum(sizes[name] for name in self.frozen(model)))
        }


def _sizes(model: nn.Module) -> dict[str, int]:
    """Return the sizes of leaf layers, and of the parameters that other modules hold directly, in order."""
    sizes: dict[str, int] = {}
    for name, module in model.named_modules():
        if next(module.children(), None) is None:
            sizes[name] = sum(p.numel() for p in module.parameters())
        else:
            sizes.update((own, p.numel()) for own, p in module.named_parameters(prefix=name, recurse=False))
    return sizes
