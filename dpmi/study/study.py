"""A study: a TOML file, checked before anything runs, and the jobs and trials that it expands to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from dpmi import attacks, data, defenses, models
from dpmi.defenses import Defense, Recipe

from .content import Content
from .grid import Job, Trial, settings_of, told_apart
from .spec import (
    BudgetSpec,
    DataSpec,
    EvaluatorSpec,
    SpecError,
    Strict,
    TrainingSpec,
    load_toml,
    unknown,
    validated,
)
from .sweeps import instances

REPORTED = (
    "the numbers and pictures of this study itself: accuracies, diagnostics, distances and example images come from "
    "the private records without noise; the promise is about the model"
)

# TOML has lists and no tuples.
_AtLeastOne = Field(min_length=1, strict=False)


def _one_line(name: str) -> str:
    if not name.isprintable():
        raise ValueError("it must be one line of printable characters")
    return name


class StudySpec(Strict):
    """A grid of trials: every defence and strength x every attack x every seed.

    In the table of a defence or an attack, a list of values is a sweep: one trial for each. ``training``
    inside a defence's table overrides the study's. ``weights`` is what training starts from, as in
    :func:`dpmi.models.load_weights`: "torchvision", or a file, by its absolute path if other machines compute too;
    who puts other weights into the file starts a new study. ``adaptive`` repeats every attack on every model with
    each of :meth:`dpmi.defenses.Defense.adaptations` that changes something for it. ``matched_on`` says by what the
    strengths were chosen, if :mod:`dpmi.study.match` chose them; it is shown, and changes nothing that is computed.
    """

    name: Annotated[str, Field(min_length=1), AfterValidator(_one_line)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], _AtLeastOne]
    data: DataSpec
    model: str
    weights: Annotated[str, Field(min_length=1)] | None = None
    training: TrainingSpec
    defenses: Annotated[tuple[dict[str, Any], ...], _AtLeastOne]
    attacks: Annotated[tuple[dict[str, Any], ...], _AtLeastOne]
    evaluator: EvaluatorSpec | None = None
    budget: BudgetSpec | None = None
    adaptive: bool = False
    matched_on: Annotated[str, Field(pattern=r"^(accuracy|epsilon) [0-9][0-9.e+-]*$")] | None = None

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        """One per model to train, in the order of the file, seeds innermost."""
        plugins = [(d, r) for table in self.defenses for d, r in self._defenses(table)]
        found = tuple(a for table in self.attacks for a in instances(attacks.get, "attacks", table))
        settings = told_apart([(d.label, {**settings_of(d), **dataclasses.asdict(r)}) for d, r in plugins])
        attack_labels = told_apart([(a.name, settings_of(a)) for a in found])
        jobs = tuple(
            Job(
                data=self.data,
                model=self.model,
                weights=self.weights,
                defense=defense,
                recipe=recipe,
                seed=seed,
                attacks=found,
                setting=setting,
                attack_labels=attack_labels,
                evaluator=self.evaluator,
                budget=self.budget,
                adaptive=self.adaptive,
            )
            for (defense, recipe), setting in zip(plugins, settings, strict=True)
            for seed in self.seeds
        )
        seen: set[tuple[str, str]] = set()
        for trial in (trial for job in jobs for trial in job.trials):
            asked = (trial.job.settings, trial.settings)
            if asked in seen:
                raise SpecError(f"{trial.label} is asked for twice; remove one")
            seen.add(asked)
        return jobs

    def jobs_on(self, content: Content) -> tuple[Job, ...]:
        """The same, with keys: jobs whose numbers depend on this content.

        Args:
            content: of the data and the weights.
        """
        return tuple(dataclasses.replace(job, content=content) for job in self.jobs)

    def trials_on(self, content: Content) -> tuple[Trial, ...]:
        """Every trial of :meth:`jobs_on`."""
        return tuple(trial for job in self.jobs_on(content) for trial in job.trials)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial of every job."""
        return tuple(trial for job in self.jobs for trial in job.trials)

    @property
    def not_accounted(self) -> tuple[str, ...]:
        """What this study looked at that is in no epsilon, for the privacy statements of its models."""
        found = [REPORTED]
        if self.weights is not None:
            found.append(f"the records that the weights {self.weights} had seen, from which training started")
        if self.matched_on is not None and self.matched_on.startswith("accuracy "):
            found.append(
                f"the noise multiplier was chosen so that the model reaches {self.matched_on} on the test set; the "
                "models that were trained to find it saw the private records too, and are not billed"
            )
        return tuple(found)

    def _defenses(self, table: Mapping[str, Any]) -> Iterator[tuple[Defense, Recipe]]:
        own = dict(table)
        override = own.pop("training", {})
        if not isinstance(override, dict):
            raise SpecError(f"defenses.training is {override!r}: it must be a table of [training]'s keys")
        training = validated(TrainingSpec, {**self.training.model_dump(), **override}, "defenses.training")
        for defense in instances(defenses.get, "defenses", own):
            yield defense, Recipe(**training.model_dump())


def read(path: Path, check: Callable[[str], object] | None = None) -> str:
    """The text of a study file, checked.

    Args:
        path: of the file.
        check: called with the text; by default :func:`parse`.

    Raises:
        SpecError: the file is missing, is no TOML, or asks for something that does not exist.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"study {path} cannot be read: {error.strerror}; name a TOML file") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"study {path} is not a TOML file: {error}") from error
    try:
        (check or parse)(text)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error
    return text


def parse(text: str) -> StudySpec:
    """The study that a text asks for.

    Raises:
        SpecError: as for :func:`read`.
    """
    return checked(load_toml(text))


def checked(document: Mapping[str, Any]) -> StudySpec:
    """The study that a document asks for.

    Raises:
        SpecError: it asks for something that does not exist.
    """
    spec = validated(StudySpec, document)
    if spec.data.name not in data.names():
        raise SpecError(unknown("data.name", spec.data.name, data.names()))
    try:
        models.check_name(spec.model)
        if spec.evaluator is not None:
            models.check_name(spec.evaluator.model)
        if spec.weights is not None:
            models.check_source(spec.weights, spec.model)
    except ValueError as error:
        raise SpecError(f"model: {error}") from error
    _ = spec.jobs  # every plug-in and every hyper-parameter is checked here, before anything runs
    return spec
