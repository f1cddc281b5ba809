"""The tables of a report as text, for Markdown and for HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from dpmi.report import words
from dpmi.report.numbers.bounds import PRIORS
from dpmi.report.numbers.pairs import on_front
from dpmi.report.numbers.tables import claim_of, judging, rows_of
from dpmi.study.results import Results
from dpmi.study.study import GIVEN


class Table(NamedTuple):
    """A table as text; the first cell of a row names the row, the notes follow the table."""

    caption: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: tuple[str, ...] = ()


def without(table: Table, *names: str) -> Table:
    """The table without the columns of these headers; those that it does not have are passed over."""
    kept = [place for place, name in enumerate(table.header) if name not in names]
    header, *rows = (tuple(line[place] for place in kept) for line in (table.header, *table.rows))
    return table._replace(header=header, rows=rows)


def measured(row: Any, measure: str, *, share: bool = False) -> str:
    """Text of one measure of a summary row, with its interval if there is one."""
    values = (getattr(row, name) for name in (measure, f"{measure}_low", f"{measure}_high"))
    return words.percent_interval(*values) if share else words.interval(*values)


def guarantee(row: Any) -> str:
    """Epsilon of a summary row with its claim, or the statement that there is no guarantee, or that none is known."""
    if row.label == GIVEN:
        return "unknown"
    claim = claim_of(row)
    return f"{words.epsilon(row.epsilon)} for {claim}" if claim.is_guarantee else "∞: no guarantee"


def outcomes(summary: pd.DataFrame, distance_kind: str) -> Table:
    """Privacy and accuracy of every model under every attack."""
    rows = [
        (
            row.label,
            row.attack,
            f"{row.seeds}" if row.seeds > 1 else "1 (no interval)",
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
        f"Means over classes and seeds, with 95 % intervals. MIA distance: {words.DISTANCES[distance_kind]}.",
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
        (_ceilings(summary),) if "advantage_class_mean" in summary else (),
    )


def _ceilings(summary: pd.DataFrame) -> str:
    mean, unseen = (words.number(summary[f"advantage_{name}"].mean()) for name in ("class_mean", "unseen"))
    return (
        f"Ceilings of the advantage on these images: the mean training image of a class has {mean}, a held-out image "
        f"of the class {unseen} on average. Where they are near 0, the distance cannot show what an attack finds."
    )


def baselines(summary: pd.DataFrame, distance_kind: str) -> Table:
    """MIA distances of the baselines."""
    names = {
        "distance_blank": "blank image",
        "distance_public_mean": "mean public image",
        "distance_public_nearest": "nearest public image (oracle)",
    }
    means = {name: summary[column].mean() for column, name in names.items()}
    return Table(
        f"MIA distance of the baselines, which are images that need no model: {words.DISTANCES[distance_kind]}.",
        ("Baseline", "MIA distance"),
        [(name, words.number(mean)) for name, mean in means.items() if not math.isnan(mean)],
    )


def evaluated(summary: pd.DataFrame, evaluator: str) -> Table:
    """Measures of the evaluator.

    Args:
        summary: table of :func:`dpmi.report.numbers.tables.summary` for a study with an evaluator.
        evaluator: name and accuracy of the evaluator in words.
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
        f"Measures of the evaluator, a classifier that is trained separately from the targets ({evaluator}). Attack "
        "accuracy: share of reconstructions that the evaluator assigns to their class.",
        (
            "Model",
            "Attack",
            "Attack accuracy",
            "Attack accuracy, worst class",
            "Top-5",
            "KNN distance",
            "FID",
            "Density",
            "Coverage",
        ),
        rows,
        (
            "Attack accuracy and KNN distance (squared, in the evaluator's features) have bootstrap intervals over "
            "seeds and classes; the other measures have Student intervals over seeds. FID uses the features of the "
            "evaluator and cannot be compared with the FID of another network. The worst class is the class with the "
            "highest attack accuracy.",
        ),
    )


def any_attack(summary: pd.DataFrame, bounds: Mapping[str, Sequence[float]]) -> Table:
    """Measured success of each attack, and the reconstruction bound for any attack.

    Args:
        summary: table of :func:`dpmi.report.numbers.tables.summary`.
        bounds: result of :func:`dpmi.report.numbers.bounds.bounds`.
    """
    rows = [
        (
            row.label,
            row.attack,
            measured(row, "success", share=True),
            # The maximum over the seeds holds for every run, as for the epsilons.
            *(words.bound(max(values)) for values in zip(*map(bounds.__getitem__, row.trials), strict=True)),
            _protected(row.unit),
        )
        for row in rows_of(summary)
    ]
    return Table(
        "Measured success: share of classes with an advantage above 0, over seeds, with 95 % Clopper-Pearson "
        "intervals. Bound: upper bound on the probability that any attack succeeds against one unit, rounded up.",
        (
            "Model",
            "Attack",
            "Measured success",
            *(f"Bound at kappa = {prior:g}" for prior in PRIORS),
            "The bound covers",
        ),
        rows,
        (
            "kappa is an attacker's probability of success if that one unit was not used in training: from public "
            "images, from the other units, or by chance. The bound holds for any attack and any criterion of "
            "success, also for attacks that did not run in this study (Hayes, Mahloujifar, Balle 2023; accountant: "
            "tight).",
            "The bound covers one unit only. A class has many records or subclasses, so a bound for one of them "
            "says nothing about the class. The measured success is about classes, so it can be compared only with a "
            "bound for one class, and only at the right kappa: the share of classes on which the attack succeeds if "
            "the model is trained without the class. The study did not measure this share, and it can be far from "
            "0.01 or 0.1. A measured success above a bound is therefore no contradiction. A measured success below a "
            "bound says nothing about stronger attacks.",
            "The models of a study use seeds so that the study can be repeated, and anyone who knows the seed can "
            "remove the noise. Like the epsilon, the bound holds for the same run with secret randomness. If the "
            "privacy statement is conditional on the partition, so is the bound.",
        ),
    )


def _protected(unit: str) -> str:
    if unit == "none":
        return words.MISSING
    return "one class" if unit == "class" else f"one {unit}, not a whole class"


def tradeoff(summary: pd.DataFrame) -> Table:
    """Models on the Pareto front of accuracy and protection.

    Protection is a low top-1 linkage if the study has it, else a low attack accuracy if it has an evaluator, else a
    large MIA distance.
    """
    rows = []
    evaluated_too, linked_too = "attack_accuracy" in summary, "linkage_top1" in summary
    judged = judging(summary)
    for _, settings in summary.groupby("attack", sort=False):
        protection = settings[judged] if judged == "distance" else -settings[judged]
        front = on_front(settings["test_accuracy"], protection)
        rows += [
            (
                row.defense,
                words.setting(row.strength),
                row.attack,
                measured(row, "test_accuracy", share=True),
                *((measured(row, "linkage_top1", share=True),) if linked_too else ()),
                *((measured(row, "attack_accuracy", share=True),) if evaluated_too else ()),
                measured(row, "distance"),
                "yes" if best else "no",
            )
            for row, best in zip(rows_of(settings), front, strict=True)
        ]
    return Table(
        "Robustness against accuracy. A model is on the Pareto front if no other model has means that are at least as "
        f"good in both test accuracy and {words.MEASURES[judged]}, and better in one.",
        (
            "Defence",
            "Strength",
            "Attack",
            "Test accuracy",
            *(("Top-1 linkage",) if linked_too else ()),
            *(("Attack accuracy",) if evaluated_too else ()),
            "MIA distance",
            "On the Pareto front",
        ),
        rows,
    )


def differences(table: pd.DataFrame, matched_on: str | None) -> Table:
    """Paired differences between models.

    Args:
        table: table of :func:`dpmi.report.numbers.pairs.differences`.
        matched_on: target on which the strengths were matched; None if the user chose them.
    """
    evaluated_too, linked_too = "attack_accuracy" in table, "linkage_top1" in table
    rows = [
        (
            f"{row.label} − {row.reference}",
            row.attack,
            f"{row.seeds}",
            *((_signed(row, "linkage_top1"),) if linked_too else ()),
            measured(row, "distance"),
            _clear(row),
            *((_signed(row, "attack_accuracy"),) if evaluated_too else ()),
            _signed(row, "test_accuracy"),
        )
        for row in rows_of(table)
    ]
    return Table(
        "Paired differences: the first model minus the second, trained and attacked with the same seeds"
        + ("" if matched_on is None else f"; strengths matched on {matched_on}")
        + ". Mean over classes, then seeds, with the 95 % interval of a paired t-test over seeds.",
        (
            "Difference",
            "Attack",
            "Seeds",
            *(("Top-1 linkage",) if linked_too else ()),
            "MIA distance",
            "MIA distance is",
            *(("Attack accuracy",) if evaluated_too else ()),
            "Test accuracy",
        ),
        rows,
        (
            "Only seeds are independent: all classes of a model share its training. The results cover the classes of "
            "this data set only. Two models of different accuracy differ in distance for that reason alone. The "
            f"intervals are not corrected for multiple comparisons: if all {len(rows)} true differences were 0, about "
            f"{words.number(len(rows) / 20)} of them would look clear by chance.",
        ),
    )


def _signed(row: Any, measure: str) -> str:
    return measured(row, measure, share=True).replace("-", "−")


def _clear(row: Any) -> str:
    if math.isnan(row.distance_low):
        return "unknown: one seed"
    if row.distance_low > 0:
        return "larger"
    return "smaller" if row.distance_high < 0 else "not clearly different"


def accounts(summary: pd.DataFrame) -> Table:
    """Epsilon of every private model by each accountant, and the mechanism of the training."""
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
        "Epsilon of the same runs by each accountant, for the same unit and delta. Every epsilon is rounded up.",
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
            "Theorem 1 of Zhang et al. (2020) is shown for comparison with that paper. It can be smaller than "
            "the true epsilon and is never a guarantee.",
        ),
    )


def correlations(table: pd.DataFrame) -> Table:
    """Rank correlations of epsilon with the MIA distance and, with an evaluator, the attack accuracy."""
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
        "Spearman's rank correlation of epsilon with each measure, over all trials. A negative correlation with the "
        "MIA distance means that reconstructions are farther at smaller epsilon. A positive correlation with the "
        "linkage or the attack accuracy means that fewer classes are linked or recognised at smaller epsilon.",
        ("Measure", "Epsilon", "Attack", "Spearman", "p", "Trials", "Distinct epsilons"),
        rows,
    )


def evaluator_of(results: Results) -> str:
    """Name and accuracy of the evaluator in words."""
    first = results.trials.iloc[0]
    accuracy = words.percent(first["evaluator_accuracy"])
    return f"{first['evaluator']}, accuracy {accuracy} on the held-out private images"
