"""The trials that a study expands to: each model to train, and the attacks on it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from accountants.plugins import origin
from dpmi import models, versions
from dpmi.attacks import Attack
from dpmi.defenses import Defense, Recipe
from dpmi.models import Adaptation

from .content import Content
from .spec import BudgetSpec, DataSpec, EvaluatorSpec


@dataclass(frozen=True, kw_only=True)
class Job:
    """One model to train, and the attacks on it.

    ``setting`` and ``attack_labels`` tell a defence and an attack from all others of the study. They depend
    on what else is in it, so they are no part of a key.
    """

    data: DataSpec
    model: str
    weights: str | None = None
    defense: Defense
    recipe: Recipe
    seed: int
    attacks: tuple[Attack, ...]
    setting: str
    attack_labels: tuple[str, ...]
    evaluator: EvaluatorSpec | None = None
    budget: BudgetSpec | None = None
    adaptive: bool = False
    content: Content | None = None
    """Of the data and the weights; None in a study that is only read."""

    @cached_property
    def key(self) -> str:
        """Hash of everything that the trained model depends on: settings, content, code."""
        return hashed(
            training=versions.TRAINING,
            packages=[*_origins(self.defense), *models.origins(self.model)],
            data=self.data_digest,
            weights=self._content.weights,
            settings=self.settings,
        )

    @property
    def data_digest(self) -> str:
        """Of the study's images and labels."""
        return self._content.data

    @property
    def settings(self) -> str:
        """All that is asked for, as a text that is equal where the same is asked for."""
        return _text(
            model=self.model,
            pretrained=self.weights is not None,
            defense=settings_of(self.defense),
            recipe=dataclasses.asdict(self.recipe),
            seed=self.seed,
        )

    @property
    def _content(self) -> Content:
        if self.content is None:
            raise ValueError(f"{self.label} has no key before its data are loaded; ask StudySpec.jobs_on")
        return self.content

    @property
    def trials(self) -> tuple[Trial, ...]:
        """One per attack, each followed by those of an attacker who knows the defence, if the study has such."""
        ways = (None, *(self.defense.adaptations() if self.adaptive else ()))
        return tuple(
            Trial(job=self, attack=attack, attack_label=label, adaptation=way)
            for attack, label in zip(self.attacks, self.attack_labels, strict=True)
            for way in ways
            if way is None or attack.takes(way)
        )

    @property
    def stages(self) -> int:
        """Parts that progress tells apart: training, the evaluator's if there is one, attacks, priors, measuring."""
        priors = sum(bool(attack.priors()) for attack in self.attacks)
        return 2 + (self.evaluator is not None) + priors + len(self.trials)

    @property
    def label(self) -> str:
        """For progress and error messages."""
        return f"{self.setting}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One attack on one trained model."""

    job: Job
    attack: Attack
    attack_label: str
    adaptation: Adaptation | None = None
    """What an attacker who knows the defence does besides."""

    @cached_property
    def key(self) -> str:
        """Hash of everything that the reconstructions depend on: the name of their folder."""
        return hashed(
            job=self.job.key,
            attack=versions.ATTACK,
            prior=versions.PRIOR if self.attack.priors() else 0,
            packages=_origins(self.attack),
            settings=self.settings,
        )

    @property
    def settings(self) -> str:
        """All that is asked of the attack, as a text that is equal where the same is asked."""
        budget = None if self.job.budget is None else self.job.budget.model_dump()
        adaptation = None if self.adaptation is None else self.adaptation.name
        return _text(attack=settings_of(self.attack), budget=budget, adaptation=adaptation)

    @property
    def label(self) -> str:
        """For progress and error messages."""
        return f"{self.what} on {self.job.label}"

    @property
    def what(self) -> str:
        """The attack, and how it is adapted."""
        return (
            self.attack_label if self.adaptation is None else f"{self.attack_label}, {self.adaptation.name}"
        )


def told_apart(plugins: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[str, ...]:
    """The label of each, followed by the settings that differ among those with the same label."""

    flat = [(label, dict(_flattened(settings))) for label, settings in plugins]

    def differing(label: str, settings: Mapping[str, Any]) -> Iterator[str]:
        for key, value in settings.items():
            if any(other.get(key) != value for name, other in flat if name == label):
                yield f"{key.replace('_', ' ')} {f'{value:g}' if isinstance(value, float) else value}"

    return tuple(", ".join([label, *differing(label, settings)]) for label, settings in flat)


def _flattened(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings of a plug-in inside a plug-in, such as an attack's prior, by the names of both."""
    for key, value in settings.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from ((f"{key} {f.name}", getattr(value, f.name)) for f in dataclasses.fields(value))
        else:
            yield key, value


def settings_of(plugin: Defense | Attack) -> dict[str, Any]:
    """Name and hyper-parameters."""
    return {"name": plugin.name, **{f.name: getattr(plugin, f.name) for f in dataclasses.fields(plugin)}}


def _origins(plugin: Defense | Attack) -> list[str]:
    """Which other packages a plug-in comes from, its parts and what it holds included."""
    kinds = list(getattr(plugin, "kinds", (type(plugin),)))
    values = (getattr(plugin, f.name) for f in dataclasses.fields(plugin))
    kinds += [type(value) for value in values if dataclasses.is_dataclass(value)]
    return sorted({origin(kind) for kind in kinds} - {""})


def _text(**content: Any) -> str:
    # repr is exact for floats and stable for frozen dataclasses, so equal content means equal text.
    return json.dumps(content, sort_keys=True, default=repr)


def hashed(**content: Any) -> str:
    """Sixteen hexadecimal digits that are equal where the content is."""
    return hashlib.sha256(_text(**content).encode()).hexdigest()[:16]
