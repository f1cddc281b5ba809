"""Every registered attack keeps every promise.

Modules: dpmi/attacks/attackable.py, dpmi/attacks/base.py, dpmi/attacks/gmi.py, dpmi/attacks/if_gmi.py,
dpmi/attacks/ked_mi.py, dpmi/attacks/latent_attack.py, dpmi/attacks/lomma.py, dpmi/attacks/mirror.py,
dpmi/attacks/mirror_genetic.py, dpmi/attacks/plg_mi.py, dpmi/attacks/ppa.py, dpmi/attacks/registry.py,
dpmi/attacks/stages/descent.py, dpmi/attacks/style_attack.py, dpmi/attacks/vmi.py, dpmi/progress.py,
dpmi/testing/plugin.py.
"""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from dpmi.attacks import Reconstructions, get, names
from dpmi.attacks.priors import (
    ConditionalGan,
    FeatureStatistics,
    InversionGan,
    StylePrior,
    Surrogates,
    WganGP,
)
from dpmi.testing import AttackCase, AttackConformance

from .conftest import SHAPE

# Networks for 8x8 digits, trained in a second or two.
WGAN = WganGP(steps=600, batch_size=32, generator_every=2, learning_rate=1e-3, latent_size=32)
INVERSION_GAN = InversionGan(steps=300, batch_size=32, generator_every=2, learning_rate=1e-3, latent_size=32)
CONDITIONAL_GAN = ConditionalGan(steps=300, batch_size=32, learning_rate=1e-3, latent_size=32)
SURROGATES = Surrogates(steps=60, count=2)
STYLE = StylePrior(steps=150, batch_size=16, latent_size=16, width=6, learning_rate=0.015)

GMI_REFUSED = {
    "iterations": 0,
    "learning_rate": 0,
    "restarts": 0,
    "images_per_class": 0,
    "prior": 3,
}
KED_REFUSED = {
    "iterations": 0,
    "learning_rate": 0,
    "log_variance": 21.0,
    "images_per_class": 0,
    "prior": 3,
}
LOMMA_REFUSED = {"regularizer": "none", "feature_weight": -1.0, "surrogates": 3, "statistics": 3}

STYLE_SETTINGS = {"candidates": 100, "psi": 1.0, "restarts": 2, "prior": STYLE}
STYLE_REFUSED = {
    "candidates": 1,
    "psi": 1.5,
    "cutoff": -1,
    "restarts": 0,
    "images_per_class": 0,
    "prior": 3,
}
SEARCH_REFUSED = {**STYLE_REFUSED, "iterations": 0, "learning_rate": 0, "augmentation": "letters"}

# Enough to get somewhere on 8x8 digits.
CASES: dict[str, AttackCase] = {
    "miface": AttackCase(
        {"iterations": 1000},
        {
            "iterations": 0,
            "window": 0,
            "stop_confidence": 1.5,
            "learning_rate": 0,
            "process": "blur",
            "restarts": 0,
        },
        random={"restarts": 2},
    ),
    "enhanced": AttackCase(
        {"iterations": 200},
        {
            "regularizer": "l2",
            "weight": -1.0,
            "reduction": "max",
            "iterations": 0,
            "learning_rate": 0,
            "gradient": "y",
            "restarts": 0,
        },
        random={"restarts": 2},
    ),
    "gmi": AttackCase(
        {"iterations": 60, "restarts": 2, "learning_rate": 0.05, "prior": WGAN},
        GMI_REFUSED,
        score=0.4,
        rounding=0.2,
    ),
    "ked-mi": AttackCase(
        {"iterations": 100, "learning_rate": 0.05, "images_per_class": 3, "prior": INVERSION_GAN},
        KED_REFUSED,
        score=0.1,
        rounding=0.1,
    ),
    **{
        f"vmi/{family}": AttackCase(
            {
                "family": family,
                "iterations": 80 if family == "flow" else 100,
                "learning_rate": 0.01 if family == "flow" else 0.05,
                "draws": 8 if family == "flow" else 4,
                "images_per_class": 3,
                "prior": WGAN,
            },
            {
                "family": "uniform",
                "iterations": 0,
                "learning_rate": 0,
                "draws": 0,
                "kl_weight": -1.0,
                "images_per_class": 0,
                "prior": 3,
            },
            score=0.2,
            # Adam on the flow's hidden layer magnifies rounding tenfold a step; that its classes know nothing of each
            # other is tested without it, in stages/test_distributions.py.
            rounding=1.0 if family == "flow" else 0.1,
        )
        for family in ("diagonal", "full", "flow")
    },
    "lomma-gmi": AttackCase(
        {
            "iterations": 25,
            "restarts": 2,
            "learning_rate": 0.05,
            "prior": WGAN,
            "surrogates": SURROGATES,
            "statistics": FeatureStatistics(count=100),
        },
        {**GMI_REFUSED, **LOMMA_REFUSED},
        score=0.4,
        rounding=0.2,
    ),
    "lomma-ked-mi": AttackCase(
        {
            "iterations": 100,
            "learning_rate": 0.05,
            "images_per_class": 3,
            "regularizer": "sampled",
            "prior": INVERSION_GAN,
            "surrogates": SURROGATES,
            "statistics": FeatureStatistics(count=100),
        },
        {**KED_REFUSED, **LOMMA_REFUSED},
        score=0.1,
        rounding=0.1,
    ),
    "brep-mi": AttackCase(
        {"iterations": 40, "prior": WGAN},
        {"iterations": 0, "patience": 0, "start_batches": 0, "prior": 3},
        score=0.3,
    ),
    "plg-mi": AttackCase(
        {"iterations": 40, "images_per_class": 2, "prior": CONDITIONAL_GAN},
        {
            "iterations": 0,
            "learning_rate": 0,
            "views": 0,
            "augmentation": "letters",
            "restarts": 0,
            "images_per_class": 0,
            "prior": 3,
        },
        score=0.7,
    ),
    "ppa": AttackCase(
        {
            **STYLE_SETTINGS,
            "candidates": 400,
            "iterations": 20,
            "learning_rate": 0.05,
            "augmentation": "digits",
            "final_views": 2,
            "images_per_class": 2,
        },
        {**SEARCH_REFUSED, "final_views": 0},
        score=0.7,
    ),
    "mirror": AttackCase(
        {**STYLE_SETTINGS, "iterations": 40, "augmentation": "none"}, SEARCH_REFUSED, score=0.6
    ),
    "mirror-genetic": AttackCase(
        {**STYLE_SETTINGS, "restarts": 10, "survivors": 2, "generations": 15},
        {**STYLE_REFUSED, "generations": 0, "survivors": 0, "mutation": 1.5, "step": 0},
        score=0.3,
    ),
    "if-gmi": AttackCase(
        {
            **STYLE_SETTINGS,
            "iterations": 10,
            "block_iterations": 15,
            "radius": 20.0,
            "learning_rate": 0.05,
            "augmentation": "digits",
            "images_per_class": 2,
        },
        {**SEARCH_REFUSED, "block_iterations": 0, "blocks": 0, "radius": 0},
    ),
    "label-mean": AttackCase({}, {"images": 0, "copies": 0, "noise": 0.0}, draws=False),
    "wiener": AttackCase({}, {"images": 0, "tau_index": 0, "tau": -1.0, "rank": 0}),
}


def test_every_registered_attack_has_a_case() -> None:
    missing = set(names()) - {case.split("/", maxsplit=1)[0] for case in CASES}
    assert not missing, "give it settings in CASES"


#: Variants that take longest, of attacks whose other variants, or whose parts, are in the quick tests.
LONG = {
    name: CASES[name]
    for name in (
        *("vmi/full", "vmi/flow", "lomma-gmi", "lomma-ked-mi"),
        *("ked-mi", "plg-mi", "mirror-genetic", "if-gmi"),
    )
}
OTHERS = {name: case for name, case in CASES.items() if name not in LONG}


class TestAttacks(AttackConformance):
    cases = OTHERS


@pytest.mark.slow
class TestLongAttacks(AttackConformance):
    cases = LONG


class _Breaks(nn.Module):
    """Logits that are no longer finite once an image is far enough from where the attack began."""

    def __init__(self, inner: nn.Module, broken_from: int) -> None:
        super().__init__()
        self.inner = inner
        self.calls = 0
        self.broken_from = broken_from

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.inner(images)
        # Only class 1's rows break, and only from some iteration on: the others must not notice.
        if self.calls > self.broken_from and len(images) > 1:
            logits = torch.where(torch.arange(len(images))[:, None] == 1, torch.nan, logits)
        return logits


@pytest.mark.parametrize("name", ["miface", "enhanced"])
def test_non_finite_gradient_ends_one_class_only(name: str, trained: nn.Module) -> None:
    """Of the attacks that descend on all classes in one batch."""
    attack = get(name)(**CASES[name].settings)

    def run(target: nn.Module) -> Reconstructions:
        return attack.run(target, torch.arange(2), image_shape=SHAPE, generator=torch.Generator())

    recons = run(_Breaks(deepcopy(trained), broken_from=20))
    assert recons.diverged.tolist() == [False, True]
    assert recons.images.isfinite().all()
    assert recons.iterations[1] == 19
    assert recons.images[1].std() > 0, "the best image visited before the break, not the start"
    torch.testing.assert_close(recons.scores[0], run(trained).scores[0], atol=0.01, rtol=0)
