"""The searches of IF-GMI: how many, how long, and within which balls.

Modules: dpmi/attacks/if_gmi.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpmi.attacks import IfGmi, Knowledge, Target, Task, if_gmi
from dpmi.attacks.priors import Gan, StyleGenerator
from dpmi.attacks.stages.features import LayerFeatures
from dpmi.attacks.stages.search import Outcome

SHAPE = (1, 256, 256)


class _Bright(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        light = images.mean(dim=(1, 2, 3))
        return torch.stack([light, -light], dim=1)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, [70, 25, 25, 25, 25]),  # configs/ffhq_celeba
        ({"iterations": 50, "block_iterations": 10, "blocks": 7}, [50] + [10] * 7),  # configs/ffhq_facescrub
        ({"blocks": 9}, [70] + [25] * 8),
    ],
)
def test_searches_and_radii_are_those_of_the_configurations(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, int], steps: list[int]
) -> None:
    """max_radius_w and max_radius_mid_vecor: 1000 to 6000, then 8000 twice."""
    searches: list[tuple[int, float]] = []

    def search(target: Target, labels: Tensor, position: LayerFeatures, *_: Any, **options: Any) -> Outcome:
        began = [moved.detach().clone() for moved in position.parameters()]
        with torch.no_grad():
            for moved in position.parameters():
                moved.flatten(1)[:, 0] += 1e5
        position.advance()
        radii = [
            float((moved.detach() - start).abs().sum())
            for moved, start in zip(position.parameters(), began, strict=True)
        ]
        assert radii == pytest.approx([radii[0]] * len(radii), rel=1e-3)
        searches.append((options["iterations"], radii[0]))
        nothing = torch.zeros(len(labels))
        return Outcome(nothing, nothing.long(), nothing.bool())

    monkeypatch.setattr(if_gmi, "search", search)
    torch.manual_seed(0)
    generator = StyleGenerator(SHAPE, latent_size=3, style_size=3, mapping_layers=1, channels=[2] * 9, base=1)
    known = Knowledge(torch.zeros(0, *SHAPE), (Gan(generator.requires_grad_(False), nn.Identity()),))
    attack = IfGmi(candidates=2, images_per_class=1, augmentation="none", **settings)  # type: ignore[arg-type]
    attack._run(Target(_Bright()), torch.tensor([0]), Task(SHAPE, known, 0, lambda done, total: None))
    assert [iterations for iterations, _ in searches] == steps
    published = [1000, 2000, 3000, 4000, 5000, 6000, 8000, 8000, 8000]
    assert [radius for _, radius in searches] == pytest.approx(published[: len(steps)], rel=1e-3)
