"""What a study asks for: a TOML file, checked before anything runs, and the trials that it expands to."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dpmi import attacks, data, defenses, models
from dpmi.attacks import Attack
from dpmi.defenses import Defense, Recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


Model = TypeVar("Model", bound=BaseModel)


class SpecError(ValueError):
    """A study that cannot be run as it is written; the message names the key, its value and what is allowed."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSpec(_Strict):
    """Which data set, and the options of its loader."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class TrainingSpec(_Strict):
    """The fields of :class:`dpmi.defenses.Recipe`; a defence may override any of them."""

    steps: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)]
    batch_size: Annotated[int, Field(ge=1)] = 128
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    schedule: Literal["constant", "cosine"] = "constant"


class StudySpec(_Strict):
    """A grid of trials: every defence and strength x every attack x every seed.

    In the table of a defence or an attack, a list of values is a sweep: one trial for each. ``training`` inside a
    defence's table overrides the study's.
    """

    name: Annotated[str, Field(min_length=1)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    data: DataSpec
    model: str
    training: TrainingSpec
    defenses: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]
    attacks: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        """One per model to train, in the order of the file, seeds innermost."""
        plugins = [(d, r) for table in self.defenses for d, r in self._defenses(table)]
        found = tuple(a for table in self.attacks for a in _instances(attacks.get, "attacks", table))
        jobs = tuple(
            Job(data=self.data, model=self.model, defense=d, recipe=r, seed=seed, attacks=found)
            for d, r in plugins
            for seed in self.seeds
        )
        seen: set[str] = set()
        for trial in (trial for job in jobs for trial in job.trials):
            if trial.key in seen:
                raise SpecError(f"{trial.label} is asked for twice; remove one")
            seen.add(trial.key)
        return jobs

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial of every job."""
        return tuple(trial for job in self.jobs for trial in job.trials)

    def _defenses(self, table: Mapping[str, Any]) -> Iterator[tuple[Defense, Recipe]]:
        own = dict(table)
        override = own.pop("training", {})
        training = _validated(TrainingSpec, {**self.training.model_dump(), **override}, "defenses.training")
        for defense in _instances(defenses.get, "defenses", own):
            yield defense, Recipe(**training.model_dump())


@dataclass(frozen=True, kw_only=True)
class Job:
    """One model to train, and the attacks on it."""

    data: DataSpec
    model: str
    defense: Defense
    recipe: Recipe
    seed: int
    attacks: tuple[Attack, ...]

    @cached_property
    def key(self) -> str:
        """Content hash of everything that the trained model depends on."""
        return _hash(
            data=self.data.model_dump(),
            model=self.model,
            defense=_settings(self.defense),
            recipe=dataclasses.asdict(self.recipe),
            seed=self.seed,
        )

    @property
    def trials(self) -> tuple[Trial, ...]:
        """One per attack."""
        return tuple(Trial(job=self, attack=attack) for attack in self.attacks)

    @property
    def label(self) -> str:
        """For progress and error messages."""
        return f"{self.defense.label}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One attack on one trained model."""

    job: Job
    attack: Attack

    @cached_property
    def key(self) -> str:
        """Content hash of everything that the trial depends on: the name of its folder."""
        return _hash(job=self.job.key, attack=_settings(self.attack))

    @property
    def label(self) -> str:
        """For progress and error messages."""
        return f"{self.attack.name} on {self.job.label}"


def read(path: Path) -> str:
    """The text of a study file, checked.

    Raises:
        SpecError: the file is missing, is no TOML, or asks for something that does not exist.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read the study {path}: {error}") from error
    try:
        parse(text)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error
    return text


def parse(text: str) -> StudySpec:
    """The study that a text asks for.

    Raises:
        SpecError: as for :func:`read`.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"not a TOML file: {error}") from error
    spec = _validated(StudySpec, document)
    if spec.data.name not in data.names():
        raise SpecError(_unknown("data.name", spec.data.name, data.names()))
    if spec.model not in models.names():
        raise SpecError(_unknown("model", spec.model, models.names()))
    _ = spec.jobs  # every plug-in and every hyper-parameter is checked here, before anything runs
    return spec


def _instances(get: Any, where: str, table: Mapping[str, Any]) -> Iterator[Any]:
    """One plug-in per combination of the table's lists."""
    own = dict(table)
    name = own.pop("name", None)
    if not isinstance(name, str):
        raise SpecError(f"a table of {where} has no name; add name = \"...\"")
    try:
        plugin = get(name)
    except ValueError as error:
        raise SpecError(f"{where}.name: {error}") from error
    allowed = [f.name for f in dataclasses.fields(plugin)]
    for key in own:
        if key not in allowed:
            raise SpecError(_unknown(f"{where} {name}", key, allowed, what="key"))
    swept = [value if isinstance(value, list) else [value] for value in own.values()]
    for values in itertools.product(*swept):
        try:
            yield plugin(**dict(zip(own, values, strict=True)))
        except (TypeError, ValueError) as error:
            raise SpecError(f"{where} {name}: {error}") from error


def _validated(model: type[Model], document: Mapping[str, Any], where: str = "") -> Model:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in (*([where] if where else []), *first["loc"]))
        if first["type"] == "extra_forbidden":
            known = _fields_at(model, first["loc"][:-1])
            raise SpecError(_unknown(path.rpartition(".")[0] or "study", first["loc"][-1], known, what="key")) from None
        value = "" if first["type"] == "missing" else f" is {first['input']!r}:"
        raise SpecError(f"{path}{value} {first['msg'].lower()}") from None


def _fields_at(model: type[BaseModel], loc: Iterable[str | int]) -> list[str]:
    for part in loc:
        annotation = model.model_fields[str(part)].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return list(model.model_fields)


def _unknown(where: str, value: object, known: Iterable[str], *, what: str = "name") -> str:
    known = list(known)
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{where}: unknown {what} {value!r}{hint} (known: {', '.join(known)})"


def _settings(plugin: Defense | Attack) -> dict[str, Any]:
    return {"name": plugin.name, **{f.name: getattr(plugin, f.name) for f in dataclasses.fields(plugin)}}


def _hash(**content: Any) -> str:
    # repr is exact for floats and stable for frozen dataclasses, so equal content means equal text.
    text = json.dumps(content, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
