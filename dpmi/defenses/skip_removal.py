"""Removal of the skip connections of the last stages ([KHN24], RoLSS), through which gradients reach the image.

[KHN24] J. H. Koh, S.-T. Ho, N.-B. Nguyen, N.-M. Cheung, "On the Vulnerability of Skip Connections to Model
Inversion Attacks", ECCV 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from accountants import checks
from dpmi.data import ImageSet
from dpmi.models.faces import ImprovedResidualBlock

from .base import Defense

#: Residual blocks, and the attribute with the layers of their skip connection.
_SKIPS: dict[type[nn.Module], str] = {
    BasicBlock: "downsample",
    Bottleneck: "downsample",
    ImprovedResidualBlock: "shortcut",
}


@dataclass(frozen=True, kw_only=True)
class SkipRemoval(Defense):
    """Removes the skip connections, but no other layers, from the last stages of a residual network.

    A stage consists of the residual blocks under one parent, such as ``layer4`` of a ResNet. A projection in a skip
    connection is removed with it.

    >>> from torchvision.models.resnet import ResNet
    >>> model = ResNet(BasicBlock, [1, 1, 1, 2], num_classes=5)
    >>> built = SkipRemoval(last_stages=1).build(model)
    >>> [name for name, module in built.named_modules() if isinstance(module, NoSkip)]
    ['layer4.0.downsample', 'layer4.1.downsample']

    Args:
        last_stages: number of stages, counted from the end, at least 1.
    """

    name: ClassVar[str] = "skip-removal"
    strength_field: ClassVar[str | None] = "last_stages"
    strength_range: ClassVar[tuple[float, float] | None] = (1, 4)

    last_stages: int = 1  # RoLSS changes the last stage only

    def __post_init__(self) -> None:
        checks.integer("last_stages", self.last_stages, minimum=1)

    def check(self, model: nn.Module, data: ImageSet, public: ImageSet | None) -> None:
        """Refuse a model without skip connections, or with too few stages."""
        stages = _stages(model)
        if not stages:
            raise ValueError(
                f"{self.name} removes skip connections, but the model has none; use a residual network: ir152, "
                "facenet64, resnet34, torchvision/resnet18 or another of torchvision's ResNets"
            )
        if self.last_stages > len(stages):
            raise ValueError(
                f"last_stages must be at most {len(stages)}, the number of stages of the model ({', '.join(stages)}), "
                f"got {self.last_stages}"
            )

    def build(self, model: nn.Module) -> nn.Module:
        """Replace the skip connections of these stages by zero."""
        for blocks in list(_stages(model).values())[-self.last_stages :]:
            for block in blocks:
                setattr(block, _SKIPS[type(block)], NoSkip())
        return model


class NoSkip(nn.Module):
    """Replaces the skip connection of a block and adds zero for any input."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a scalar zero."""
        return x.new_zeros(())


def _stages(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Return the residual blocks under each parent, in order."""
    stages: dict[str, list[nn.Module]] = {}
    for name, module in model.named_modules():
        if type(module) in _SKIPS:
            stages.setdefault(name.rpartition(".")[0], []).append(module)
    return stages
