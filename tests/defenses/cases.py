"""With which settings every registered defence is tried; the test of conformance fails where one is missing."""

from __future__ import annotations

from dpmi.defenses import Recipe
from dpmi.testing import DefenseCase as Case

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

#: By name; a second case of one defence has something after a slash.
CASES: dict[str, Case] = {
    "none": Case(),
    "record-dp": Case(_RECORD, {**_PRIVATE, "grad_sample_mode": "functorch"}),
    "record-dp/ghost": Case(
        {**_RECORD, "grad_sample_mode": "ghost"}, {**_PRIVATE, "grad_sample_mode": "functorch"}
    ),
    "class-dp": Case(_CLASS, _PRIVATE),
    "subclass-dp": Case({**_SUBCLASS, "clusters_per_class": 3}, {**_PRIVATE, "clusters_per_class": 0}),
    "bido-hsic": Case({}, _BIDO, model="cnn-small", recipe=_ADAM),
    "bido-coco": Case({"measure": "coco_spec"}, _BIDO, model="cnn-small", recipe=_ADAM),
}
