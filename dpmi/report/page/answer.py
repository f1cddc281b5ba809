"""The answer of a study in one sentence, and its findings, from its tables alone.

A study can show protection only if its attack finds something in the undefended model: a top-1 linkage clearly above
chance, an attack accuracy clearly above 1/K, or an advantage clearly above 0. Otherwise no conclusion is drawn.

A difference from the undefended model is called clear only if the two 95 % intervals do not overlap. A single seed
gives no interval; then the findings state the numbers and claim no difference.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pandas as pd

from dpmi.report import words
from dpmi.report.numbers.tables import CLAIM, STRONGEST, claim_of, judging, rows_of
from dpmi.report.page.cells import measured
from dpmi.report.words import Claim

SIGNIFICANCE = 0.05
NEAR = 1 / 3
"""An interval below this share of the way from the level without the model to the undefended model is near the
former."""


class Judged(NamedTuple):
    """The measure that judges a defence: linkage, else attack accuracy with an evaluator, else MIA distance."""

    column: str
    name: str
    safer: int
    """+1 if larger is safer, -1 if smaller is safer."""

    @property
    def found(self) -> str:
        """Column of what an attack finds, larger if it finds more: the measure itself, or the advantage."""
        return "advantage" if self.column == "distance" else self.column

    @property
    def share(self) -> bool:
        """Whether the measure is a share in [0, 1]."""
        return self.column != "distance"

    @property
    def move(self) -> str:
        """Effect of a protective defence, as an infinitive."""
        return f"{'raise' if self.safer > 0 else 'lower'} the {self.name}"

    @property
    def moved(self) -> str:
        """Effect of a protective defence, in the past tense."""
        return f"{'raised' if self.safer > 0 else 'lowered'} the {self.name}"

    @property
    def moved_back(self) -> str:
        """The opposite effect, in the past tense."""
        return f"{'lowered' if self.safer > 0 else 'raised'} the {self.name}"


LINKED = Judged("linkage_top1", "top-1 linkage", -1)
DISTANCE = Judged("distance", "MIA distance", 1)
RECOGNISED = Judged("attack_accuracy", "attack accuracy", -1)
UNITS = Judged("unit_auc", "AUC of the unit game", -1)
"""Judges the models of a study with the unit game, which no attack on classes takes part in."""


class Finding(NamedTuple):
    """The findings about one attack."""

    verdict: str
    undefended: str
    points: list[str]


def judged_by(summary: pd.DataFrame) -> Judged:
    """The measure that judges the defences of a study."""
    return next(each for each in (LINKED, RECOGNISED, DISTANCE) if each.column == judging(summary))


def chance(row: Any, by: Judged, classes: int) -> float:
    """What an attack finds without the model."""
    if by is LINKED:
        return float(row.linkage_chance)
    if by is UNITS:
        return 0.5
    return 1 / classes if by is RECOGNISED else 0.0


def finds(row: Any, by: Judged, classes: int) -> bool:
    """Whether an attack clearly finds something in the models of a summary row."""
    return bool(getattr(row, f"{by.found}_low") > chance(row, by, classes))  # False without an interval


def headline(summary: pd.DataFrame, classes: int, *, given: bool = False) -> str:
    """The answer to a manager's question: could somebody who has the model learn what its classes look like?

    Args:
        summary: table of :func:`dpmi.report.numbers.tables.summary`.
        classes: number of classes of a model.
        given: whether the table is of one model that is compared with nothing: one that was given, and not trained by
            the study, or that of a dossier.
    """
    by = UNITS if UNITS.column in summary else judged_by(summary)
    single = summary[summary["attack"] != STRONGEST]
    if given:
        best = _best(single, by)
        what = _level(best, by, classes)
        if finds(best, by, classes):
            return f"{_QUESTIONS[by.column]} Yes, {what}."
        if math.isnan(getattr(best, f"{by.found}_low")):
            return f"{_QUESTIONS[by.column]} One model gives no interval, so this is not judged: {what}."
        return (
            f"{_QUESTIONS[by.column]} These attacks show nothing clear ({what}). That proves no protection: a stronger "
            "attack may show more, and only a privacy guarantee limits every attack."
        )
    undefended = single[single["defense"] == "none"]
    if undefended.empty:
        return "No undefended model was attacked, so this study cannot show what a defence changes."
    best = _best(undefended, by)
    what, question = _level(best, by, classes), _QUESTIONS[by.column]
    if not finds(best, by, classes):
        finder = "an attacker finds" if by is UNITS else "its attacks find"
        return f"This study cannot show protection: even in the undefended model {finder} nothing clear ({what})."
    answers = [
        _defended(rows, best, by, classes)
        for name, rows in single.groupby("defense", sort=False)
        if name != "none"
    ]
    return " ".join([f"{question} Undefended: yes, {what}.", *answers])


_QUESTIONS = {
    "linkage_top1": "Could somebody who has this model tell one of its classes from others?",
    "unit_auc": "Could somebody who has this model tell whether a certain unit trained it?",
    "attack_accuracy": "Could somebody who has this model reconstruct what its classes look like?",
    "distance": "Could somebody who has this model reconstruct what its classes look like?",
}


def _best(rows: pd.DataFrame, by: Judged) -> Any:
    """The summary row in which the attack finds most."""
    order = rows[by.found].sort_values(ascending=False, kind="stable").index
    return next(rows_of(rows.loc[order[:1]]))


def _level(row: Any, by: Judged, classes: int) -> str:
    """What an attack finds, compared with what it would without the model."""
    guessing = words.percent(chance(row, by, classes))
    if by is LINKED:
        shares = measured(row, by.column, share=True)
        return f"{row.attack} picks the right class in {shares} of the cases, guessing in {guessing}"
    if by is RECOGNISED:
        return (
            f"the evaluator recognises {measured(row, by.column, share=True)} of the reconstructions of {row.attack}, "
            f"{guessing} by guessing"
        )
    if by is UNITS:
        return (
            f"of a unit that trained it and one that did not, {measured(row, by.column, share=True)} are told apart, "
            f"{guessing} by guessing"
        )
    return f"advantage of {row.attack} {measured(row, 'advantage')}, 0 without the model"


def _defended(rows: pd.DataFrame, undefended: Any, by: Judged, classes: int) -> str:
    """What a defence changes: its most accurate strength that leaves nothing to find, or what is left at all.

    Linkage and advantage have a known level without the model, and a strength at which no attack is clearly above it
    leaves nothing to find. Attack accuracy has none, because the prior of an attack can look like the classes.
    """
    of_settings = [(_best(mine, by), list(rows_of(mine))) for _, mine in rows.groupby("label", sort=False)]
    if by is RECOGNISED:
        closed = [row for row, _ in of_settings if difference(row, undefended, by.column) == by.safer]
    else:
        closed = [row for row, every in of_settings if not any(finds(each, by, classes) for each in every)]
    if closed:
        # An interval that is too wide for a "no" is said only if no strength has a narrower one.
        sure = [row for row in closed if _said(row, undefended, by, classes) != "unclear"]
        row = max(sure or closed, key=lambda row: row.test_accuracy)
        said = _said(row, undefended, by, classes)
    else:
        row = min((row for row, _ in of_settings), key=lambda row: getattr(row, by.found))
        said = "no fewer" if by is RECOGNISED else "yes"
    where = "" if closed or len(of_settings) == 1 else ", at every strength"
    value = measured(row, by.found, share=by.share)
    bound = ""
    if by is LINKED and row.linkage_bound_top1 < 1:
        bound = f", at most {words.bound(row.linkage_bound_top1)} by its epsilon"
    if by is UNITS and row.unit_bound_auc < 1:
        bound = f", at most {words.bound(row.unit_bound_auc)} by its epsilon"
    return (
        f"With {row.label}{_short_epsilon(row)}: {said}{where}, {value}{bound}, at test accuracy "
        f"{words.percent(row.test_accuracy)}."
    )


def _said(row: Any, undefended: Any, by: Judged, classes: int) -> str:
    """Whether the interval is near the level without the model, or too wide to say."""
    if by is RECOGNISED:
        return "fewer"
    without = chance(row, by, classes)
    near = without + NEAR * (getattr(undefended, by.found) - without)
    return "no" if getattr(row, f"{by.found}_high") < near else "unclear"


def _short_epsilon(row: Any) -> str:
    claim = claim_of(row)
    return f" (epsilon {words.epsilon(row.epsilon)} for one {claim.unit})" if claim.is_guarantee else ""


def findings(
    summary: pd.DataFrame,
    correlations: pd.DataFrame,
    differences: pd.DataFrame,
    distance_kind: str,
    classes: int,
    *,
    given: bool = False,
) -> list[Finding]:
    """One finding per attack: each defence compared with the undefended model, and the correlation with epsilon.

    A given model is compared with nothing.

    Args:
        summary: table of :func:`dpmi.report.numbers.tables.summary`.
        correlations: table of :func:`dpmi.report.numbers.tables.correlations`.
        differences: table of :func:`dpmi.report.numbers.pairs.differences`.
        distance_kind: a key of ``words.DISTANCES``.
        classes: number of classes of a model.
        given: whether the model was given, and not trained by the study.
    """
    found: list[Finding] = []
    by = judged_by(summary)
    for attack, rows in summary.groupby("attack", sort=False):
        trends = rows_of(correlations[correlations["attack"] == attack])
        points = [sentence for trend in trends if (sentence := _trend(trend))]
        undefended = next(rows_of(rows[rows["defense"] == "none"]), None)
        if given and undefended is not None:
            verdict = f"{attack} {_level(undefended, by, classes).removeprefix(str(attack)).strip()}."
            told = ("" if found else _recognised(undefended)) + _distance(undefended, distance_kind)
            found.append(Finding(verdict[0].upper() + verdict[1:], told, []))
            continue
        if undefended is None:
            verdict = f"No undefended model was attacked with {attack}, so the study judges no defence."
            found.append(Finding(verdict, "", points))
            continue
        if not finds(undefended, by, classes) and undefended.seeds > 1:
            verdict = f"Against {_named(str(attack))}: nothing follows about a defence."
            found.append(Finding(verdict, _undefended(undefended, distance_kind, by, classes), []))
            continue
        defenses = dict(list(rows[rows["defense"] != "none"].groupby("defense", sort=False)))
        paired = differences[
            (differences["attack"] == attack) & (differences["reference"] == undefended.label)
        ]
        points = [
            _defence(str(name), mine, undefended, paired, by) for name, mine in defenses.items()
        ] + points
        verdict = _verdict(str(attack), {str(name): mine for name, mine in defenses.items()}, undefended, by)
        found.append(Finding(verdict, _undefended(undefended, distance_kind, by, classes), points))
    return found


def _verdict(attack: str, defenses: dict[str, pd.DataFrame], undefended: Any, by: Judged) -> str:
    protects: list[str] = []
    does_not: list[str] = []
    unknown: list[str] = []
    for name, rows in defenses.items():
        signs = [difference(row, undefended, by.column) for row in rows_of(rows)]
        (protects if by.safer in signs else unknown if None in signs else does_not).append(name)
    clauses = []
    if protects:
        clauses.append(f"{words.listed(protects)} clearly {by.moved}")
    if does_not:
        clauses.append(f"{words.listed(does_not)} did not" + ("" if protects else f" clearly {by.move}"))
    if unknown:
        clauses.append(f"too few seeds for a verdict on {words.listed(unknown)}")
    return f"Against {_named(attack)}: {'; '.join(clauses) or 'no defended model is finished'}."


def _named(attack: str) -> str:
    return "the strongest attack on each model" if attack == STRONGEST else attack


def difference(row: Any, reference: Any, measure: str) -> int | None:
    """Sign of ``row - reference``: +1 or -1 if the intervals are disjoint, 0 if they overlap.

    None if either has no interval.
    """
    low, high = getattr(row, f"{measure}_low"), getattr(row, f"{measure}_high")
    reference_low, reference_high = (
        getattr(reference, f"{measure}_low"),
        getattr(reference, f"{measure}_high"),
    )
    if any(math.isnan(end) for end in (low, high, reference_low, reference_high)):
        return None
    return int(low > reference_high) - int(high < reference_low)


_VERDICTS = {1: ", clearly higher", -1: ", clearly lower", 0: ", not clearly different", None: ""}


def _against(row: Any, reference: Any, measure: str) -> str:
    share = measure != DISTANCE.column
    text = f"{measured(row, measure, share=share)} against {measured(reference, measure, share=share)}"
    return text + _VERDICTS[difference(row, reference, measure)]


def _recognised(row: Any) -> str:
    """The accuracy of a given model."""
    return (
        f"The model recognises {measured(row, 'test_accuracy', share=True)} of the images that were held out here; if "
        "they trained it, this is no test accuracy. "
    )


def _distance(row: Any, distance_kind: str) -> str:
    """How near the reconstructions of a given model are."""
    return (
        f"The MIA distance is {measured(row, 'distance')} ({words.DISTANCES[distance_kind]}; a blank image: "
        f"{words.number(row.distance_blank)}), the advantage {measured(row, 'advantage')}."
    )


def _undefended(row: Any, distance_kind: str, by: Judged, classes: int) -> str:
    text = f"On the undefended model (test accuracy {measured(row, 'test_accuracy', share=True)}), this attack reaches "
    if by is LINKED:
        text += (
            f"a top-1 linkage of {measured(row, by.column, share=True)} (chance {words.percent(row.linkage_chance)}) "
            f"with AUC {measured(row, 'linkage_auc', share=True)}, "
        )
    if RECOGNISED.column in row._fields:
        text += f"an attack accuracy of {measured(row, RECOGNISED.column, share=True)}, "
    text += (
        f"an MIA distance of {measured(row, 'distance')} ({words.DISTANCES[distance_kind]}; "
        f"a blank image: {words.number(row.distance_blank)}) and an advantage of {measured(row, 'advantage')}."
    )
    if row.advantage_low <= 0 or row.advantage <= 0:
        text += " The advantage is not clearly above 0, so the distances of this attack say little about a defence."
    if row.seeds > 1 and not finds(row, by, classes) and by is not DISTANCE:
        text += f" The {by.name} is not clearly above {words.percent(chance(row, by, classes))}, the level of guessing."
    if row.seeds == 1:
        text += f" One seed gives no interval over seeds, so no difference in {by.name} is called clear."
    return text


def _defence(defense: str, rows: pd.DataFrame, undefended: Any, paired: pd.DataFrame, by: Judged) -> str:
    """State the most accurate strength that clearly protects, or that no strength does."""
    settings = list(rows_of(rows))
    verdicts = [difference(row, undefended, by.column) for row in settings]
    protecting = [row for row, verdict in zip(settings, verdicts, strict=True) if verdict == by.safer]
    if protecting:
        row = max(protecting, key=lambda row: row.test_accuracy)
        change = next(rows_of(paired[paired["label"] == row.label]))
        return (
            f"{defense}: {_protecting(len(protecting), len(settings))} clearly {by.moved}. "
            f"The most accurate such model is {row.label}{_epsilon(row)}. Compared with the undefended model: "
            f"{by.name} {_against(row, undefended, by.column)}, paired difference "
            f"{measured(change, by.column, share=by.share).replace('-', '−')}; "
            # The bootstrap is too narrow for few seeds, so the advantage is stated and not judged.
            f"advantage {measured(row, 'advantage')} against {measured(undefended, 'advantage')}; "
            f"test accuracy {_against(row, undefended, 'test_accuracy')}."
        )
    text = words.percent if by.share else words.number
    least, most = text(rows[by.column].min()), text(rows[by.column].max())
    worst, best = rows["test_accuracy"].min(), rows["test_accuracy"].max()
    return (
        f"{defense}{_range(rows)}: {_not_protecting(verdicts, by)}. "
        f"{by.name[0].upper()}{by.name[1:]} {_span(least, most)}, "
        f"test accuracy {_span(words.percent(worst), words.percent(best))}."
    )


def _protecting(count: int, strengths: int) -> str:
    return "its only strength" if strengths == 1 else f"{count} of its {strengths} strengths"


def _not_protecting(verdicts: list[int | None], by: Judged) -> str:
    exposed = verdicts.count(-by.safer)
    if len(verdicts) == 1:
        if None in verdicts:
            return "too few seeds for a verdict on its only strength"
        return f"its only strength {f'clearly {by.moved_back}' if exposed else f'did not clearly {by.move}'}"
    strengths = f"its {len(verdicts)} strengths"
    too_few = f"too few seeds for a verdict on {strengths}"
    text = too_few if None in verdicts else f"none of {strengths} clearly {by.moved}"
    return f"{text}, and {exposed} clearly {by.moved_back}" if exposed else text


def _span(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def _epsilon(row: Any) -> str:
    claim = claim_of(row)
    return f" (epsilon {words.epsilon(row.epsilon)} for {claim})" if claim.is_guarantee else " (no guarantee)"


def _range(rows: pd.DataFrame) -> str:
    claims = rows[CLAIM].drop_duplicates()
    claim = Claim(*claims.iloc[0])
    if len(claims) > 1:
        # Epsilons of different claims do not form a range.
        return f" under {len(claims)} different guarantees"
    if not claim.is_guarantee:
        return " (no guarantee)"
    span = _span(words.epsilon(rows["epsilon"].min()), words.epsilon(rows["epsilon"].max()))
    return f" (epsilon {span} for {claim})"


def _trend(row: Any) -> str:
    if math.isnan(row.rho):
        return ""
    claim = claim_of(row)
    evidence = f"(Spearman {words.number(row.rho)}, {row.n} trials, p {words.p_value(row.p)})"
    measure = words.MEASURES[row.measure]
    if row.p >= SIGNIFICANCE:
        return f"Epsilon for {claim} shows no clear correlation with the {measure} {evidence}."
    direction = "smaller" if row.rho < 0 else "larger"
    return f"A {direction} epsilon for {claim} correlates with a larger {measure} {evidence}."
