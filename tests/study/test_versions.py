"""A stage whose numbers change raises its version, or results of older code would be shown as of today's.

``python -m tests.study.test_versions`` writes the numbers of this code into ``stage_numbers.json``.

Modules: dpmi/study/evaluator.py, dpmi/study/work.py, dpmi/versions.py.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpmi import attacks, data, defenses, metrics, models, versions
from dpmi.attacks import Reconstructions
from dpmi.attacks.priors import ConditionalGan, InversionGan, StylePrior, Surrogates, WganGP
from dpmi.data import Split
from dpmi.defenses import Recipe
from dpmi.metrics.robustness import robustness
from dpmi.models.features import (
    Extractor,
    Provenance,
    PublicStatistics,
    PublicTraining,
    scattering,
    train_public_cnn,
)
from dpmi.models.features.public_cnn import Kind
from dpmi.study import evaluator, work
from dpmi.study.evaluator import Judge
from dpmi.study.spec import EvaluatorSpec, TrainingSpec
from dpmi.study.yardsticks import Yardsticks

FILE = Path(__file__).with_name("stage_numbers.json")

#: Few steps of training magnify the rounding of another processor by less.
TOLERANCE = 2e-3

PRIVATE = {"noise_multiplier": 0.5, "sampling_rate": 0.5, "max_grad_norm": 1.0}
DEFENSES: dict[str, dict[str, Any]] = {
    "none": {},
    "class-dp": PRIVATE,
    "record-dp": {**PRIVATE, "sampling_rate": 0.05},
    "mid": {"beta": 0.01},
    "bido-hsic": {},
    "label-smoothing": {"alpha": -0.05},
    "calor": {"rank": 4},
    "random-erasing": {"max_area": 0.3},
}
SMALL: dict[str, Any] = {"steps": 2, "batch_size": 16, "latent_size": 8}
PRIOR = WganGP(**SMALL)
STYLE: dict[str, Any] = {
    "prior": StylePrior(**SMALL, width=4),
    "candidates": 20,
    "iterations": 2,
    "augmentation": "digits",
    "restarts": 1,
    "images_per_class": 2,
}
ATTACKS: dict[str, dict[str, Any]] = {
    "miface": {"iterations": 5},
    "enhanced": {"iterations": 5},
    "gmi": {"prior": PRIOR, "iterations": 3, "restarts": 1},
    "vmi": {"prior": PRIOR, "iterations": 3, "images_per_class": 2},
    "lomma-ked-mi": {
        "prior": InversionGan(**SMALL),
        "surrogates": Surrogates(steps=2, count=1),
        "iterations": 3,
        "images_per_class": 2,
    },
    "plg-mi": {"prior": ConditionalGan(**SMALL), "iterations": 3, "images_per_class": 2},
    "ppa": {**STYLE, "final_views": 2},
    "if-gmi": {**STYLE, "block_iterations": 2},
    "label-mean": {},
    "wiener": {},
}


def classifier(name: str = "cnn-small") -> nn.Module:
    return models.build(name, image_shape=(1, 8, 8), num_classes=10, seed=0).eval()


def summary(t: Tensor) -> list[float]:
    """Two numbers that most changes of a tensor move."""
    weights = torch.linspace(-1, 1, t.numel(), dtype=torch.float64)
    flat = t.detach().double().flatten()
    return [float(flat.abs().mean()), float((flat * weights).mean())]


def of_training() -> dict[str, list[float]]:
    split = data.load("digits")
    found = {}
    for name, settings in DEFENSES.items():
        defense = defenses.get(name)(**settings)
        trained = defenses.train(
            defense, classifier(), split.train, Recipe(steps=6, learning_rate=0.05, batch_size=32), seed=0
        )
        found[name] = summary(metrics.evaluate(trained.model.eval(), split.test.images[:20]).logits)
    return found


def of_features() -> dict[str, list[float]]:
    split = data.load("digits")
    images, labels = split.test.images, split.test.labels
    found = {}
    kinds: tuple[Kind, ...] = ("characters", "photographs")
    for kind in kinds:
        training = PublicTraining(steps=3, batch_size=32, size=8, kind=kind)
        body = train_public_cnn(images, labels, training)
        extractor = Extractor(body, image_shape=(1, 8, 8), provenance=Provenance())
        found[kind] = summary(extractor.extract(images[:20]))
    public = scattering((1, 8, 8)).extract(split.public)
    found["scatter"] = summary(public)
    found["statistics"] = summary(PublicStatistics(public)(public[:20]))
    # A direction is known up to its sign only.
    found["projection"] = summary(PublicStatistics(public, dimensions=5)(public[:20]).abs())
    return found


def of_the_evaluator() -> dict[str, list[float]]:
    split = data.load("digits")
    spec = EvaluatorSpec(model="cnn-small", training=TrainingSpec(steps=3, learning_rate=0.05))
    images = evaluator._training_set(spec, split)
    start = evaluator.untrained(spec, split)
    return {"images": summary(images.images), "weights": summary(next(start.parameters()))}


def of_priors() -> dict[str, list[float]]:
    public = data.load("digits").public
    target = attacks.Target(classifier().requires_grad_(False))
    found = {}
    for prior in (PRIOR, InversionGan(**SMALL), ConditionalGan(**SMALL), StylePrior(**SMALL, width=4)):
        module = attacks.priors.fetch(
            prior,
            public=public,
            target=target,
            image_shape=(1, 8, 8),
            num_classes=10,
            folder=None,
            progress=lambda *_: None,
        )
        found[prior.name] = summary(torch.cat([p.flatten() for p in module.parameters()]))
    return found


def of_attacks() -> dict[str, list[float]]:
    target, public = classifier(), data.load("digits").public
    found = {}
    for name, settings in ATTACKS.items():
        attack = attacks.get(name)(**settings)
        knowledge = attack.fit(target, public=public, image_shape=(1, 8, 8))
        recons = attack.run(
            target,
            torch.arange(10),
            image_shape=(1, 8, 8),
            generator=torch.Generator().manual_seed(0),
            knowledge=knowledge,
        )
        found[name] = [*summary(recons.images), float(recons.scores.mean()), float(recons.queries)]
    return found


def of_measurements() -> dict[str, list[float]]:
    split = data.load("digits")
    recons = Reconstructions(
        images=torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
        labels=torch.arange(10).repeat_interleave(3),
        scores=torch.linspace(0, 1, 30),
        iterations=torch.arange(30),
        diverged=torch.zeros(30, dtype=torch.bool),
        queries=7,
        grad_calls=8,
    )
    numbers, of_classes = work._numbers(recons, split, Yardsticks.of(split))
    seen = metrics.evaluate(classifier(), split.train.images)
    judge = Judge(classifier(), seen.features, split.train.labels, "cnn-small", 0.1)
    whole, per_class = evaluator.columns(recons, judge, classifier("softmax"), split)
    columns = {**of_classes, **per_class, **_linkage(recons, split)}
    return {
        **{
            name: [float(value)] for name, value in {**numbers, **whole}.items() if not isinstance(value, str)
        },
        **{name: summary(torch.tensor(v)) for name, v in columns.items() if name != "class_name"},
    }


def _linkage(recons: Reconstructions, split: Split) -> dict[str, list[float]]:
    """The reconstructions of the digits 0 to 4, with the others as decoys."""
    some = recons.labels < 5
    private = split.train.images, split.train.labels
    found = {}
    for scorer in metrics.SCORERS:
        distances = metrics.candidate_distances(
            recons.images[some],
            recons.labels[some],
            *private,
            range(5, 10),
            scorer=scorer,
            public=split.public,
        )
        found[scorer] = distances.flatten().tolist()
    return found


def of_side_effects() -> dict[str, list[float]]:
    split = data.load("digits")
    few = dataclasses.replace(split.test, images=split.test.images[:40], labels=split.test.labels[:40])
    trained = defenses.train(
        defenses.get("none")(),
        classifier("softmax"),
        split.train,
        Recipe(steps=60, learning_rate=0.5),
        seed=0,
    )
    return {name: list(robustness(name, trained.model, few, seed=0).accuracy) for name in ("fgsm", "pgd")}


STAGES: dict[str, Callable[[], dict[str, list[float]]]] = {
    "TRAINING": of_training,
    "FEATURES": of_features,
    "EVALUATOR": of_the_evaluator,
    "PRIOR": of_priors,
    "ATTACK": of_attacks,
    "MEASUREMENT": of_measurements,
    "SIDE_EFFECTS": of_side_effects,
}


@pytest.mark.parametrize("stage", STAGES)
def test_numbers_are_those_of_the_version(stage: str) -> None:
    known = json.loads(FILE.read_text(encoding="utf-8"))[stage]
    now = STAGES[stage]()
    same = known["numbers"].keys() == now.keys() and all(
        now[name] == pytest.approx(numbers, rel=TOLERANCE, abs=1e-5, nan_ok=True)
        for name, numbers in known["numbers"].items()
    )
    changed = [name for name in now if now[name] != pytest.approx(known["numbers"].get(name), rel=TOLERANCE)]
    assert known["version"] == getattr(versions, stage), "run python -m tests.study.test_versions"
    assert same, (
        f"{', '.join(changed)} changed: raise versions.{stage}, so that nobody is shown older numbers, and run "
        "python -m tests.study.test_versions"
    )


def test_every_stage_has_numbers() -> None:
    assert set(STAGES) == {name for name in vars(versions) if name.isupper()}


if __name__ == "__main__":
    found = {name: {"version": getattr(versions, name), "numbers": stage()} for name, stage in STAGES.items()}
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
