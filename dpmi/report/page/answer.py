"""The answer of a study in words, from the summary alone.

A difference from the undefended model is called clear only where the two 95 % intervals do not overlap. Where
one seed gives no interval, numbers are stated and nothing is claimed.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pandas as pd

from dpmi.report import words
from dpmi.report.numbers.tables import CLAIM, claim_of, rows_of
from dpmi.report.page.cells import measured
from dpmi.report.words import Claim

SIGNIFICANCE = 0.05


class Judged(NamedTuple):
    """By what a defence is judged: where the study has an evaluator by what that recognises, else by the distance."""

    column: str
    name: str
    safer: int
    """+1 where more is safer, -1 where less is."""

    @property
    def share(self) -> bool:
        """Whether it is in [0, 1]."""
        return self.column != "distance"

    @property
    def move(self) -> str:
        """What a defence does that protects."""
        return f"{'raise' if self.safer > 0 else 'lower'} the {self.name}"

    @property
    def moved(self) -> str:
        """What a defence did that protects."""
        return f"{'raised' if self.safer > 0 else 'lowered'} the {self.name}"

    @property
    def moved_back(self) -> str:
        """What a defence did that exposes."""
        return f"{'lowered' if self.safer > 0 else 'raised'} it"


DISTANCE = Judged("distance", "MIA distance", 1)
RECOGNISED = Judged("attack_accuracy", "attack accuracy", -1)


class Finding(NamedTuple):
    """What the study says about one attack."""

    verdict: str
    undefended: str
    points: list[str]


def findings(
    summary: pd.DataFrame, correlations: pd.DataFrame, differences: pd.DataFrame, distance_kind: str
) -> list[Finding]:
    """One finding per attack: each defence against the undefended model, and epsilon's trend.

    Args:
        summary: of :func:`dpmi.report.numbers.tables.summary`.
        correlations: of :func:`dpmi.report.numbers.tables.correlations`.
        differences: of :func:`dpmi.report.numbers.pairs.differences`.
        distance_kind: a key of ``words.DISTANCES``.
    """
    found = []
    by = RECOGNISED if RECOGNISED.column in summary else DISTANCE
    for attack, rows in summary.groupby("attack", sort=False):
        trends = rows_of(correlations[correlations["attack"] == attack])
        points = [sentence for trend in trends if (sentence := _trend(trend))]
        undefended = next(rows_of(rows[rows["defense"] == "none"]), None)
        if undefended is None:
            verdict = f"No undefended model was attacked with {attack}, so no defence is judged."
            found.append(Finding(verdict, "", points))
            continue
        defenses = dict(list(rows[rows["defense"] != "none"].groupby("defense", sort=False)))
        paired = differences[
            (differences["attack"] == attack) & (differences["reference"] == undefended.label)
        ]
        points = [
            _defence(str(name), mine, undefended, paired, by) for name, mine in defenses.items()
        ] + points
        verdict = _verdict(str(attack), {str(name): mine for name, mine in defenses.items()}, undefended, by)
        found.append(Finding(verdict, _undefended(undefended, distance_kind, by), points))
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
        clauses.append(f"{_listed(protects)} clearly {by.moved}")
    if does_not:
        clauses.append(f"{_listed(does_not)} did not" + ("" if protects else f" clearly {by.move}"))
    if unknown:
        clauses.append(f"too few seeds for a verdict on {_listed(unknown)}")
    return f"Against {attack}: {'; '.join(clauses) or 'no defended model is finished'}."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def difference(row: Any, reference: Any, measure: str) -> int | None:
    """Sign of ``row - reference``: +1 or -1 where the intervals are apart, 0 where they overlap.

    None where either has no interval.
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


def _undefended(row: Any, distance_kind: str, by: Judged) -> str:
    text = f"On the undefended model ({measured(row, 'test_accuracy', share=True)} test accuracy) "
    if by is RECOGNISED:
        text += (
            f"the evaluator recognises the class in {measured(row, by.column, share=True)} of the images; "
        )
    text += (
        "it ends "
        f"{measured(row, 'distance')} from the nearest private image of the class "
        f"({words.DISTANCES[distance_kind]}); a blank image is {words.number(row.distance_blank)} away. "
        f"Its advantage over images made without the model is {measured(row, 'advantage')}."
    )
    if row.advantage_low <= 0 or row.advantage <= 0:
        text += " That is not clearly above 0, so this attack says little about a defence."
    if row.seeds == 1:
        text += f" One seed gives no interval over seeds, so no difference in {by.name} is called clear."
    return text


def _defence(defense: str, rows: pd.DataFrame, undefended: Any, paired: pd.DataFrame, by: Judged) -> str:
    """The most accurate strength among those that clearly protect, or that none does."""
    settings = list(rows_of(rows))
    verdicts = [difference(row, undefended, by.column) for row in settings]
    protecting = [row for row, verdict in zip(settings, verdicts, strict=True) if verdict == by.safer]
    if protecting:
        row = max(protecting, key=lambda row: row.test_accuracy)
        change = next(rows_of(paired[paired["label"] == row.label]))
        return (
            f"Of {_strengths(len(settings))} of {defense}, {len(protecting)} clearly {by.moved}; "
            f"the most accurate of these is {row.label}{_epsilon(row)}: "
            f"{by.name} {_against(row, undefended, by.column)}, paired difference "
            f"{measured(change, by.column, share=by.share).replace('-', '−')}; "
            # The bootstrap is too narrow for few seeds, so the advantage is stated and not judged.
            f"advantage {measured(row, 'advantage')} against {measured(undefended, 'advantage')}; "
            f"test accuracy {_against(row, undefended, 'test_accuracy')}."
        )
    text = words.percent if by.share else words.number
    least, most = text(rows[by.column].min()), text(rows[by.column].max())
    worst, best = rows["test_accuracy"].min(), rows["test_accuracy"].max()
    exposed = verdicts.count(-by.safer)
    return (
        f"{_strengths(len(settings)).capitalize()} of {defense}{_range(rows)}: "
        f"{'' if None in verdicts else f'none clearly {by.moved}, '}"
        f"{f'{exposed} clearly {by.moved_back}, ' if exposed else ''}"
        f"{by.name} {_span(least, most)}, "
        f"test accuracy {_span(words.percent(worst), words.percent(best))}."
    )


def _strengths(count: int) -> str:
    return "one strength" if count == 1 else f"{count} strengths"


def _span(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def _epsilon(row: Any) -> str:
    claim = claim_of(row)
    return f" (epsilon {words.epsilon(row.epsilon)} for {claim})" if claim.is_guarantee else " (no guarantee)"


def _range(rows: pd.DataFrame) -> str:
    claims = rows[CLAIM].drop_duplicates()
    claim = Claim(*claims.iloc[0])
    if len(claims) > 1:
        # Epsilons of different claims do not make a range.
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
        return f"Epsilon for {claim} shows no clear trend with the {measure} {evidence}."
    direction = "smaller" if row.rho < 0 else "larger"
    return f"A {direction} epsilon for {claim} went with a larger {measure} {evidence}."
