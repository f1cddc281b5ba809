"""A study file in TOML: its check before anything runs, and its expansion into jobs and trials."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from dpmi import attacks, data, defenses, models
from dpmi.by_name import is_name
from dpmi.defenses import Defense, Recipe

from .content import Content
from .grid import Job, Trial, settings_of, told_apart
from .spec import (
    FIXED_FEATURES,
    LARGEST,
    AuditSpec,
    BudgetSpec,
    DataSpec,
    Device,
    EvaluatorSpec,
    FeaturesSpec,
    KnowledgeSpec,
    LinkageSpec,
    NormalizeSpec,
    Outputs,
    SpecError,
    StrangersSpec,
    Strict,
    TrainingSpec,
    UnitsSpec,
    load_toml,
    unknown,
    validated,
)
from .sweeps import check_types, instances

REPORTED = (
    "the results of this study: accuracies, diagnostics, distances and example images are computed from the private "
    "records without noise; the guarantee covers the model only"
)

# TOML has lists and no tuples.
_AtLeastOne = Field(min_length=1, strict=False)


GIVEN = "given model"
"""Name of the model of a checkpoint in tables and figures."""

#: Stands for the recipe of a checkpoint; nothing reads its numbers.
_NOT_TRAINED = Recipe(steps=1, learning_rate=1.0)


def _one_line(name: str) -> str:
    if not name.isprintable():
        raise ValueError("it must be one line of printable characters")
    return name


def _named(features: object) -> object:
    return {"name": features} if isinstance(features, str) else features


class StudySpec(Strict):
    """A grid of trials: every defence and strength x every attack x every seed.

    In the table of a defence or an attack, a list of values is a sweep with one trial per value. ``training`` inside
    the table of a defence overrides the training of the study. ``model_options`` are further arguments of a model of
    the user. ``weights`` names the initial weights, as in :func:`dpmi.models.load_weights`: "torchvision" or a file,
    with an absolute path if other machines compute too. If the content of the file changes, all trials run again.
    ``checkpoint`` names a file with the weights of a trained model, which is attacked as it is; such a study has no
    training and no defences. ``normalize`` and ``outputs`` say what the model expects and returns; see
    :class:`dpmi.models.Preprocessed`. ``features`` puts a frozen public extractor in front of the model, which then is
    a head on its features; a name alone stands for a table with that name. ``adaptive`` adds the adaptive attacks: it
    repeats every attack with each of :meth:`dpmi.defenses.Defense.adaptations` that applies to it. ``strangers`` names
    the files of face recognisers that others trained, which judge reconstructions of faces too. ``knowledge`` is the
    student of the knowledge extraction score, and ``lpips`` adds the LPIPS distance, which needs torchvision's weights
    of AlexNet. ``classes`` attacks only so many classes of each model, drawn by its seed; default: all. ``device`` is
    where models are trained and attacked; a GPU rounds differently, and the keys of results do not depend on it.
    ``linkage`` trains every model on some of the classes, drawn by its seed, and measures whether reconstructions
    identify their classes among the others. ``units`` trains every model on half of the subclasses, records or users,
    drawn by its seed, and measures whether the model tells which. ``audit`` trains the models of dpmi's own privacy
    engine with canaries, and measures which epsilon they have at least. ``matched_on`` is the target on which
    :mod:`dpmi.study.match` matched the strengths; reports show it, and it does not change any result.

    >>> spec = parse('''
    ... name = "grid"
    ... seeds = [0, 1, 2]
    ... data = { name = "digits" }
    ... model = "softmax"
    ... training = { steps = 100, learning_rate = 0.3 }
    ... defenses = [{ name = "none" }, { name = "random-erasing", max_area = [0.2, 0.4] }]
    ... attacks = [{ name = "miface" }, { name = "label-mean" }]
    ... ''')
    >>> len(spec.jobs), len(spec.trials)  # 3 defences and strengths, each with 3 seeds; 2 attacks
    (9, 18)
    >>> spec.trials[-1].label
    'label-mean on random-erasing, max area 0.4, seed 2'
    """

    name: Annotated[str, Field(min_length=1), AfterValidator(_one_line)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], _AtLeastOne]
    data: DataSpec
    model: str
    model_options: dict[str, Any] = Field(default_factory=dict)
    weights: Annotated[str, Field(min_length=1)] | None = None
    checkpoint: Annotated[str, Field(min_length=1)] | None = None
    normalize: NormalizeSpec | None = None
    outputs: Outputs = "logits"
    features: Annotated[FeaturesSpec | None, BeforeValidator(_named)] = None
    training: TrainingSpec | None = None
    defenses: Annotated[tuple[dict[str, Any], ...], _AtLeastOne] = ({"name": "none"},)
    attacks: Annotated[tuple[dict[str, Any], ...], _AtLeastOne]
    evaluator: EvaluatorSpec | None = None
    strangers: StrangersSpec | None = None
    knowledge: KnowledgeSpec | None = None
    lpips: bool = False
    budget: BudgetSpec | None = None
    adaptive: bool = False
    classes: Annotated[int, Field(ge=2, le=LARGEST)] | None = None
    device: Device = "cpu"
    linkage: LinkageSpec | None = None
    units: UnitsSpec | None = None
    audit: AuditSpec | None = None
    matched_on: Annotated[str, Field(pattern=r"^(accuracy|epsilon) [0-9][0-9.e+-]*$")] | None = None

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        """One per model to train, in the order of the file, seeds innermost."""
        plugins = [(d, r) for table in self.defenses for d, r in self._defenses(table)]
        found = tuple(a for table in self.attacks for a in instances(attacks.get, "attacks", table))
        settings = told_apart([(d.label, {**settings_of(d), **dataclasses.asdict(r)}) for d, r in plugins])
        if self.checkpoint is not None:
            settings = (GIVEN,)
        attack_labels = told_apart([(a.name, settings_of(a)) for a in found])
        jobs = tuple(
            Job(
                data=self.data,
                model=self.model,
                model_options=tuple(sorted(self.model_options.items())),
                weights=self.weights if self.checkpoint is None else self.checkpoint,
                given=self.checkpoint is not None,
                normalize=self.normalize,
                outputs=self.outputs,
                features=None if self.features is None else self.features.of_model(seed),
                defense=defense,
                recipe=recipe,
                seed=seed,
                attacks=found,
                setting=setting,
                attack_labels=attack_labels,
                evaluator=self.evaluator,
                strangers=self.strangers,
                knowledge=self.knowledge,
                lpips=self.lpips,
                budget=self.budget,
                adaptive=self.adaptive,
                classes=self.classes,
                device=self.device,
                linkage=self.linkage,
                units=self.units,
                audit=self.audit,
                seeds=self.seeds,
            )
            for (defense, recipe), setting in zip(plugins, settings, strict=True)
            for seed in self.seeds
        )
        seen: set[tuple[str, str]] = set()
        for trial in (trial for job in jobs for trial in job.trials):
            asked = (trial.job.settings, trial.settings)
            if asked in seen:
                raise SpecError(f"{trial.label} occurs twice in the study; remove one")
            seen.add(asked)
        return jobs

    def jobs_on(self, content: Content) -> tuple[Job, ...]:
        """The same jobs, with keys.

        Args:
            content: digests of the data and the weights.
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
        """Uses of the private records that no epsilon covers, for the privacy statements of the models."""
        found = [REPORTED]
        if self.data.name == "table" and self.data.options.get("public") is None:
            found.append(
                "the smallest and largest value of every number of the table, and the values of every category: they "
                "scale the inputs of the model, and come from the private rows because no public table was given"
            )
        if self.weights is not None:
            found.append(f"the records on which the initial weights {self.weights} were trained")
        if self.units is not None and self.units.unit == "subclass":
            found.append(
                "the division of the private images into subclasses by k-means, which the guarantee takes as given"
            )
        if self.matched_on is not None and self.matched_on.startswith("accuracy "):
            found.append(
                f"the choice of the noise multiplier: it was matched on {self.matched_on} on the test set, and the "
                "models of that search were trained on the private records without being charged"
            )
        return tuple(found)

    def _defenses(self, table: Mapping[str, Any]) -> Iterator[tuple[Defense, Recipe]]:
        if self.checkpoint is not None:
            yield defenses.NoDefense(), _NOT_TRAINED
            return
        own = dict(table)
        override = own.pop("training", {})
        if not isinstance(override, dict):
            raise SpecError(f"defenses.training is {override!r}: it must be a table with keys of [training]")
        general = {} if self.training is None else dict(self.training)
        training = validated(TrainingSpec, {**general, **override}, "defenses.training")
        for defense in instances(defenses.get, "defenses", own):
            yield defense, training.recipe()


def read(path: Path, check: Callable[[str], object] | None = None) -> str:
    """Read and check a study file; return its text.

    Args:
        path: path of the file.
        check: called with the text; default: :func:`parse`.

    Raises:
        SpecError: the file is missing, is not TOML, or is not a valid study.

    >>> try:
    ...     read(Path("study.toml"))
    ... except SpecError as error:
    ...     print(error)
    study study.toml cannot be read: No such file or directory; give a TOML file
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"study {path} cannot be read: {error.strerror}; give a TOML file") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"study {path} is not a TOML file: {error}") from error
    try:
        (check or parse)(text)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error
    return text


def parse(text: str) -> StudySpec:
    """Parse the text of a study file.

    Raises:
        SpecError: the text is not TOML or is not a valid study.
    """
    return checked(load_toml(text))


def checked(document: Mapping[str, Any]) -> StudySpec:
    """Validate a parsed study file.

    Raises:
        SpecError: a key, a value or a name is wrong.
    """
    spec = validated(StudySpec, document)
    loader = _check_data("data", spec.data.name, spec.data.options)
    if spec.data.public is not None:
        if "public" in inspect.signature(loader).parameters:
            raise SpecError(
                f"data.public: the data set {spec.data.name!r} has an option public of its own; give it in options"
            )
        if spec.data.public.name is not None:
            _check_data("data.public", spec.data.public.name, spec.data.public.options)
    try:
        models.check_name(spec.model)
        models.check_options(spec.model, spec.model_options)
        if spec.evaluator is not None:
            models.check_name(spec.evaluator.model)
            models.check_options(spec.evaluator.model, spec.evaluator.model_options)
        for source in (spec.weights, spec.checkpoint):
            if source is not None:
                models.check_source(source, spec.model)
    except ValueError as error:
        raise SpecError(f"model: {error}") from error
    _check_checkpoint(spec)
    _check_features(spec)
    _check_units(spec)
    jobs = spec.jobs  # checks every plug-in and every hyper-parameter
    if spec.audit is not None and not any(job.audited for job in jobs):
        raise SpecError(
            "audit is given, but no defence of the study can be audited; add class-dp, subclass-dp or user-dp, or "
            "leave audit out"
        )
    return spec


def _check_data(where: str, name: str, options: Mapping[str, Any]) -> Callable[..., Any]:
    """Check the name and the options of a data set, and return its loader."""
    if name not in data.names() and not is_name(name):
        raise SpecError(unknown(f"{where}.name", name, data.names()))
    try:
        loader = data.check_options(name, options)
    except ValueError as error:
        raise SpecError(f"{where}: {error}") from error
    check_types(loader, options, where=f"{where}.options")
    return loader


def _check_checkpoint(spec: StudySpec) -> None:
    if spec.checkpoint is None:
        if spec.training is None:
            raise SpecError("training is missing; or give checkpoint, the file of a trained model")
        if spec.linkage is not None and not spec.linkage.drawn:
            raise SpecError(
                "linkage.drawn is false: only the classes of a checkpoint are fixed; leave it out"
            )
        return
    for name in ("training", "defenses", "weights", "features", "units", "audit", "matched_on"):
        if name in spec.model_fields_set:
            raise SpecError(
                f"{name} is given, but the model of a checkpoint is trained already; leave {name} out"
            )
    if spec.linkage is not None and spec.linkage.drawn:
        raise SpecError(
            "linkage.drawn is true, but chance cannot draw the classes of a checkpoint; give drawn = false, and "
            "private, the number of its classes, which come first in the data set"
        )


#: Settings of an extractor, and what it is for.
_TRAINED_ONLY = ("steps", "size", "maps", "kind", "seed", "trainings")


def _check_features(spec: StudySpec) -> None:
    found = spec.features
    if found is None:
        return
    if spec.normalize is not None or spec.outputs != "logits":
        raise SpecError(
            "normalize and outputs are of a model of your own; an extractor takes images in [0, 1]"
        )
    if spec.weights is not None:
        raise SpecError("weights are initial weights of a whole model; with features, give features.weights")
    photographs = found.name.startswith("torchvision:")
    if (
        found.is_trained
        and not found.name.startswith("folder:")
        and found.name != "public"
        and found.name not in data.names()
    ):
        known = ["public", *FIXED_FEATURES, *data.names()]
        raise SpecError(
            f"{unknown('features.name', found.name, known)}; also torchvision:NAME, folder:PATH and module:function"
        )
    if photographs and found.weights is None:
        raise SpecError(
            f"features.weights is missing: {found.name} needs a file of weights, or 'torchvision' for its default ones"
        )
    if found.name == "faceres" and found.weights is None:
        raise SpecError("features.weights is missing: faceres needs its file, faceres-deep.json")
    if found.name == "faceres" and spec.strangers is not None and spec.strangers.faceres is not None:
        raise SpecError(
            "strangers.faceres would judge models that are built on it, and be no stranger; leave it out, or give "
            "strangers.sface"
        )
    if found.directions == "classes" and found.dimensions is None:
        raise SpecError(
            "features.dimensions is missing: features.directions = 'classes' chooses which ones to keep"
        )
    allowed = {
        "weights": photographs or found.name == "faceres",
        "scales": found.name == "scatter",
        "side": photographs or found.name == "efficientnet-lite0",
        **dict.fromkeys(_TRAINED_ONLY, found.is_trained),
    }
    for name in found.model_fields_set:
        if not allowed.get(name, True):
            raise SpecError(f"features.{name} has no meaning for features {found.name!r}; leave it out")


def _check_units(spec: StudySpec) -> None:
    if spec.units is None:
        return
    if spec.linkage is not None:
        raise SpecError(
            "linkage and units are two games, which train the models on different images; give one of them"
        )
    pairs = {seed // 2 for seed in spec.seeds if seed ^ 1 in spec.seeds}
    if spec.units.references == "auditor" and len(pairs) < 2:
        raise SpecError(
            f"seeds must hold at least 2 whole pairs 2j, 2j + 1, such as [0, 1, 2, 3], because the models of one pair "
            f"are the references of the others; got {list(spec.seeds)}. Give more seeds, or units.references = "
            "'attacker'"
        )
