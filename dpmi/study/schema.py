"""Schema of a study's tables; docs/tables.md is generated from it.

Increase :data:`VERSION` when a column changes its meaning, unit or name. The Parquet files carry the version in their
metadata, under ``dpmi.schema``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import pandas as pd

VERSION = 1

Kind = Literal["text", "integer", "number"]


class Column(NamedTuple):
    """One column, or a family of columns.

    Args:
        name: name in the header; a family such as ``diagnostic_*`` has the common prefix and a star.
        kind: type of the values; a number that does not apply is NaN.
        meaning: the meaning in one phrase.
        unit: unit of the values; empty for texts and dimensionless numbers.
        low: smallest possible value.
        high: largest possible value.
    """

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf

    @property
    def range(self) -> str:
        """The range in words; empty for texts."""
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


_DISTANCE = "that of distance_kind"

_OF_CLASSES = (
    _number(
        "distance",
        "MIA distance: from a reconstruction to the nearest private image of its class; smaller is more similar",
        _DISTANCE,
    ),
    _number(
        "distance_blank",
        "MIA distance of a blank image: black or mid-grey, whichever is nearer to the class",
        _DISTANCE,
    ),
    _number("distance_public_mean", "MIA distance of the mean public image", _DISTANCE),
    _number("distance_public_nearest", "MIA distance of the public image nearest to the class", _DISTANCE),
    Column(
        "advantage",
        "number",
        "share of the baseline distance that the attack saves; 1: an exact copy, 0: no gain from the model",
        "",
        -math.inf,
        1.0,
    ),
    Column(
        "advantage_over_nearest",
        "number",
        "advantage with the nearest public image as the baseline; only an oracle can select that image",
        "",
        -math.inf,
        1.0,
    ),
    Column(
        "advantage_class_mean",
        "number",
        "ceiling: advantage of the mean training image of the class, at the brightness that brings it nearest",
        "",
        -math.inf,
        1.0,
    ),
    Column(
        "advantage_unseen",
        "number",
        "ceiling: mean advantage of held-out images of the class",
        "",
        -math.inf,
        1.0,
    ),
    _share("score", "confidence of the target in the class of the reconstruction"),
)
_OF_AN_EVALUATOR = (
    _share("attack_accuracy", "share of the reconstructions that the evaluator assigns to their class"),
    _number(
        "knn_distance",
        "squared distance to the nearest private image of the class, in the evaluator's features: delta_eval in papers",
        "features squared",
    ),
    _number(
        "feature_distance",
        "squared distance to the centre of the class, in the evaluator's features: l2 distance in papers",
        "features squared",
    ),
    _number(
        "psnr", "peak signal-to-noise ratio to the most similar private image of the class", "dB", -math.inf
    ),
    Column(
        "ssim",
        "number",
        "structural similarity to the most similar private image of the class",
        "",
        -1.0,
        1.0,
    ),
)

_OF_STRANGERS = (
    *(
        column
        for name, network in (
            ("faceres", "the face recogniser faceres, a MobileNet trained on VGGFace2"),
            ("sface", "the face recogniser SFace"),
        )
        for column in (
            _share(
                f"attack_accuracy_{name}",
                "share of the reconstructions whose nearest private image, among those of all candidates, is of their "
                f"class, by {network}; chance is strangers_chance",
            ),
            Column(
                f"delta_face_{name}",
                "number",
                f"squared distance to the nearest private image of the class, in features of length 1 of {network}; "
                "published values of delta_face are by a FaceNet",
                "features squared",
                0.0,
                4.0,
            ),
            Column(
                f"feature_distance_{name}",
                "number",
                f"squared distance to the mean of the class, in features of length 1 of {network}",
                "features squared",
                0.0,
                4.0,
            ),
            _share(
                f"identified_decoy_{name}",
                f"share of the reconstructions that {name} assigns to a decoy, divided by the number of decoys",
            ),
            Column(
                f"identified_gain_{name}",
                "number",
                f"attack_accuracy_{name} - identified_decoy_{name}",
                "share",
                -1.0,
                1.0,
            ),
        )
    ),
    _share(
        "strangers_disagreement",
        "share of the reconstructions that one of the two strangers assigns to their class and the other does not",
    ),
    _share(
        "type_one_errors",
        "share of the reconstructions that the study's evaluator assigns to their class and no stranger does",
    ),
)

_OF_LINKAGE = (
    *(
        Column(
            f"linkage_{name}{suffix}",
            "number",
            f"{meaning}{scored}",
            "share",
            0.0,
            1.0,
        )
        for suffix, scored in (
            ("", ", by the scorer of the study"),
            ("_mia", ", by the MIA distance if that is not the scorer of the study"),
            ("_whitened", ", by whitened images if that is not the scorer of the study"),
        )
        for name, meaning in (
            ("top1", "linkage: share of the reconstructions nearest to their class among it and the decoys"),
            ("auc", "linkage: share of the decoys that are farther from the reconstruction than its class"),
        )
    ),
    _share("identified_own", "share of the reconstructions that the evaluator identifies as their class"),
    _share("identified_decoy", "share that it identifies as a decoy, divided by the number of decoys"),
    Column("identified_gain", "number", "identified_own - identified_decoy", "share", -1.0, 1.0),
)

TRIALS: tuple[Column, ...] = (
    _text("trial", "key of the trial: the name of its folder, and the join key of both tables"),
    _text("data", "name of the data set"),
    _text("model", "architecture of the classifier"),
    _text("defense", "name of the defence"),
    _text("label", "name of the defence, with the settings that distinguish it from the others of the study"),
    Column(
        "strength", "number", "value of the defence's strength, its main hyper-parameter", "see strength_name"
    ),
    _text("strength_name", "name of that hyper-parameter; empty if the defence has none"),
    _count("seed", "seed of the weights, the batches and the attack", ""),
    _text("unit", "unit of privacy: what one bucket is; none without a guarantee"),
    _number("train_seconds", "wall time of the training", "s"),
    _text("remarks", "remarks of the defence about the model"),
    Column("delta", "number", "delta of every epsilon", "", 0.0, 1.0),
    _number(
        "epsilon",
        "epsilon of one unit, for the given adjacency and accountant; infinite without a guarantee",
    ),
    _text("adjacency", "adjacency of epsilon: replace or add_remove one unit; empty without a guarantee"),
    _text("accountant", "accountant of epsilon; empty without a guarantee"),
    _number("epsilon_add_remove", "epsilon of one unit added or removed, by the tight accountant"),
    _number("epsilon_lemma3", "epsilon of one unit replaced, by the moments accountant (Lemma 3)"),
    _number("epsilon_theorem1", "value of the paper's closed form (Theorem 1); never a guarantee"),
    _count("steps", "logical steps of the training", "steps"),
    Column("sampling_rate", "number", "probability q of drawing one bucket in a step", "", 0.0, 1.0),
    _number("noise_multiplier", "standard deviation of the noise / max_grad_norm"),
    _number("max_grad_norm", "norm S to which the gradient of a bucket is clipped"),
    _number("buckets", "number K of buckets", "buckets", 1.0),
    _share("train_accuracy", "share of the private training images that the model classifies correctly"),
    _share("test_accuracy", "share of the held-out private images that the model classifies correctly"),
    _number("diagnostic_*", "measurement of the defence during its training", "see the defence", -math.inf),
    _text("model_key", "key of the model: the name of its folder"),
    _text("attack", "name of the attack, with the settings that distinguish it from the others of the study"),
    _text("attack_settings", "every hyper-parameter of the attack"),
    _count("images_per_class", "number of reconstructions per class", "images", 1.0),
    _number("attack_seconds", "wall time of the attack, without the training of its prior", "s"),
    _count("queries", "records forwarded through the target", "records"),
    _count("grad_calls", "records for which a gradient was computed through the target", "records"),
    _text("stopped_by", "limit of the budget that stopped the attack; empty if it finished"),
    _text("distance_kind", "kind of the MIA distance: euclidean or ssim"),
    _number("iterations", "mean number of updates of the selected images", "updates"),
    _count("diverged", "reconstructions that stopped early because a number was not finite", "images"),
    _text("evaluator", "architecture of the evaluator, the classifier that judges reconstructions"),
    _share(
        "attack_accuracy_top5", "share of the reconstructions whose class is among the evaluator's top five"
    ),
    _share(
        "attack_accuracy_worst",
        "attack accuracy of the worst class, the one with the highest attack accuracy",
    ),
    _number("fid", "Fréchet distance of reconstructions and private images, in the evaluator's features"),
    _share(
        "evaluator_accuracy", "share of the held-out private images that the evaluator classifies correctly"
    ),
    _share("precision", "share of the reconstructions inside the private manifold"),
    _share("recall", "share of the private images inside the manifold of the reconstructions"),
    _number("density", "number of private neighbourhoods that contain a reconstruction / its expected value"),
    _share("coverage", "share of the private images with a reconstruction in their neighbourhood"),
    _text("adaptation", "change that makes the attack adaptive to the defence; empty for a plain attack"),
    _text("trained_by", "code and machine that trained the model"),
    _text("attacked_by", "code and machine that ran the attack"),
    _text("measured_by", "code and machine that measured the trial"),
    *_OF_CLASSES,
    *_OF_AN_EVALUATOR,
    *_OF_STRANGERS,
    *(
        column
        for name in ("faceres", "sface")
        for column in (
            _share(
                f"attack_accuracy_top5_{name}",
                f"share of the reconstructions whose class is among the five nearest by {name}",
            ),
            _share(
                f"evaluator_accuracy_{name}",
                f"share of the held-out private images whose nearest private image is of their class, by {name}",
            ),
        )
    ),
    _share("strangers_chance", "attack accuracy by a stranger without the model: 1 / number of candidates"),
    *_OF_LINKAGE,
    _share("linkage_chance", "top-1 linkage of any attacker without the model: 1 / number of candidates"),
    _share("linkage_bound_top1", "upper bound on top-1 linkage; 1 unless the guarantee is for a class"),
    _share("linkage_bound_auc", "upper bound on the AUC of linkage; 1 unless the guarantee is for a class"),
    _share(
        "accuracy_bound",
        "upper bound on the mean test accuracy over random roles; 1 unless the guarantee is for a class",
    ),
    _share(
        "unit_auc",
        "unit game: share of the pairs of a unit that trained the model and one that did not that the attacker tells "
        "apart; chance is 1/2",
    ),
    _number(
        "audit_lower_bound",
        "epsilon that the training has at least, for adjacency and delta of the row, by its canaries",
    ),
    _number("audit_ceiling", "audit_lower_bound of a perfect training with as many canaries, on average"),
    _share("audit_p_value", "p-value of the most unusual check of the audit, corrected for their number"),
    _count("audit_canaries", "canary buckets of the audit", "buckets", 2.0),
    _text(
        "audit_verdict",
        "consistent, or violated with the check that contradicts the claim; empty without an audit",
    ),
    _share("unit_bound_auc", "upper bound on unit_auc; 1 unless the guarantee is for the unit of the game"),
    _share("identified_bound", "upper bound on identified_gain; 1 unless the guarantee is for a class"),
)
"""Columns of ``trials``: one row per trial; per-class measures are means over classes."""

PER_CLASS: tuple[Column, ...] = (
    _text("trial", "key of the trial"),
    _count("class_index", "number of the class in the data set", ""),
    _text("class_name", "name of the class"),
    *_OF_CLASSES,
    *_OF_AN_EVALUATOR,
    *_OF_STRANGERS,
    *_OF_LINKAGE,
)
"""Columns of ``per_class``: one row per trial and class."""


def column(name: str, columns: Iterable[Column]) -> Column | None:
    """The column with this name; None if the schema has none."""
    for known in columns:
        if name == known.name or (known.name.endswith("*") and name.startswith(known.name[:-1])):
            return known
    return None


def problems(table: pd.DataFrame, columns: Iterable[Column]) -> Iterator[str]:
    """Yield the deviations of a table from its schema."""
    columns = tuple(columns)
    for name in map(str, table):
        known = column(name, columns)
        if known is None:
            yield f"{name} is not a column of the schema"
            continue
        values = table[name]
        if known.kind == "text":
            if not values.map(lambda value: isinstance(value, str)).all():
                yield f"{name} holds values that are not text"
            continue
        if not pd.api.types.is_numeric_dtype(values):
            yield f"{name} holds values that are not numbers"
            continue
        there = values.dropna()
        if known.kind == "integer" and not (there == there.round()).all():
            yield f"{name} holds numbers that are not integers"
        if not there.between(known.low - 1e-6, known.high + 1e-6).all():
            yield f"{name} ranges from {there.min():g} to {there.max():g}; it must be {known.range}"


def markdown() -> str:
    """The documentation of both tables in Markdown."""
    parts = [
        "# The tables of a study",
        "The folder of a study contains `trials.csv` and `per_class.csv`, and both tables as Parquet. A number that "
        "does not apply is empty (NaN), for example if a model has no guarantee or the study has no evaluator. MIA "
        "stands for model inversion attack. The baseline of `advantage` is the nearer of two images that need no "
        "model: a blank image and the mean public image. `python docs/tables.py` prints this page. The version of the "
        f"tables is {VERSION}; the metadata of the Parquet files holds it under `dpmi.schema`.",
    ]
    for title, columns in (
        ("trials: one row per trial", TRIALS),
        ("per_class: one row per trial and class", PER_CLASS),
    ):
        lines = ["| column | values | unit | range | meaning |", "| --- | --- | --- | --- | --- |"]
        lines += [f"| `{c.name}` | {c.kind} | {c.unit} | {c.range} | {c.meaning} |" for c in columns]
        parts += [f"## {title}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"
