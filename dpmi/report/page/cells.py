"""The tables as text, once, for Markdown and for HTML alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from dpmi.report import words
from dpmi.report.numbers.bounds import PRIORS
from dpmi.report.numbers.pairs import on_front
from dpmi.report.numbers.tables import claim_of, rows_of


class Table(NamedTuple):
    """A table ready to be shown; the first cell of a row names the row, the notes stand under the table."""

    caption: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: tuple[str, ...] = ()


def measured(row: Any, measure: str, *, share: bool = False) -> str:
    """Text of one measure of a summary row, with its interval when there is one."""
    values = (getattr(row, name) for name in (measure, f"{measure}_low", f"{measure}_high"))
    return words.percent_interval(*values) if share else words.interval(*values)


def guarantee(row: Any) -> str:
    """Epsilon of a summary row together with all that it means, or that there is none."""
    claim = claim_of(row)
    return f"{words.epsilon(row.epsilon)} for {claim}" if claim.is_guarantee else "∞: no guarantee"


def outcomes(summary: pd.DataFrame, distance_kind: str) -> Table:
    """What every model gave away, and what it was still good for."""
    rows = [
        (
            row.label,
            row.attack,
            f"{row.seeds}" if row.seeds > 1 else "1: none over seeds",
            guarantee(row),
            measured(row, "test_accuracy", share=True),
            measured(row, "distance"),
            measured(row, "advantage"),
            measured(row, "advantage_over_nearest"),
            words.percent(row.score),
        )
        for row in rows_of(summary)
    ]
    return Table(
        f"Mean over classes and seeds, with 95 % intervals. MIA distance: {words.DISTANCES[distance_kind]}.",
        (
            "Model",
            "Attack",
            "Seeds",
            "epsilon",
            "Test accuracy",
            "MIA distance",
            "Advantage",
            "Advantage over nearest public",
            "Target confidence",
        ),
        rows,
    )


def baselines(summary: pd.DataFrame, distance_kind: str) -> Table:
    """What an attacker reaches who never sees the model."""
    names = {
        "distance_blank": "blank image",
        "distance_public_mean": "mean public image",
        "distance_public_nearest": "nearest public image (an oracle picks it)",
    }
    means = {name: summary[column].mean() for column, name in names.items()}
    return Table(
        f"MIA distance of images made without the model: {words.DISTANCES[distance_kind]}.",
        ("Baseline", "MIA distance"),
        [(name, words.number(mean)) for name, mean in means.items() if not math.isnan(mean)],
    )


def evaluated(summary: pd.DataFrame, evaluator: str) -> Table:
    """What the evaluator says of the reconstructions.

    Args:
        summary: of :func:`dpmi.report.numbers.tables.summary`, of a study that has one.
        evaluator: what it is, and how good.
    """
    rows = [
        (
            row.label,
            row.attack,
            measured(row, "attack_accuracy", share=True),
            words.percent(row.attack_accuracy_worst),
            measured(row, "attack_accuracy_top5", share=True),
            measured(row, "knn_distance"),
            measured(row, "fid"),
            measured(row, "density"),
            measured(row, "coverage"),
        )
        for row in rows_of(summary)
    ]
    return Table(
        f"What an evaluator says, a classifier that was trained apart from the targets ({evaluator}). Attack accuracy: "
        "share of reconstructions that it takes for their class.",
        (
            "Model",
            "Attack",
            "Attack accuracy",
            "of the worst class",
            "Top-5",
            "KNN distance",
            "FID",
            "Density",
            "Coverage",
        ),
        rows,
        (
            "Attack accuracy and KNN distance (squared, in the evaluator's features) have bootstrap intervals over "
            "seeds and classes, the others Student intervals over seeds. FID is that of the evaluator's features and "
            "compares with no other network's. The worst class is that with the highest attack accuracy.",
        ),
    )


def any_attack(summary: pd.DataFrame, bounds: Mapping[str, Sequence[float]]) -> Table:
    """How often the attack succeeded, and how often any attack could, given its chance without the bucket.

    Args:
        summary: of :func:`dpmi.report.numbers.tables.summary`.
        bounds: of :func:`dpmi.report.numbers.bounds.bounds`.
    """
    rows = [
        (
            row.label,
            row.attack,
            measured(row, "success", share=True),
            # The largest over the seeds holds for every run, as the epsilons do.
            *(words.bound(max(values)) for values in zip(*map(bounds.__getitem__, row.trials), strict=True)),
            _protected(row.unit),
        )
        for row in rows_of(summary)
    ]
    return Table(
        "Measured: share of classes whose reconstruction is nearer to a private image of the class than a "
        "blank image and the mean public image are, over seeds, with 95 % Clopper-Pearson intervals. "
        "Bound: the largest probability with which any attack succeeds against one unit, rounded up.",
        (
            "Model",
            "Attack",
            "Measured success",
            *(f"Bound at kappa = {prior:g}" for prior in PRIORS),
            "The bound is for",
        ),
        rows,
        (
            "kappa is an attacker's chance of success without that one unit having been used: from public "
            "images, from the other units, by luck. The bound holds for any attack and any criterion of "
            "success, also for those that were not run here (Hayes, Mahloujifar, Balle 2023; accountant: "
            "tight).",
            "It is for one unit alone. A class has many records or subclasses, so a bound for one of these "
            "says nothing about the class. Success was measured on classes, so it compares with a bound for "
            "one class only, and only at the right kappa: the share of classes that the attack wins on models "
            "trained without the class. That share was not measured and can be far from 0.01 or 0.1, so a "
            "measured success above a bound is no contradiction. A measured success below it says nothing "
            "about stronger attacks.",
            "The models of a study are seeded, so that it can be repeated, and whoever knows the seed can "
            "remove the noise: the bound, like the epsilon, is that of the same run with secret randomness. "
            "Where the privacy statement is conditional on the partition, so is the bound.",
        ),
    )


def _protected(unit: str) -> str:
    if unit == "none":
        return words.MISSING
    return "one class" if unit == "class" else f"one {unit}, not a whole class"


def tradeoff(summary: pd.DataFrame) -> Table:
    """Which models no other one beats in accuracy and protection both.

    Protection is a low attack accuracy where the study has an evaluator, else a large distance.
    """
    rows = []
    evaluated_too = "attack_accuracy" in summary
    for _, settings in summary.groupby("attack", sort=False):
        protection = -settings["attack_accuracy"] if evaluated_too else settings["distance"]
        front = on_front(settings["test_accuracy"], protection)
        rows += [
            (
                row.defense,
                words.setting(row.strength),
                row.attack,
                measured(row, "test_accuracy", share=True),
                *((measured(row, "attack_accuracy", share=True),) if evaluated_too else ()),
                measured(row, "distance"),
                "yes" if best else "no",
            )
            for row, best in zip(rows_of(settings), front, strict=True)
        ]
    return Table(
        f"Robustness against accuracy. On the Pareto front: no other model is as good in accuracy and "
        f"{'attack accuracy' if evaluated_too else 'distance'} and better in one, by their means alone.",
        (
            "Defence",
            "Strength",
            "Attack",
            "Test accuracy",
            *(("Attack accuracy",) if evaluated_too else ()),
            "MIA distance",
            "On the front",
        ),
        rows,
    )


def differences(table: pd.DataFrame, matched_on: str | None) -> Table:
    """How much one model differs from another.

    Args:
        table: of :func:`dpmi.report.numbers.pairs.differences`.
        matched_on: by what the strengths were chosen; None if by the user.
    """
    evaluated_too = "attack_accuracy" in table
    rows = [
        (
            f"{row.label} − {row.reference}",
            row.attack,
            f"{row.seeds}",
            measured(row, "distance"),
            _clear(row),
            *((_signed(row, "attack_accuracy"),) if evaluated_too else ()),
            _signed(row, "test_accuracy"),
        )
        for row in rows_of(table)
    ]
    return Table(
        "Paired differences, the first model minus the second, trained and attacked with the same seeds"
        + ("" if matched_on is None else f"; strengths matched on {matched_on}")
        + ". Mean over classes, then seeds, with the 95 % interval of a paired t-test over seeds.",
        (
            "Difference",
            "Attack",
            "Seeds",
            "in MIA distance",
            "The first is",
            *(("in attack accuracy",) if evaluated_too else ()),
            "in test accuracy",
        ),
        rows,
        (
            "Seeds are what is independent: all classes of a model share its training. The classes are those of the "
            "data set, and no claim is made about others. Two models of unlike accuracy differ in distance for that "
            f"reason alone. Each interval stands for itself: of {len(rows)} true differences of 0, about "
            f"{words.number(len(rows) / 20)} would seem clear by chance.",
        ),
    )


def _signed(row: Any, measure: str) -> str:
    return measured(row, measure, share=True).replace("-", "−")


def _clear(row: Any) -> str:
    if math.isnan(row.distance_low):
        return "unknown: one seed"
    if row.distance_low > 0:
        return "farther"
    return "nearer" if row.distance_high < 0 else "not clearly different"


def accounts(summary: pd.DataFrame) -> Table:
    """The epsilon of every private model under each account, and the mechanism that it is about."""
    models = summary[summary["unit"] != "none"].drop_duplicates("label")
    rows = [
        (
            row.label,
            guarantee(row),
            words.epsilon(row.epsilon_add_remove),
            words.epsilon(row.epsilon_lemma3),
            words.epsilon(row.epsilon_theorem1),
            *(
                words.setting(value)
                for value in (
                    row.steps,
                    row.sampling_rate,
                    row.noise_multiplier,
                    row.max_grad_norm,
                    row.buckets,
                )
            ),
        )
        for row in rows_of(models)
    ]
    return Table(
        "Epsilon of the same runs, same unit and delta, under other accounts. Every epsilon is rounded up.",
        (
            "Model",
            "epsilon, headline",
            "add/remove-one, tight",
            "replace-one, moments accountant (Lemma 3)",
            "Theorem 1, not a guarantee",
            "steps",
            "sampling rate",
            "noise multiplier",
            "clip norm",
            "units",
        ),
        rows,
        (
            "Theorem 1 of Zhang et al. (2020) is printed to compare with that paper. It can be smaller than "
            "the true epsilon and is never a guarantee.",
        ),
    )


def correlations(table: pd.DataFrame) -> Table:
    """Whether epsilon says anything about the distance and, with an evaluator, about attack accuracy."""
    rows = [
        (
            words.MEASURES[row.measure],
            f"epsilon for {claim_of(row)}",
            row.attack,
            row.note or words.number(row.rho),
            words.MISSING if math.isnan(row.p) else words.p_value(row.p),
            f"{row.n}",
            f"{row.epsilons}",
        )
        for row in rows_of(table)
    ]
    return Table(
        "Spearman's rank correlation of epsilon with what was measured, over all trials. Negative with the MIA "
        "distance: the smaller epsilon, the farther the reconstructions. Positive with attack accuracy: the smaller "
        "epsilon, the fewer of them are taken for their class.",
        ("Measured", "Against", "Attack", "Spearman", "p", "Trials", "Distinct epsilons"),
        rows,
    )
