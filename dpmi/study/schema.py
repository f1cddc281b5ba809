"""What every column of a study's tables is; docs/tables.md is printed from it.

Raise :data:`VERSION` whenever a column gets another meaning, unit or name; it stands in the metadata of the Parquet
files, under ``dpmi.schema``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import pandas as pd

VERSION = 1

Kind = Literal["text", "integer", "number"]


class Column(NamedTuple):
    """One column.

    Args:
        name: in the header; of a family such as ``diagnostic_*`` what its names begin with, and a star.
        kind: of its values; a number may be NaN where it does not apply.
        unit: of its values; empty for texts and pure numbers.
        low: the smallest possible value.
        high: the largest one.
        meaning: in one sentence.
    """

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf

    @property
    def range(self) -> str:
        """In words; empty for texts."""
        if self.kind == "text":
            return ""
        if self.low == -math.inf:
            return "any" if self.high == math.inf else f"at most {self.high:g}"
        return f"at least {self.low:g}" if self.high == math.inf else f"{self.low:g} to {self.high:g}"


def _text(name: str, meaning: str) -> Column:
    return Column(name, "text", meaning)


def _share(name: str, meaning: str) -> Column:
    return Column(name, "number", meaning, "share", 0.0, 1.0)


def _number(name: str, meaning: str, unit: str = "", low: float = 0.0) -> Column:
    return Column(name, "number", meaning, unit, low)


def _count(name: str, meaning: str, unit: str, low: float = 0.0) -> Column:
    return Column(name, "integer", meaning, unit, low)


_DISTANCE = "of the data set's MIA distance, see distance_kind"

_OF_CLASSES = (
    _number(
        "distance",
        "MIA distance of the reconstructions to the private images of their class; less is more alike",
        _DISTANCE,
    ),
    _number("distance_blank", "MIA distance of the best image of one brightness", _DISTANCE),
    _number("distance_public_mean", "MIA distance of the mean of the attacker's public images", _DISTANCE),
    _number(
        "distance_public_nearest", "MIA distance of the public image that is nearest to the class", _DISTANCE
    ),
    Column(
        "advantage",
        "number",
        "share of the distance without the model that the attack saved; 0: nothing, 1: all",
        "",
        -math.inf,
        1.0,
    ),
    Column(
        "advantage_over_nearest",
        "number",
        "the same against the nearest public image, which an attacker cannot pick",
        "",
        -math.inf,
        1.0,
    ),
    _share("score", "the target's confidence in the class of its reconstructions"),
)
_OF_AN_EVALUATOR = (
    _share("attack_accuracy", "share of the reconstructions that the evaluator takes for their class"),
    _number(
        "knn_distance",
        "squared distance to the nearest private image of the class, in the evaluator's features",
        "features squared",
    ),
    _number(
        "feature_distance",
        "squared distance to the centre of the class, in the evaluator's features",
        "features squared",
    ),
    _number(
        "psnr", "peak signal-to-noise ratio to the most alike private image of the class", "dB", -math.inf
    ),
    Column(
        "ssim", "number", "structural similarity to the most alike private image of the class", "", -1.0, 1.0
    ),
)

TRIALS: tuple[Column, ...] = (
    _text("trial", "key of the trial: name of its folder, and what joins it to per_class"),
    _text("data", "name of the data set"),
    _text("model", "name of the classifier's architecture"),
    _text("defense", "name of the defence"),
    _text("label", "the defence with the settings that tell it from the study's others"),
    Column("strength", "number", "value of the hyper-parameter that the study varies", "see strength_name"),
    _text("strength_name", "name of that hyper-parameter; empty where there is none"),
    _count("seed", "seed of the weights, the batches and the attack", ""),
    _text("unit", "what one bucket is: the unit of the promise; none where nothing is promised"),
    _number("train_seconds", "wall time of the training", "s"),
    _text("remarks", "what its defence has to say about the model"),
    Column("delta", "number", "delta of every epsilon", "", 0.0, 1.0),
    _number(
        "epsilon",
        "of one unit, by the accountant and adjacency beside it; infinite where nothing is promised",
    ),
    _text("adjacency", "replace or add_remove one unit; empty where nothing is promised"),
    _text("accountant", "that gave epsilon; empty where nothing is promised"),
    _number("epsilon_add_remove", "of one unit added or removed, tight"),
    _number("epsilon_lemma3", "of one unit replaced, by Rényi moments"),
    _number("epsilon_theorem1", "what the paper's formula says; no guarantee"),
    _count("steps", "logical steps of the training", "steps"),
    Column("sampling_rate", "number", "probability q of drawing one bucket in a step", "", 0.0, 1.0),
    _number("noise_multiplier", "standard deviation of the noise / max_grad_norm"),
    _number("max_grad_norm", "length S to which the gradient of a bucket is clipped"),
    _number("buckets", "number K of buckets", "buckets", 1.0),
    _share("train_accuracy", "share of the private training images that the model gets right"),
    _share("test_accuracy", "share of the held-out private images that the model gets right"),
    _number("diagnostic_*", "what the defence measured of its own training", "see the defence", -math.inf),
    _text("model_key", "key of the model: name of its folder"),
    _text("attack", "name of the attack with the settings that tell it from the study's others"),
    _text("attack_settings", "every hyper-parameter of the attack"),
    _count("images_per_class", "reconstructions of each class", "images", 1.0),
    _number("attack_seconds", "wall time of the search, without what the attacker learnt before", "s"),
    _count("queries", "records that were forwarded through the target", "records"),
    _count("grad_calls", "records for which a gradient was taken through the target", "records"),
    _text("stopped_by", "limit of the budget that ended the attack; empty if it came to its own end"),
    _text("distance_kind", "the MIA distance of the data set: euclidean or ssim"),
    _number("iterations", "updates made on the selected images, mean", "updates"),
    _count("diverged", "reconstructions whose search ended early because a number was not finite", "images"),
    _text("evaluator", "architecture of the classifier that judges reconstructions"),
    _share(
        "attack_accuracy_top5", "share of the reconstructions whose class is among the evaluator's first five"
    ),
    _share("attack_accuracy_worst", "attack accuracy of the class that is reconstructed best"),
    _number("fid", "Fréchet distance of reconstructions and private images, in the evaluator's features"),
    _share("evaluator_accuracy", "share of the held-out private images that the evaluator gets right"),
    _share("precision", "share of the reconstructions inside the private manifold"),
    _share("recall", "share of the private images inside the manifold of the reconstructions"),
    _number("density", "private neighbourhoods that a reconstruction lies in, over their expected number"),
    _share("coverage", "share of the private images with a reconstruction in their neighbourhood"),
    _text("adaptation", "what an attacker who knows the defence did besides; empty for one who does not"),
    _text("trained_by", "code and machine that trained the model"),
    _text("attacked_by", "code and machine that ran the attack"),
    _text("measured_by", "code and machine that measured"),
    *_OF_CLASSES,
    *_OF_AN_EVALUATOR,
)
"""Columns of ``trials``: one row per trial; of what is measured per class the mean."""

PER_CLASS: tuple[Column, ...] = (
    _text("trial", "key of the trial"),
    _count("class_index", "the label", ""),
    _text("class_name", "name of the class"),
    *_OF_CLASSES,
    *_OF_AN_EVALUATOR,
)
"""Columns of ``per_class``: one row per trial and class."""


def column(name: str, columns: Iterable[Column]) -> Column | None:
    """The column of that name; None if there is none."""
    for known in columns:
        if name == known.name or (known.name.endswith("*") and name.startswith(known.name[:-1])):
            return known
    return None


def problems(table: pd.DataFrame, columns: Iterable[Column]) -> Iterator[str]:
    """What in a table is not as its columns say."""
    columns = tuple(columns)
    for name in map(str, table):
        known = column(name, columns)
        if known is None:
            yield f"{name} is no column of the schema"
            continue
        values = table[name]
        if known.kind == "text":
            if not values.map(lambda value: isinstance(value, str)).all():
                yield f"{name} holds what is no text"
            continue
        if not pd.api.types.is_numeric_dtype(values):
            yield f"{name} holds what is no number"
            continue
        there = values.dropna()
        if known.kind == "integer" and not (there == there.round()).all():
            yield f"{name} holds numbers with a fraction"
        if not there.between(known.low - 1e-6, known.high + 1e-6).all():
            yield f"{name} runs from {there.min():g} to {there.max():g}, and is {known.range}"


def markdown() -> str:
    """The documentation of both tables."""
    parts = [
        "# The tables of a study",
        "`trials.csv` and `per_class.csv` stand in the folder of a study, and as Parquet beside it. A number is empty "
        "(NaN) where it does not apply: nothing is promised, the study has no evaluator. This page is printed by "
        f"`python docs/tables.py`; the version of the tables is {VERSION}, in the metadata of the Parquet files "
        "under `dpmi.schema`.",
    ]
    for title, columns in (
        ("trials: one row per trial", TRIALS),
        ("per_class: one row per trial and class", PER_CLASS),
    ):
        lines = ["| column | values | unit | range | meaning |", "| --- | --- | --- | --- | --- |"]
        lines += [f"| `{c.name}` | {c.kind} | {c.unit} | {c.range} | {c.meaning} |" for c in columns]
        parts += [f"## {title}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"
