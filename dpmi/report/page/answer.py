"""The findings of a study in words, from its tables alone.

A difference from the undefended model is called clear only if the two 95 % intervals do not overlap. A single seed
gives no interval; then the findings state the numbers and claim no difference.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pandas as pd

from dpmi.report import words
from dpmi.report.numbers.tables import CLAIM, STRONGEST, claim_of, rows_of
from dpmi.report.page.cells import measured
from dpmi.report.words import Claim

SIGNIFICANCE = 0.05


class Judged(NamedTuple):
    """The measure that judges a defence: attack accuracy if the study has an evaluator, else MIA distance."""

    column: str
    name: str
    safer: int
    """+1 if larger is safer, -1 if smaller is safer."""

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


DISTANCE = Judged("distance", "MIA distance", 1)
RECOGNISED = Judged("attack_accuracy", "attack accuracy", -1)


class Finding(NamedTuple):
    """The findings about one attack."""

    verdict: str
    undefended: str
    points: list[str]


def findings(
    summary: pd.DataFrame, correlations: pd.DataFrame, differences: pd.DataFrame, distance_kind: str
) -> list[Finding]:
    """One finding per attack: each defence compared with the undefended model, and the correlation with epsilon.

    Args:
        summary: table of :func:`dpmi.report.numbers.tables.summary`.
        correlations: table of :func:`dpmi.report.numbers.tables.correlations`.
        differences: table of :func:`dpmi.report.numbers.pairs.differences`.
        distance_kind: a key of ``words.DISTANCES``.
    """
    found = []
    by = RECOGNISED if RECOGNISED.column in summary else DISTANCE
    for attack, rows in summary.groupby("attack", sort=False):
        trends = rows_of(correlations[correlations["attack"] == attack])
        points = [sentence for trend in trends if (sentence := _trend(trend))]
        undefended = next(rows_of(rows[rows["defense"] == "none"]), None)
        if undefended is None:
            verdict = f"No undefended model was attacked with {attack}, so the study judges no defence."
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
    against = "the strongest attack on each model" if attack == STRONGEST else attack
    return f"Against {against}: {'; '.join(clauses) or 'no defended model is finished'}."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


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


def _undefended(row: Any, distance_kind: str, by: Judged) -> str:
    text = f"On the undefended model (test accuracy {measured(row, 'test_accuracy', share=True)}), this attack reaches "
    if by is RECOGNISED:
        text += f"an attack accuracy of {measured(row, by.column, share=True)}, "
    text += (
        f"an MIA distance of {measured(row, 'distance')} ({words.DISTANCES[distance_kind]}; "
        f"a blank image: {words.number(row.distance_blank)}) and an advantage of {measured(row, 'advantage')}."
    )
    if row.advantage_low <= 0 or row.advantage <= 0:
        text += " The advantage is not clearly above 0, so the distances of this attack say little about a defence."
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
