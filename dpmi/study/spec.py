"""What a study asks for: a TOML file, checked before anything runs, and the trials that it expands to."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import re
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from dpmi import attacks, data, defenses, models
from dpmi.defenses import Defense, Recipe

from .content import Content
from .jobs import Job, Trial, settings_of, told_apart

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


Model = TypeVar("Model", bound=BaseModel)


REPORTED = (
    "the numbers and pictures of this study itself: accuracies, diagnostics, distances and example images come from "
    "the private records without noise; the promise is about the model"
)


class SpecError(ValueError):
    """A study that cannot be run as it is written; the message names key, value and what is allowed."""


#: Of whatever is counted: steps, iterations, images. No study that asks for more would ever end.
_LARGEST = 10**9

#: Of a number that is none of float32.
_FLOAT32 = 3.4e38

# TOML has lists and no tuples.
_AtLeastOne = Field(min_length=1, strict=False)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DataSpec(_Strict):
    """Which data set, and the options of its loader."""

    name: str
    options: dict[str, Hashable] = Field(default_factory=dict)


class TrainingSpec(_Strict):
    """The fields of :class:`dpmi.defenses.Recipe`; a defence may override any of them."""

    steps: Annotated[int, Field(ge=1, le=_LARGEST)]
    learning_rate: Annotated[float, Field(gt=0, lt=_FLOAT32)]
    batch_size: Annotated[int, Field(ge=1, le=_LARGEST)] = 128
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    schedule: Literal["constant", "cosine"] = "constant"
    optimizer: Literal["sgd", "adam"] = "sgd"


class EvaluatorSpec(_Strict):
    """The classifier that judges reconstructions, trained on the private images and never attacked.

    ``classes`` "all" gives it the classes of the public images too, where these have some, so that it can say of a
    reconstruction that it shows none of the private classes; "private" makes it choose among these.
    """

    model: str
    training: TrainingSpec
    classes: Literal["all", "private"] = "all"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1000
    """Of its weights and batches; another than the targets' seeds."""


class BudgetSpec(_Strict):
    """What every attack may spend on a target, as :class:`dpmi.attacks.Budget`."""

    queries: Annotated[int, Field(ge=1)] | None = None
    grad_calls: Annotated[int, Field(ge=1)] | None = None
    seconds: Annotated[float, Field(gt=0)] | None = None


def _one_line(name: str) -> str:
    if not name.isprintable():
        raise ValueError("it must be one line of printable characters")
    return name


class StudySpec(_Strict):
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
        found = tuple(a for table in self.attacks for a in _instances(attacks.get, "attacks", table))
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
        for defense in _instances(defenses.get, "defenses", own):
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


def load_toml(text: str) -> dict[str, Any]:
    """The document that a text holds, whatever it asks for.

    Raises:
        SpecError: it is no TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"not a TOML file: {error}") from error


def checked(document: Mapping[str, Any]) -> StudySpec:
    """The study that a document asks for.

    Raises:
        SpecError: it asks for something that does not exist.
    """
    spec = validated(StudySpec, document)
    if spec.data.name not in data.names():
        raise SpecError(_unknown("data.name", spec.data.name, data.names()))
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


def _instances(get: Any, where: str, table: Mapping[str, Any]) -> Iterator[Any]:
    """One plug-in per combination of the table's lists."""
    own = dict(table)
    name = own.pop("name", None)
    if not isinstance(name, str):
        raise SpecError(f'a table of {where} has no name; add name = "..."')
    try:
        plugin = get(name)
    except ValueError as error:
        raise SpecError(f"{where}.name: {error}") from error
    fields = dataclasses.fields(plugin)
    types = get_type_hints(plugin)
    swept = []
    for key, value in own.items():
        if key not in {f.name for f in fields}:
            raise SpecError(_unknown(f"{where} {name}", key, (f.name for f in fields), what="key"))
        if value == []:
            raise SpecError(f"{where} {name}: {key} is []: a sweep needs at least 1 value")
        values = value if isinstance(value, list) else [value]
        swept.append([_typed(f"{where} {name}: {key}", types[key], v) for v in values])
    for f in fields:
        if f.name not in own and f.default is f.default_factory is dataclasses.MISSING:
            raise SpecError(f"{where} {name}: {f.name} is missing")
    for combination in itertools.product(*swept):
        try:
            yield plugin(**dict(zip(own, combination, strict=True)))
        except (TypeError, ValueError) as error:
            raise SpecError(f"{where} {name}: {error}") from error


def _typed(where: str, expected: Any, value: Any) -> Any:
    """The value as a field of a plug-in holds it: 1 and 1.0 are one setting, and have one key."""
    if dataclasses.is_dataclass(expected) and isinstance(value, dict):
        return _nested(where, expected, value)
    most = _FLOAT32 if isinstance(value, float) else 2**63 - 1 if where.endswith("seed") else _LARGEST
    if isinstance(value, int | float) and most < abs(value) < math.inf:
        raise SpecError(f"{where} is {value!r}: it can be {most} at most")
    try:
        # A list inside the list of a sweep: TOML has no tuples.
        return TypeAdapter(expected).validate_python(
            tuple(value) if isinstance(value, list) else value, strict=True
        )
    except ValidationError as error:
        raise SpecError(f"{where} is {value!r}: {_in_toml(error.errors()[0]['msg'])}") from None


def _nested(where: str, expected: Any, table: Mapping[str, Any]) -> Any:
    """A table inside a plug-in's table, such as the settings of an attack's prior."""
    types = get_type_hints(expected)
    known = [f.name for f in dataclasses.fields(expected)]
    for key in table:
        if key not in known:
            raise SpecError(_unknown(where, key, known, what="key"))
    typed = {key: _typed(f"{where}.{key}", types[key], value) for key, value in table.items()}
    try:
        return expected(**typed)
    except (TypeError, ValueError) as error:
        raise SpecError(f"{where}: {error}") from error


def validated(model: type[Model], document: Mapping[str, Any], where: str = "") -> Model:
    """The document as the model holds it; a SpecError says where it does not fit."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in (*([where] if where else []), *first["loc"]))
        if first["type"] == "extra_forbidden":
            known = _fields_at(model, first["loc"][:-1])
            raise SpecError(
                _unknown(path.rpartition(".")[0] or "study", first["loc"][-1], known, what="key")
            ) from None
        if first["type"] == "missing":
            raise SpecError(f"{path} is missing") from None
        raise SpecError(f"{path} is {first['input']!r}: {_in_toml(first['msg'])}") from None


def _in_toml(message: str) -> str:
    """A message of pydantic's in the words of the file."""
    message = re.sub(r"dictionary( or instance of \w+)?", "table", message)
    message = re.sub(r"[Tt]uple", "list", message)
    message = re.sub(r"^Value error, | after validation", "", message)
    return message[0].lower() + message[1:]


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
