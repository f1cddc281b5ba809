"""Every attack takes images of any shape: its priors make images of the shape of the target.

Modules: dpmi/attacks/priors/networks.py.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from dpmi import attacks, models
from dpmi.attacks import Attack

SHAPES = [(3, 20, 16), (1, 30, 41)]
SMALL = {
    "iterations": 2,
    "images_per_class": 1,
    "candidates": 20,
    "restarts": 1,
    "draws": 2,
    "final_views": 2,
}
PRIOR = {"steps": 2, "batch_size": 8}


def some_of(plugin: Any, values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value for key, value in values.items() if key in {f.name for f in dataclasses.fields(plugin)}
    }


def small(name: str) -> Attack:
    """The attack, at sizes that take a second."""
    kind = attacks.get(name)
    own = {**SMALL, "restarts": 10, "generations": 2} if name == "mirror-genetic" else SMALL
    attack = kind(**some_of(kind, own))
    priors = {
        f.name: dataclasses.replace(
            prior, **some_of(prior, PRIOR | {"width": 4 if prior.name == "style" else 0.1})
        )
        for f in dataclasses.fields(attack)
        if dataclasses.is_dataclass(prior := getattr(attack, f.name)) and not isinstance(prior, type)
    }
    return dataclasses.replace(attack, **priors)


@pytest.mark.filterwarnings("ignore:brep-mi found no latent")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", attacks.names())
def test_an_attack_takes_images_of_any_shape(name: str, shape: tuple[int, int, int]) -> None:
    attack = small(name)
    target = models.build("cnn", image_shape=shape, num_classes=3, seed=0).eval()
    public = torch.rand(40, *shape, generator=torch.Generator().manual_seed(0))
    knowledge = attack.fit(target, public=public, public_labels=torch.arange(40) % 4, image_shape=shape)
    found = attack.run(
        target,
        torch.arange(3),
        image_shape=shape,
        generator=torch.Generator().manual_seed(0),
        knowledge=knowledge,
    )
    assert found.images.shape == (3 * attack.images_per_class, *shape)
    assert bool(found.images.isfinite().all())
