"""A verdict on a plan in plain sentences: whether training works at its noise level.

The limits are a rule of thumb from this project's studies (`make results`; docs/results), not a guarantee:

| study | undefended | noise_norm: test accuracy |
| --- | --- | --- |
| MNIST, subclass-DP, d = 7,706, q = 0.2, K = 500 | 98.7 % | 0.26: 96.5, 0.70: 94.1, 1.4: 86.5, 2.6: 70.4, 3.2: 66.7 % |
| the same, K = 1000, 250, 100 | 98.8 % | 0.70: 91.3, 2.8: 70.7, 7.0: 34.3 % |
| Faces94, class-DP, d = 638,552, q = 0.33, K = 152 | 99.3 % | 0.16: 99.2, 13: 26.7, 19: 15.8, 25: 13.1 % |

Up to `USABLE`, every model kept nine tenths of the undefended accuracy. From `HOPELESS` on, every model lost a quarter
or more. The runs took 137 to 1,200 steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from accountants.guarantee import rounded_up
from accountants.ledger import Ledger
from accountants.planner import PlanRow, PlanTable
from accountants.profile import reconstruction_bound

__all__ = ["Verdict", "rating", "readable", "verdict"]

USABLE, HOPELESS = 1.0, 3.0
"""Limits of `PlanRow.noise_norm`, from the table above."""

HEAD_FEATURES = 64
"""Features of the small public network of :mod:`dpmi.models.features`."""

FEW_RECORDS = 5
"""With fewer records per bucket, bucket-level DP is little stronger than record-level DP."""

RULE_OF_THUMB = (
    f"The limits {USABLE:g} (usable) and {HOPELESS:g} (hopeless) are a rule of thumb from this project's studies "
    "(docs/results, 137 to 1,200 steps), not a guarantee. With fewer steps, each step has less noise, but a model "
    "needs enough steps to learn: set the number that your model needs."
)

CONDITIONAL = (
    "If k-means on the private records defines the subclasses, the guarantee is conditional on the partition; "
    "with public centroids it is not."
)


def rating(noise_norm: float) -> Literal["usable", "doubtful", "hopeless"]:
    """Rate training at a noise norm, given in units of the largest possible norm of the signal.

    >>> rating(0.7), rating(1.4), rating(3.2)
    ('usable', 'doubtful', 'hopeless')
    """
    if noise_norm <= USABLE:
        return "usable"
    return "doubtful" if noise_norm < HOPELESS else "hopeless"


@dataclass(frozen=True)
class Verdict:
    """The verdict on a table.

    Attributes:
        class_level: class-level DP with the table's best setting.
        rescue: the row with the fewest clusters per class at which that setting is usable; one cluster if class-level
            DP is already usable, None if the smallest class has fewer records than the clusters needed.
        sentences: the verdict in words, the most important sentence first.

    >>> from accountants.planner import plan
    >>> table = plan([500] * 10, target_epsilon=8, delta=1e-4, parameters=650, sampling_rates=(0.2,), steps=(100,))
    >>> judged = verdict(table)
    >>> judged.class_level.buckets, judged.rescue.buckets
    (10, 280)
    >>> judged.sentences[1][:72]
    'Subclasses make it usable: with at least 28 per class (280 buckets of 17'
    """

    class_level: PlanRow
    rescue: PlanRow | None
    sentences: tuple[str, ...]


def verdict(table: PlanTable) -> Verdict:
    """Judge class-level DP at the table's target, and say how many subclasses would make it usable.

    >>> from accountants.planner import plan
    >>> faces = plan(
    ...     [190] * 152, target_epsilon=8, delta=1e-5, parameters=638_552, sampling_rates=(0.2,), steps=(300,)
    ... )
    >>> judged = verdict(faces)
    >>> rating(judged.class_level.noise_norm), judged.rescue.clusters_per_class
    ('hopeless', 109)
    """
    class_level = table.row(table.best_setting, 1)
    clusters = table.fewest_clusters(USABLE)
    rescue = table.row(table.best_setting, clusters) if clusters <= table.smallest_class[1] else None
    sentences = [_on_class_level(table, class_level)]
    if rescue is None:
        sentences.append(_no_rescue(table, clusters))
    elif clusters > 1:
        sentences.append(_on_rescue(rescue))
    if clusters > 1:
        sentences += _on_a_head(table)
    sentences.append(_on_accuracy(class_level))
    subclasses = clusters if rescue and clusters > 1 else table.clusters_per_class[-1]
    if subclasses > 1:
        sentences += [_on_the_whole_class(table, subclasses), CONDITIONAL]
    sentences += [*_on_delta(table, rescue), RULE_OF_THUMB]
    return Verdict(class_level, rescue, tuple(sentences))


def readable(value: float) -> str:
    """Format with three significant digits, and large values without an exponent.

    >>> readable(0.8684), readable(134.2), readable(1056.3)
    ('0.868', '134', '1,056')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _on_class_level(table: PlanTable, row: PlanRow) -> str:
    q, sigma, told = row.mechanism.sampling_rate, row.mechanism.noise_multiplier, row.guarantee
    return (
        f"Class-level DP at epsilon {table.target_epsilon:g} (delta = {told.delta:g}, {told.adjacency}, "
        f"{told.accountant}) is {rating(row.noise_norm)}: with the best of these settings (q = {q:g}, "
        f"{row.steps:,} steps, sigma = {sigma:.3g}) the norm of a step's noise is {readable(row.noise_norm)} times the "
        f"largest norm of the signal of {row.buckets:,} classes."
    )


def _on_accuracy(row: PlanRow) -> str:
    classes = row.buckets
    run = Ledger().record(row.mechanism, row.steps)
    most = float(reconstruction_bound(run, 1 / classes))
    return (
        "Class-level DP bounds accuracy itself, whatever the training, because to recognise a class is to tell that it "
        "was there: accuracy on a class is at most B(kappa), where kappa is the accuracy on it of models trained "
        "without it. "
        f"At kappa = 1/{classes:,} that is {rounded_up(100 * most)} %. kappa = 1/{classes:,} is an approximation for "
        "many classes; with few, kappa is larger, because a model finds the missing class by elimination."
    )


def _on_rescue(row: PlanRow) -> str:
    per_bucket = row.records / row.buckets
    close = ", which is close to record-level DP" if per_bucket < FEW_RECORDS else ""
    return (
        f"Subclasses make it usable: with at least {row.clusters_per_class:,} per class ({row.buckets:,} buckets of "
        f"{readable(per_bucket)} records on average{close}) and the same setting, the ratio is at most {USABLE:g}."
    )


def _no_rescue(table: PlanTable, clusters: int) -> str:
    name, size = table.smallest_class
    finest = table.row(table.best_setting, size)
    # The ratio grows with the square root of d.
    affordable = math.floor(table.parameters * (USABLE / finest.noise_norm) ** 2)
    smaller_model = f"a model of at most {affordable:,} parameters, " if affordable else ""
    return (
        f"No number of subclasses makes it usable: it would take {clusters:,} per class "
        f"({clusters * len(table.class_sizes):,} buckets), but {name}, the smallest, has {size:,} records; with one "
        f"record in each of its buckets the ratio is still {readable(finest.noise_norm)}. Use a larger "
        f"epsilon, {smaller_model}or {clusters:,} records in every class."
    )


def _on_a_head(table: PlanTable) -> list[str]:
    """Say what a linear head on public features would need, if that is less."""
    classes = len(table.class_sizes)
    parameters = (HEAD_FEATURES + 1) * classes
    if parameters >= table.parameters:
        return []
    small = replace(table, parameters=parameters)
    clusters = small.fewest_clusters(USABLE)
    needed = (
        "class-level DP itself is usable" if clusters == 1 else f"{clusters:,} subclasses per class would do"
    )
    if clusters > table.smallest_class[1]:
        needed = f"it would take {clusters:,} subclasses per class"
    return [
        f"Train fewer parameters: a linear head on {HEAD_FEATURES} features of a public network has {parameters:,} for "
        f"{classes:,} classes, and then {needed} ({clusters * classes:,} buckets) with the same setting. "
        "`dpmi plan --recommend` has settings for such a head."
    ]


def _on_the_whole_class(table: PlanTable, subclasses: int) -> str:
    row = table.row(table.best_setting, subclasses)
    whole = f"a class of {subclasses:,} subclasses"
    try:
        found = (
            Ledger()
            .record(row.mechanism, row.steps)
            .guarantee(
                delta=table.delta, unit="class", adjacency=table.adjacency, buckets_per_unit=subclasses
            )
        )
    except ValueError:  # outside the range of the tight accountant
        return f"A subclass-level epsilon protects one subclass, not its whole class: {whole} has no epsilon here."
    return (
        f"A subclass-level epsilon protects one subclass, not its whole class: for {whole} the same run has epsilon "
        f"{readable(found.epsilon)}."
    )


def _on_delta(table: PlanTable, rescue: PlanRow | None) -> list[str]:
    counts = {row.clusters_per_class: row.buckets for row in (*table.best, *([rescue] if rescue else []))}
    too_many = [clusters for clusters, buckets in sorted(counts.items()) if table.delta >= 1 / buckets]
    if not too_many:
        return []
    fewest = too_many[0]
    return [
        f"delta = {table.delta:g} is not below 1/K for K = {counts[fewest]:,} buckets ({fewest} per class) or more: "
        f"a mechanism that publishes one random bucket would satisfy this delta. Choose delta below "
        f"{1 / max(counts.values()):.2g}; it requires slightly more noise."
    ]
