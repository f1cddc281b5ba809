"""Every attack on a model on a GPU, with priors trained there; a few steps each, which only have to run.

Modules: dpmi/attacks/target.py.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

from dpmi.attacks import get
from dpmi.testing.digits import digits

from .conftest import SHAPE
from .test_conformance import CASES

QUICK = ("enhanced", "label-mean", "wiener")
CLASSES = torch.tensor([3, 7])


def few(value: Any) -> Any:
    """A prior with a few steps of training."""
    steps = is_dataclass(value) and not isinstance(value, type) and hasattr(value, "steps")
    return replace(value, steps=4) if steps else value


@pytest.mark.parametrize(
    ("name", "device"),
    [
        *((name, "cpu") for name in QUICK),
        *(pytest.param(name, "cuda", marks=pytest.mark.gpu) for name in CASES),
    ],
)
def test_an_attack_runs_where_the_target_is(name: str, device: str, trained: nn.Module) -> None:
    settings = {key: few(value) for key, value in CASES[name].settings.items()}
    if "iterations" in settings:
        settings["iterations"] = 3
    attack = get(name.partition("/")[0])(**settings)
    target = trained.to(device)
    before = deepcopy(target.state_dict())
    knowledge = attack.fit(target, public=digits().test.images, image_shape=SHAPE)
    found = attack.run(
        target,
        CLASSES,
        image_shape=SHAPE,
        generator=torch.Generator().manual_seed(0),
        knowledge=knowledge,
    )
    assert found.images.shape == (2 * attack.images_per_class, *SHAPE)
    assert bool(found.images.isfinite().all())
    assert torch.equal(found.labels.cpu(), CLASSES.repeat_interleave(attack.images_per_class))
    after = target.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert next(target.parameters()).device.type == device
    score = target.eval()(found.images.to(device)).softmax(1).cpu()
    chosen = score[torch.arange(len(score)), found.labels.cpu()]
    torch.testing.assert_close(found.scores.cpu(), chosen.detach(), atol=0.02, rtol=0)
