"""Jobs and trials of a study: each model to train, and each attack on it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from accountants.plugins import origin
from dpmi import models, versions
from dpmi.attacks import Attack
from dpmi.data.halves import HalfDraw
from dpmi.data.roles import FirstRoles, RoleDraw
from dpmi.defenses import Defense, Recipe, private_part
from dpmi.key_settings import described, without_later
from dpmi.models import Adaptation

from .content import Content
from .spec import (
    AuditSpec,
    BudgetSpec,
    DataSpec,
    EvaluatorSpec,
    FeaturesSpec,
    KnowledgeSpec,
    LinkageSpec,
    NormalizeSpec,
    Outputs,
    StrangersSpec,
    UnitsSpec,
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One model to train, and the attacks on it.

    ``setting`` and ``attack_labels`` distinguish a defence and an attack from the others of the study. They depend on
    the rest of the study, so they are not part of a key.

    >>> from dpmi.study import parse
    >>> spec = parse('''
    ... name = "two seeds"
    ... seeds = [0, 1]
    ... data = { name = "digits" }
    ... model = "softmax"
    ... training = { steps = 5, learning_rate = 0.1 }
    ... defenses = [{ name = "label-smoothing", alpha = [-0.05, -0.1] }]
    ... attacks = [{ name = "miface" }]
    ... ''')
    >>> [job.label for job in spec.jobs[:2]]
    ['label-smoothing, alpha -0.05, seed 0', 'label-smoothing, alpha -0.05, seed 1']
    >>> job = spec.jobs_on(Content(data="digest of the data"))[0]
    >>> len(job.key)  # in hexadecimal digits, the name of its folder
    16
    """

    data: DataSpec
    model: str
    model_options: tuple[tuple[str, Any], ...] = ()
    weights: str | None = None
    given: bool = False
    """Whether the weights are those of a trained model, a checkpoint, so that nothing is trained."""
    normalize: NormalizeSpec | None = None
    outputs: Outputs = "logits"
    features: FeaturesSpec | None = None
    defense: Defense
    recipe: Recipe
    seed: int
    attacks: tuple[Attack, ...]
    setting: str
    attack_labels: tuple[str, ...]
    evaluator: EvaluatorSpec | None = None
    strangers: StrangersSpec | None = None
    knowledge: KnowledgeSpec | None = None
    lpips: bool = False
    budget: BudgetSpec | None = None
    adaptive: bool = False
    classes: int | None = None
    """Number of classes of the model that are attacked; None for all."""
    device: str = "cpu"
    """Where it is trained and attacked; no part of a key."""
    linkage: LinkageSpec | None = None
    units: UnitsSpec | None = None
    audit: AuditSpec | None = None
    seeds: tuple[int, ...] = ()
    """Seeds of the study, whose models are references of one another in the unit game; without any it is not played."""
    content: Content | None = None
    """Digests of the data, the weights, the extractor and the judges; None before the data are loaded."""

    @cached_property
    def key(self) -> str:
        """Hash of everything that the trained model depends on: settings, content, code."""
        return hashed(
            training=versions.TRAINING,
            packages=[*_origins(self.defense), *models.origins(self.model)],
            data=self.data_digest,
            weights=self._content.weights,
            settings=self.settings,
            **({} if self.features is None else {"features": self.features_digest}),
        )

    @property
    def features_digest(self) -> str:
        """Digest of what the public extractors depend on; empty if there are none."""
        return self._content.features

    @property
    def evaluator_digest(self) -> str:
        """Digest of the weights of an evaluator that is trained already; empty if there are none."""
        return self._content.evaluator

    @property
    def strangers_digest(self) -> str:
        """Digest of the files of the strangers; empty if there are none."""
        return self._content.strangers

    @property
    def data_digest(self) -> str:
        """Digest of the study's images and labels."""
        return self._content.data

    @property
    def settings(self) -> str:
        """Every setting of the model and its training, as text; equal settings give equal text."""
        return _text(
            model=self.model,
            pretrained=self.weights is not None,
            defense=without_later(settings_of(self.defense)),
            recipe=without_later(dataclasses.asdict(self.recipe)),
            seed=self.seed,
            **({"model_options": dict(self.model_options)} if self.model_options else {}),
            **({"given": True} if self.given else {}),
            **({} if self.normalize is None else {"normalize": self.normalize.model_dump()}),
            **({} if self.outputs == "logits" else {"outputs": self.outputs}),
            **({} if self.features is None else {"features": self.features.described}),
            **({} if self.roles is None else {"roles": repr(self.roles)}),
            **({} if self.units is None else {"half": f"{self.half!r} of {self.units.division}"}),
            **({} if self.audited is None else {"audit": repr(self.audited)}),
        )

    @property
    def roles(self) -> RoleDraw | FirstRoles | None:
        """How the private classes and the decoys are drawn; None if all classes are private."""
        return None if self.linkage is None else self.linkage.draw(self.seed)

    @property
    def half(self) -> HalfDraw | None:
        """How the units that train the model are drawn; None if all train it."""
        return None if self.units is None else self.units.draw(self.seed)

    @property
    def game(self) -> UnitsSpec | None:
        """The unit game that is played with the model; None if there is none."""
        return self.units if self.seeds else None

    @property
    def audited(self) -> AuditSpec | None:
        """The audit of the model's training; None if there is none, or the defence cannot have canaries."""
        private = private_part(self.defense)
        return self.audit if private is not None and private.has_canaries else None

    @property
    def _content(self) -> Content:
        if self.content is None:
            raise ValueError(f"{self.label} has no key before its data are loaded; use StudySpec.jobs_on")
        return self.content

    @property
    def trials(self) -> tuple[Trial, ...]:
        """One per attack, each followed by its adaptive variants if ``adaptive``."""
        ways = (None, *(self.defense.adaptations() if self.adaptive else ()))
        return tuple(
            Trial(job=self, attack=attack, attack_label=label, adaptation=way)
            for attack, label in zip(self.attacks, self.attack_labels, strict=True)
            for way in ways
            if way is None or attack.takes(way)
        )

    @property
    def stages(self) -> int:
        """Number of stages in the progress reports of a run."""
        priors = sum(bool(attack.priors()) for attack in self.attacks)
        attacks = priors + len(self.trials)
        both = self.game is not None  # training and measuring report the references, which are trained once
        return self.training_stages + attacks + self.measuring_stages - both

    @property
    def training_stages(self) -> int:
        """Of them those of training alone: the extractor, the model, the references of the unit game."""
        return 1 + (self.features is not None) + (self.game is not None)

    @property
    def measuring_stages(self) -> int:
        """Of them those of measuring alone: the references, the evaluator, the metrics."""
        return 1 + (self.game is not None) + (self.evaluator is not None)

    @property
    def label(self) -> str:
        """Name in progress and error messages."""
        return f"{self.setting}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One attack on one trained model.

    >>> from dpmi.study import parse
    >>> spec = parse('''
    ... name = "adaptive"
    ... seeds = [0]
    ... data = { name = "digits" }
    ... model = "softmax"
    ... training = { steps = 5, learning_rate = 0.1 }
    ... defenses = [{ name = "calor", rank = 4 }]
    ... attacks = [{ name = "miface" }]
    ... adaptive = true
    ... classes = 3
    ... ''')
    >>> [trial.what for trial in spec.trials]
    ['miface', 'miface, logit loss', 'miface, no Tanh', 'miface, linear head', 'miface, matched confidence']
    >>> len(spec.trials[0].attacked(10))
    3
    """

    job: Job
    attack: Attack
    attack_label: str
    adaptation: Adaptation | None = None
    """The change that makes the attack adaptive to the defence; None for the plain attack."""

    @cached_property
    def key(self) -> str:
        """Hash of everything that the reconstructions depend on; names their folder."""
        return hashed(
            job=self.job.key,
            attack=versions.ATTACK,
            prior=versions.PRIOR if self.attack.priors() else 0,
            packages=_origins(self.attack),
            settings=self.settings,
        )

    @property
    def settings(self) -> str:
        """Every setting of the attack, as text; equal settings give equal text."""
        budget = None if self.job.budget is None else self.job.budget.model_dump()
        adaptation = None if self.adaptation is None else self.adaptation.name
        some = {} if self.job.classes is None else {"classes": self.job.classes}
        return _text(attack=settings_of(self.attack), budget=budget, adaptation=adaptation, **some)

    def attacked(self, classes: int) -> Tensor:
        """Return the attacked labels of a model with this number of classes, int64 ascending, drawn by its seed."""
        if self.job.classes is None:
            return torch.arange(classes)
        order = torch.randperm(classes, generator=torch.Generator().manual_seed(self.job.seed))
        return order[: self.job.classes].sort().values

    @property
    def label(self) -> str:
        """Name in progress and error messages."""
        return f"{self.what} on {self.job.label}"

    @property
    def what(self) -> str:
        """The attack and its adaptation."""
        return (
            self.attack_label if self.adaptation is None else f"{self.attack_label}, {self.adaptation.name}"
        )


def told_apart(plugins: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[str, ...]:
    """Each label, followed by the settings in which plug-ins of the same label differ."""

    flat = [(label, dict(_flattened(settings))) for label, settings in plugins]

    def differing(label: str, settings: Mapping[str, Any]) -> Iterator[str]:
        for key, value in settings.items():
            if any(other.get(key) != value for name, other in flat if name == label):
                yield f"{key.replace('_', ' ')} {f'{value:g}' if isinstance(value, float) else value}"

    return tuple(", ".join([label, *differing(label, settings)]) for label, settings in flat)


def _flattened(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings, with those of a nested plug-in (such as an attack's prior) under the names of both."""
    for key, value in settings.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from ((f"{key} {f.name}", getattr(value, f.name)) for f in dataclasses.fields(value))
        else:
            yield key, value


def settings_of(plugin: Defense | Attack) -> dict[str, Any]:
    """Name and hyper-parameters."""
    return {"name": plugin.name, **{f.name: getattr(plugin, f.name) for f in dataclasses.fields(plugin)}}


def _origins(plugin: Defense | Attack) -> list[str]:
    """Third-party packages of a plug-in, of its parts and of its field values."""
    kinds = list(getattr(plugin, "kinds", (type(plugin),)))
    values = (getattr(plugin, f.name) for f in dataclasses.fields(plugin))
    kinds += [type(value) for value in values if dataclasses.is_dataclass(value)]
    return sorted({origin(kind) for kind in kinds} - {""})


def _text(**content: Any) -> str:
    # repr is exact for floats and stable for frozen dataclasses, so equal content gives equal text.
    return json.dumps(content, sort_keys=True, default=described)


def hashed(**content: Any) -> str:
    """Hash of the content: sixteen hexadecimal digits."""
    return hashlib.sha256(_text(**content).encode()).hexdigest()[:16]
