"""The tables of a study file and what each may hold."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Hashable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Model = TypeVar("Model", bound=BaseModel)


class SpecError(ValueError):
    """A study that cannot be run as it is written; the message names key, value and what is allowed."""


LARGEST = 10**9
"""Of whatever is counted: steps, iterations, images. No study that asks for more would ever end."""

FLOAT32 = 3.4e38
"""The largest number that float32 holds."""


class Strict(BaseModel):
    """A table of which every key and every type is known."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DataSpec(Strict):
    """Which data set, and the options of its loader."""

    name: str
    options: dict[str, Hashable] = Field(default_factory=dict)


class TrainingSpec(Strict):
    """The fields of :class:`dpmi.defenses.Recipe`; a defence may override any of them."""

    steps: Annotated[int, Field(ge=1, le=LARGEST)]
    learning_rate: Annotated[float, Field(gt=0, lt=FLOAT32)]
    batch_size: Annotated[int, Field(ge=1, le=LARGEST)] = 128
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    schedule: Literal["constant", "cosine"] = "constant"
    optimizer: Literal["sgd", "adam"] = "sgd"


class EvaluatorSpec(Strict):
    """The classifier that judges reconstructions, trained on the private images and never attacked.

    ``classes`` "all" gives it the classes of the public images too, where these have some, so that it can say of a
    reconstruction that it shows none of the private classes; "private" makes it choose among these.
    """

    model: str
    training: TrainingSpec
    classes: Literal["all", "private"] = "all"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1000
    """Of its weights and batches; another than the targets' seeds."""


class BudgetSpec(Strict):
    """What every attack may spend on a target, as :class:`dpmi.attacks.Budget`."""

    queries: Annotated[int, Field(ge=1)] | None = None
    grad_calls: Annotated[int, Field(ge=1)] | None = None
    seconds: Annotated[float, Field(gt=0)] | None = None


def load_toml(text: str) -> dict[str, Any]:
    """The document that a text holds, whatever it asks for.

    Raises:
        SpecError: it is no TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"not a TOML file: {error}") from error


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
                unknown(path.rpartition(".")[0] or "study", first["loc"][-1], known, what="key")
            ) from None
        if first["type"] == "missing":
            raise SpecError(f"{path} is missing") from None
        raise SpecError(f"{path} is {first['input']!r}: {in_toml(first['msg'])}") from None


def in_toml(message: str) -> str:
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


def unknown(where: str, value: object, known: Iterable[str], *, what: str = "name") -> str:
    """The message about a name or key that does not exist, with the nearest one that does."""
    known = list(known)
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{where}: unknown {what} {value!r}{hint} (known: {', '.join(known)})"
