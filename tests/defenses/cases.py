"""With which settings every registered defence is tried; the test of conformance fails where one is missing."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from dpmi.defenses import Recipe
from dpmi.testing import DefenseCase as Case


def small_residual() -> nn.Module:
    """Two stages of one residual block each: a ResNet for images of 8x8, quick to train."""
    norm = partial(nn.GroupNorm, 2)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.Sequential(BasicBlock(8, 8, norm_layer=norm)),
            nn.Sequential(BasicBlock(8, 8, norm_layer=norm)),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 10),
        )


_PRIVATE = {"noise_multiplier": -0.5, "sampling_rate": 1.5, "max_grad_norm": 0.0, "delta": 1.0}
_RECORD = {"noise_multiplier": 0.8, "sampling_rate": 0.1, "max_grad_norm": 1.0, "delta": 1e-5}
_CLASS = {"noise_multiplier": 0.05, "sampling_rate": 0.5, "max_grad_norm": 1.0, "delta": 1e-2}
_SUBCLASS = {"noise_multiplier": 0.1, "sampling_rate": 0.3, "max_grad_norm": 1.0, "delta": 1e-3}
_BIDO = {
    "dependence_weight": -1.0,
    "measure": "HSIC",
    "lambda_x": -0.1,
    "lambda_y": -0.1,
    "sigma": 0.0,
    "latent_layers": "3",
}
_ADAM = Recipe(steps=40, learning_rate=1e-2, optimizer="adam", batch_size=64)
_TRANSFER = {"frozen_fraction": 0.1, "pretrain_steps": 20, "pretrain_learning_rate": 0.05}
_NO_TRANSFER = {
    "frozen_fraction": 1.5,
    "frozen_parameters": -1,
    "frozen_through": "",
    "pretrain_steps": -1,
    "pretrain_learning_rate": 0.0,
}
_NO_CLASS = {**_PRIVATE, "max_records_per_bucket": 0, "clipping": "auto", "views": 0}
_NO_SUBCLASS = {**_NO_CLASS, "clusters_per_class": 0}
_NO_MID = {"beta": -1.0, "bottleneck": 0, "evaluation": "median"}
_NO_SMOOTHING = {"alpha": 0.0, "ramp_start": 1.0, "ramp_end": 0.4}
_NO_CALOR = {
    "rank": 0,
    "bounded": 1,
    "adapted": 0,
    "loss_scale": 0.0,
    "loss_exponent": -1.0,
    "adapted_share": 1.0,
}

#: By name; a second case of one defence has something after a slash.
CASES: dict[str, Case] = {
    "none": Case(),
    "record-dp": Case(_RECORD, {**_PRIVATE, "grad_sample_mode": "functorch"}),
    "record-dp/ghost": Case(
        {**_RECORD, "grad_sample_mode": "ghost"}, {**_PRIVATE, "grad_sample_mode": "functorch"}
    ),
    "class-dp": Case({**_CLASS, "max_records_per_bucket": 40}, _NO_CLASS),
    "subclass-dp": Case({**_SUBCLASS, "clusters_per_class": 3}, _NO_SUBCLASS),
    "user-dp": Case({**_SUBCLASS, "max_records_per_bucket": 10}, _NO_CLASS),
    "skip-removal": Case(
        {}, {"last_stages": 0}, model=small_residual, recipe=Recipe(steps=40, learning_rate=0.1)
    ),
    "transfer": Case(
        _TRANSFER, _NO_TRANSFER, model="cnn-compact", recipe=Recipe(steps=40, learning_rate=0.05)
    ),
    "transfer+class-dp": Case(
        {**_TRANSFER, **_CLASS},
        {**_NO_TRANSFER, **_NO_CLASS},
        model="cnn-compact",
        recipe=Recipe(steps=40, learning_rate=0.2),
        accuracy=0.5,
    ),
    "trapdoor": Case({}, {"trapdoor_weight": 1.0, "blend_ratio": 0.0, "trigger_step": 0.0}),
    "bido-hsic": Case({}, _BIDO, model="cnn-small", recipe=_ADAM),
    "bido-coco": Case({"measure": "coco_spec"}, _BIDO, model="cnn-small", recipe=_ADAM),
    "mid": Case({"beta": 0.01}, _NO_MID),
    "mid/mean": Case({"beta": 0.01, "bottleneck": 20, "evaluation": "mean"}, _NO_MID),
    "subclass-dp+mid": Case(
        {**_SUBCLASS, "clusters_per_class": 3, "beta": 0.01}, {**_NO_SUBCLASS, **_NO_MID}
    ),
    "label-smoothing": Case({"alpha": -0.1}, _NO_SMOOTHING),
    "label-smoothing/ordinary": Case({"alpha": 0.1}, _NO_SMOOTHING),
    "record-dp+label-smoothing": Case(
        {**_RECORD, "alpha": -0.1}, {**_PRIVATE, "grad_sample_mode": "functorch", **_NO_SMOOTHING}
    ),
    "calor": Case({"rank": 12}, _NO_CALOR),
    "calor/low rank": Case({"rank": 12, "bounded": False, "adapted": False}, _NO_CALOR),
    "calor/tanh": Case({"rank": None, "adapted": False}, _NO_CALOR),
    "calor/confidence": Case({"rank": None, "bounded": False}, _NO_CALOR),
    "subclass-dp+calor": Case(
        {**_SUBCLASS, "clusters_per_class": 3, "rank": 12},
        {**_NO_SUBCLASS, **_NO_CALOR},
        recipe=Recipe(steps=80, learning_rate=0.5),
    ),
    "random-erasing": Case({"max_area": 0.4}, {"max_area": 1.0, "min_area": 0.5, "fill": "black"}),
    "random-erasing/random": Case(
        {"max_area": 0.4, "fill": "random"}, {"max_area": 0.0, "min_area": -0.1, "fill": "black"}
    ),
}
