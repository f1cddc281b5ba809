"""The tables of a study file and their allowed values."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Hashable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from dpmi.data.halves import HalfDraw, Unit
from dpmi.data.roles import FEWEST, FirstRoles, RoleDraw
from dpmi.defenses import Augmentation, Recipe
from dpmi.key_settings import without_later
from dpmi.metrics import Scorer
from dpmi.metrics.knowledge import BATCH_SIZE, EPOCHS, LEARNING_RATE
from dpmi.models import NORMALIZATIONS, check_normalization
from dpmi.models.weights import TORCHVISION
from dpmi.precision import Precision

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Model = TypeVar("Model", bound=BaseModel)


class SpecError(ValueError):
    """An invalid study file; the message names the key, its value and the allowed values.

    >>> from dpmi.study import parse
    >>> try:
    ...     parse('model = "softmax"')
    ... except SpecError as error:
    ...     print(error)
    name is missing
    """


LARGEST = 10**9
"""Upper limit of every count: steps, iterations, images. A study with more would never finish."""

FLOAT32 = 3.4e38
"""The largest number that float32 holds."""


class Strict(BaseModel):
    """A table that rejects unknown keys and wrong types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class UsersSpec(Strict):
    """Synthetic users of a data set without users; see :func:`dpmi.data.users.with_users`."""

    size: Annotated[int, Field(ge=1, le=LARGEST)] | Literal["zipf"]
    """Images per user, or "zipf"."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


OWN = ("folder", "table")
"""The data sets of the user's own files, each named by the option that names the file."""


class PublicSpec(Strict):
    """Public images from another collection: a folder of images, or all images of another data set's private classes.

    A name alone stands for a table with that name. They get the shape of the private images; images that equal private
    ones are left out.
    """

    folder: Annotated[str, Field(min_length=1)] | None = None
    """A folder of images, or of one subfolder per class; a relative path begins at the current folder."""
    crop: Annotated[int, Field(ge=1, le=LARGEST)] | None = None
    """Side of a central crop of the folder's images, in pixels, before they are resized; default: no crop."""
    name: str | None = None
    options: dict[str, Hashable] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        return _with_tuples({"name": value} if isinstance(value, str) else value)

    @model_validator(mode="after")
    def _check(self) -> PublicSpec:
        if (self.folder is None) == (self.name is None):
            raise ValueError("it must have a folder, or the name of a data set; not both")
        if (self.folder is not None and self.options) or (self.name is not None and self.crop is not None):
            raise ValueError("crop is for a folder, options are for a data set")
        return self


def _with_tuples(table: Any) -> Any:
    """A table whose options are hashable: TOML has lists and no tuples."""
    if not isinstance(table, dict) or not isinstance(table.get("options"), dict):
        return table
    options = {key: tuple(v) if isinstance(v, list) else v for key, v in table["options"].items()}
    return {**table, "options": options}


class DataSpec(Strict):
    """The data set, the options of its loader, its public images, and the users that its training images belong to.

    A name alone stands for a table with that name. A table with the key ``folder`` or ``table`` is the data set of that
    name, and its other keys are options.
    """

    name: str
    options: dict[str, Hashable] = Field(default_factory=dict)
    public: PublicSpec | None = None
    """Public images in place of those of the data set."""
    users: UsersSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"name": value}
        own = [key for key in OWN if isinstance(value, dict) and key in value]
        if own and "name" not in value and "options" not in value:
            users = {"users": value["users"]} if "users" in value else {}
            value = {
                "name": own[0],
                "options": {key: each for key, each in value.items() if key != "users"},
                **users,
            }
        return _with_tuples(value)


FIXED_FEATURES = ("scatter", "efficientnet-lite0", "faceres")
"""Extractors with a name of their own that a study does not train."""


class FeaturesSpec(Strict):
    """A frozen public extractor in front of the model, which then is a small head; see :mod:`dpmi.models.features`.

    The name is one of

    - ``public``: a small network trained on the labelled public images of the study's data set;
    - a data set, such as ``omniglot``: the same, trained on all its images;
    - ``folder:PATH``: the same, on the images of a folder with one subfolder per class;
    - ``scatter``: the scattering transform, which is not trained;
    - ``torchvision:NAME``: a torchvision classifier, with ``weights``;
    - ``efficientnet-lite0``: trained on ImageNet, with the extra ``features``;
    - ``faceres``: a face recogniser that others trained, with ``weights``;
    - ``module:function``: your own, a function that maps (C, H, W) to an extractor or a module.
    """

    name: Annotated[str, Field(min_length=1)]
    weights: Annotated[str, Field(min_length=1)] | None = None
    """A file of weights, or "torchvision" for a torchvision classifier's default ones; only for that and faceres."""
    dimensions: Annotated[int, Field(ge=1, le=LARGEST)] | None = None
    """Number of leading directions of public features to keep, each scaled to unit variance; default: all features."""
    directions: Literal["variance", "classes"] = "variance"
    """Which directions lead: those in which public features vary most, or those that tell the labelled public classes
    apart, for private classes of the same kind, such as other people's faces."""
    mirrored: bool = False
    """Whether the features are the mean of those of an image and of its mirror image; for photographs."""
    scales: Annotated[int, Field(ge=1, le=16)] = 2
    """Scales of the scattering transform, which averages over 2^scales x 2^scales pixels."""
    side: Annotated[int, Field(ge=32, le=4096)] = 224
    """Side of the images that a network for photographs gets."""
    steps: Annotated[int, Field(ge=1, le=LARGEST)] = 3000
    """Updates of the training on public images."""
    size: Annotated[int, Field(ge=1, le=LARGEST)] = 64
    """Number of features of the network that is trained."""
    maps: bool = False
    """Whether the features are the last maps of its convolutions, which are more general than the ``size`` features
    that are learned from them; with ``dimensions``, for classes that look unlike the public ones."""
    kind: Literal["characters", "photographs"] | None = None
    """How the images of the training are distorted; default: characters for those of Omniglot, else photographs."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the training on public images."""
    trainings: Annotated[int, Field(ge=1, le=LARGEST)] = 1
    """Number of such trainings: the model with seed s has the extractor of seed ``seed + s % trainings``."""

    def of_model(self, seed: int) -> FeaturesSpec:
        """The extractor of the model with this seed."""
        return self.model_copy(update={"seed": self.seed + seed % self.trainings, "trainings": 1})

    @property
    def is_function(self) -> bool:
        """Whether the name is a function of the user."""
        module, colon, function = self.name.partition(":")
        return bool(colon) and module not in ("torchvision", "folder") and bool(function)

    @property
    def is_trained(self) -> bool:
        """Whether the study trains the extractor."""
        return self.name not in FIXED_FEATURES and (":" not in self.name or self.name.startswith("folder:"))

    @property
    def described(self) -> dict[str, Any]:
        """The settings without paths; the digest of the extractor has the content of files."""
        found = without_later(self.model_dump(exclude={"weights", "trainings"}))
        if self.name.startswith("folder:"):
            found["name"] = "folder"
        return found


Device = Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:[0-9]+)?)$")]
"""Where a study computes: the name of a device of torch."""

Outputs = Literal["logits", "probabilities"]
"""What a classifier returns; the logarithms of probabilities take the place of logits."""


class NormalizeSpec(Strict):
    """What the model subtracts from images in [0, 1], and divides them by; see :class:`dpmi.models.Preprocessed`.

    A name of :data:`dpmi.models.NORMALIZATIONS` stands for its numbers.
    """

    mean: tuple[float, ...] = Field(strict=False)
    """One number, or one per channel."""
    std: tuple[float, ...] = Field(strict=False)
    """As many, each above 0."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in NORMALIZATIONS:
            raise ValueError(f"it must be one of {', '.join(NORMALIZATIONS)}, or a table with mean and std")
        mean, std = NORMALIZATIONS[value]
        return {"mean": mean, "std": std}

    @model_validator(mode="after")
    def _check(self) -> NormalizeSpec:
        check_normalization(self.mean, self.std)
        return self


def _transform(value: object) -> object:
    """Build an augmentation from a name, or from a table with the key ``name`` and arguments."""
    if isinstance(value, str):
        return Augmentation(value)
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        options = {key: each for key, each in value.items() if key != "name"}
        if not all(map(str.isidentifier, options)):
            raise ValueError(f"the arguments of {value['name']} must have names, got {list(options)}")
        return Augmentation(value["name"], **options)
    if isinstance(value, Augmentation):
        return value
    raise ValueError("it must be the name of a transform, or a table with name and arguments")


Transform = Annotated[
    InstanceOf[Augmentation],
    BeforeValidator(_transform),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
            ]
        }
    ),
]
"""A transform of torchvision: its name, or a table with ``name`` and its arguments."""


class TrainingSpec(Strict):
    """The fields of :class:`dpmi.defenses.Recipe`; a defence may override any of them."""

    steps: Annotated[int, Field(ge=1, le=LARGEST)]
    learning_rate: Annotated[float, Field(gt=0, lt=FLOAT32)]
    batch_size: Annotated[int, Field(ge=1, le=LARGEST)] = 128
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    schedule: Literal["constant", "cosine", "milestones"] = "constant"
    optimizer: Literal["sgd", "adam"] = "sgd"
    average: Literal["none", "tail", "ema"] = "none"
    weight_decay: Annotated[float, Field(ge=0, lt=FLOAT32)] = 0.0
    warm_up: Annotated[int, Field(ge=0, le=LARGEST)] = 0
    milestones: Annotated[tuple[Annotated[int, Field(ge=1, le=LARGEST)], ...], Field(strict=False)] = ()
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    augmentation: Annotated[tuple[Transform, ...], Field(strict=False)] = ()
    precision: Precision = "float32"

    @model_validator(mode="after")
    def _check(self) -> TrainingSpec:
        self.recipe()
        return self

    def recipe(self) -> Recipe:
        """The recipe with these fields."""
        return Recipe(**dict(self))


class EvaluatorSpec(Strict):
    """The classifier that judges reconstructions; it is never attacked.

    It is trained on the private images (``training``), or was trained by somebody else (``weights``). With ``classes``
    "all" it also learns the classes of the public images, if these have labels, so that it can reject a reconstruction
    that shows no private class. With "private" it must assign a private class.
    """

    model: str
    model_options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of a model of the user."""
    size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Side of its images, to which all images are resized; default: the shape of the study's images."""
    normalize: NormalizeSpec | None = None
    training: TrainingSpec | None = None
    weights: Annotated[str, Field(min_length=1)] | None = None
    """File with the weights of a trained evaluator, instead of ``training``. Its classes are the private ones in their
    order; with ``classes = "all"``, the public ones follow."""
    classes: Literal["all", "private"] = "all"
    """Default with ``weights``: "private"."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1000
    """Seed of its weights and batches; choose one that differs from the seeds of the targets."""

    @model_validator(mode="before")
    @classmethod
    def _classes_of_weights(cls, value: Any) -> Any:
        return {"classes": "private", **value} if isinstance(value, dict) and "weights" in value else value

    @model_validator(mode="after")
    def _check(self) -> EvaluatorSpec:
        if (self.training is None) == (self.weights is None):
            raise ValueError(
                "it must have training, or weights, the file of an evaluator that is trained already; not both"
            )
        if self.weights == TORCHVISION:
            raise ValueError("weights must be a file: those of torchvision do not know the private classes")
        if self.weights is not None and "seed" in self.model_fields_set:
            raise ValueError("seed is the seed of a training, and weights are trained already; leave it out")
        return self

    def __hash__(self) -> int:  # equal specs have equal models; the options are a dict, which has no hash
        return hash((self.model, self.seed))


class StrangersSpec(Strict):
    """The files of face recognisers that others trained, which judge too; see :mod:`dpmi.metrics.strangers`.

    One or both; a relative path begins at the current folder. A change of their content measures all trials again.
    """

    faceres: Annotated[str, Field(min_length=1)] | None = None
    """The file ``faceres-deep.json``, with its ``.bin`` beside it."""
    sface: Annotated[str, Field(min_length=1)] | None = None
    """The ``.onnx`` file of SFace; it needs the extra ``strangers``."""

    @model_validator(mode="after")
    def _check(self) -> StrangersSpec:
        if self.faceres is None and self.sface is None:
            raise ValueError("it must name the file of faceres or sface, or both")
        return self


class KnowledgeSpec(Strict):
    """The student of the knowledge extraction score, which learns from the reconstructions alone.

    See :func:`dpmi.metrics.knowledge_extraction`. Scores are comparable only for the same student.
    """

    model: str
    """A model as for the target; the published scores are of "torchvision/resnet50"."""
    epochs: Annotated[int, Field(ge=1, le=LARGEST)] = EPOCHS
    """Passes over the reconstructions."""
    batch_size: Annotated[int, Field(ge=1, le=LARGEST)] = BATCH_SIZE
    learning_rate: Annotated[float, Field(gt=0, lt=FLOAT32)] = LEARNING_RATE
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class LinkageSpec(Strict):
    """Divides the classes of the data set into private classes and decoys; see :mod:`dpmi.metrics.linkage`.

    Every two seeds share one random order of the classes: 2j uses it as drawn, and 2j + 1 with swapped roles.
    """

    scorer: Scorer = "whitened"
    """The scorer whose columns have no suffix."""
    private: Annotated[int, Field(ge=FEWEST, le=LARGEST)] | None = None
    """Number of private classes; default: half of the classes."""
    decoys: Annotated[int, Field(ge=FEWEST, le=LARGEST)] | None = None
    """Number of decoys; default: as many, or all other classes if ``private`` is given."""
    drawn: bool = True
    """Whether chance decides which classes are private. If not, these are the first ``private`` classes, as for a
    checkpoint, which was trained on certain classes."""

    @model_validator(mode="after")
    def _check(self) -> LinkageSpec:
        if not self.drawn and self.private is None:
            raise ValueError("drawn = false needs private, the number of leading classes that are private")
        return self

    def draw(self, seed: int) -> RoleDraw | FirstRoles:
        """How the roles of the model with this seed are drawn."""
        if not self.drawn:
            assert self.private is not None
            return FirstRoles(private=self.private, decoys=self.decoys)
        return RoleDraw(seed=seed // 2, swapped=seed % 2 == 1, private=self.private, decoys=self.decoys)


class UnitsSpec(Strict):
    """Trains every model on a random half of the units, and measures whether it tells which half; the unit game.

    :mod:`dpmi.metrics.unit_game` defines the measure and its bound. Every two seeds share one random half: 2j trains on
    it, and 2j + 1 on the other half. MIA distances are to the private images of both halves, so all models of a study
    share their baselines.
    """

    unit: Unit
    """What one unit is; subclasses and users are the buckets of subclass-dp and user-dp."""
    clusters_per_class: Annotated[int, Field(ge=2, le=LARGEST)] = 20
    """Number of subclasses of each class, found by k-means in both halves; only for the unit "subclass"."""
    references: Literal["auditor", "attacker"] = "auditor"
    """Models trained without the unit: "auditor" uses other models of the study, which were trained on private images.
    "attacker" trains models on public images with the labels that the target gives them."""
    count: Annotated[int, Field(ge=1, le=LARGEST)] = 4
    """Number of reference models of an attacker."""

    def draw(self, seed: int) -> HalfDraw:
        """How the half of the model with this seed is drawn."""
        return HalfDraw(seed=seed // 2, complement=seed % 2 == 1)

    @property
    def division(self) -> str:
        """What determines the units of a data set, as text."""
        return f"{self.clusters_per_class} subclasses per class" if self.unit == "subclass" else self.unit


class AuditSpec(Strict):
    """Trains the models of class-dp, subclass-dp and user-dp with canaries; see :mod:`dpmi.privacy.audit`."""

    canaries: Annotated[int, Field(ge=2, le=LARGEST)] = 200
    """Number of canary buckets, at most a twentieth of the trained parameters."""


class BudgetSpec(Strict):
    """Limits of every attack on one target; the fields of :class:`dpmi.attacks.Budget`."""

    queries: Annotated[int, Field(ge=1)] | None = None
    grad_calls: Annotated[int, Field(ge=1)] | None = None
    seconds: Annotated[float, Field(gt=0)] | None = None


def load_toml(text: str) -> dict[str, Any]:
    """Parse TOML without checking its content.

    Raises:
        SpecError: the text is not TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"not a TOML file: {error}") from error


def validated(model: type[Model], document: Mapping[str, Any], where: str = "") -> Model:
    """Validate a document; a SpecError names the first wrong key, and an unknown one before one that is missing."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        path = ".".join(str(part) for part in (*([where] if where else []), *first["loc"]))
        if first["type"] == "extra_forbidden":
            known = _fields_at(model, first["loc"][:-1])
            raise SpecError(
                unknown(path.rpartition(".")[0] or "study", first["loc"][-1], known, what="key")
            ) from None
        if first["type"] == "missing":
            raise SpecError(f"{path} is missing") from None
        raise SpecError(f"{path} is {first['input']!r}: {in_toml(first['msg'])}") from None


def in_toml(message: str) -> str:
    """Translate a message of pydantic into the terms of TOML."""
    message = re.sub(r"dictionary( or instance of \w+)?", "table", message)
    message = re.sub(r"[Tt]uple", "list", message)
    message = re.sub(r"^Value error, | after validation", "", message)
    return message[0].lower() + message[1:]


def _fields_at(model: type[BaseModel], loc: Iterable[str | int]) -> list[str]:
    for part in loc:
        annotation = model.model_fields[str(part)].annotation
        for kind in (annotation, *get_args(annotation)):  # an optional table has two
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                model = kind
    return list(model.model_fields)


def unknown(where: str, value: object, known: Iterable[str], *, what: str = "name") -> str:
    """The error message for an unknown name or key, with the most similar known one."""
    known = list(known)
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{where}: unknown {what} {value!r}{hint} (known: {', '.join(known)})"
