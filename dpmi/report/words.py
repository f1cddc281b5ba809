"""Number formats and recurring sentences of a report, shared by tables, figures and text.

>>> print(epsilon(15.9241), delta(1e-3), number(8.31), interval(8.31, 8.1, 8.52).replace(GLUE, " "))
15.93 1e-3 8.31 8.31 [8.10, 8.52]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

ADJACENCIES = {"replace": "replace-one", "add_remove": "add/remove-one"}
DISTANCES = {"euclidean": "Euclidean, pixels in [0, 1]", "ssim": "1 − SSIM"}
MEASURES = {
    "linkage_top1": "top-1 linkage",
    "linkage_auc": "AUC of linkage",
    "distance": "MIA distance",
    "attack_accuracy": "attack accuracy",
}
"""Column -> name of the measures that are correlated with epsilon."""
MISSING = "–"
GLUE = "\N{NO-BREAK SPACE}"
"""Keeps an interval or a percentage on one line of a narrow column."""


class Claim(NamedTuple):
    """What an epsilon refers to. Two epsilons share an axis or a correlation only if all four fields agree."""

    unit: str
    adjacency: str
    delta: float
    accountant: str

    @property
    def is_guarantee(self) -> bool:
        """Whether there is a unit of privacy."""
        return self.unit != "none"

    def __str__(self) -> str:
        """Return the words that follow every epsilon.

        >>> print("epsilon for", Claim("subclass", "replace", 1e-3, "tight"))
        epsilon for one subclass (replace-one, delta = 1e-3, tight)
        """
        adjacency = ADJACENCIES.get(self.adjacency, self.adjacency)
        return f"one {self.unit} ({adjacency}, delta = {delta(self.delta)}, {self.accountant})"


def epsilon(value: float) -> str:
    """Four significant digits, rounded up, so that the printed value is still an upper bound.

    >>> epsilon(4.46601), epsilon(112.53), epsilon(18.0), epsilon(math.inf), epsilon(math.nan)
    ('4.467', '112.6', '18', '∞', '–')
    """
    if math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞"
    if value == 0:
        return "0"
    scale = 10.0 ** (3 - math.floor(math.log10(value)))
    # Without the slack, binary round-off would raise the last digit of a short value, such as 18.585.
    return f"{math.ceil(value * scale - 1e-9) / scale:.4g}"


def bound(probability: float) -> str:
    """A bound on a probability as a percentage, rounded up to one decimal; a bound of 1 is no bound.

    >>> [bound(value).replace(GLUE, " ") for value in (0.33041, 0.717, 0.99901, 1.0)]
    ['33.1 %', '71.7 %', '100 %: no bound', '100 %: no bound']
    """
    # The same slack as in epsilon().
    tenths = math.ceil(1000 * probability - 1e-9)
    return f"100{GLUE}%: no bound" if tenths >= 1000 else f"{tenths / 10:.1f}{GLUE}%"


def delta(value: float) -> str:
    """Short scientific notation.

    >>> delta(1e-5), delta(0.0025), delta(math.nan)
    ('1e-5', '2.5e-3', '–')
    """
    if math.isnan(value):
        return MISSING
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def percent(value: float) -> str:
    """A share in [0, 1] as a percentage with one decimal."""
    return MISSING if math.isnan(value) else f"{100 * value:.1f}{GLUE}%"


def number(value: float) -> str:
    """Two decimals, with a typographic minus sign.

    >>> number(-0.034), number(8.017), number(-0.001), number(math.nan)
    ('−0.03', '8.02', '0.00', '–')
    """
    if math.isnan(value):
        return MISSING
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text.replace("-", "−")


def setting(value: float) -> str:
    """A hyper-parameter in short form.

    >>> setting(200.0), setting(1.6), setting(math.nan)
    ('200', '1.6', '–')
    """
    return MISSING if math.isnan(value) else f"{value:g}"


def interval(mean: float, low: float, high: float) -> str:
    """Mean with its interval, or the mean alone if there is no interval."""
    if math.isnan(low) or math.isnan(high):
        return number(mean)
    return f"{number(mean)} [{number(low)},{GLUE}{number(high)}]"


def percent_interval(mean: float, low: float, high: float) -> str:
    """The same for a share in [0, 1], as a percentage.

    >>> print(percent_interval(0.96, 0.951, 0.969).replace(GLUE, " "))
    96.0 % [95.1, 96.9]
    """
    if math.isnan(low) or math.isnan(high):
        return percent(mean)
    return f"{percent(mean)} [{100 * low:.1f},{GLUE}{100 * high:.1f}]"


def listed(names: Sequence[str]) -> str:
    """Names as a list in a sentence.

    >>> listed(["a", "b", "c"]), listed(["a"])
    ('a, b and c', 'a')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def p_value(value: float) -> str:
    """Two significant digits, or "< 0.001".

    >>> p_value(0.0312), p_value(3e-9)
    ('0.031', '< 0.001')
    """
    return "< 0.001" if value < 1e-3 else f"{value:.2g}"


def definitions(trials: pd.DataFrame) -> list[str]:
    """Define the measures of a report, one sentence each.

    >>> sentences = definitions(pd.DataFrame({"distance_kind": ["ssim"], "attack_accuracy": [0.1]}))
    >>> [sentence.split(" is ")[0] for sentence in sentences[1:4]]
    ['MIA distance', 'Advantage', 'Attack accuracy']
    """
    kind = DISTANCES[trials["distance_kind"].iloc[0]]
    found = [
        "MIA stands for model inversion attack.",
        "MIA distance is the distance from a reconstruction to the nearest private training image of its class "
        f"({kind}); larger is safer.",
        "Advantage is the share of the baseline distance that the attack saves, where the baseline is a blank image or "
        "the mean public image, whichever is nearer; 1 is an exact copy, 0 or less is no gain from the model.",
    ]
    if "linkage_top1" in trials:
        with_decoys = "linkage_top1_mia" in trials or "linkage_top1_whitened" in trials
        others = (
            "every decoy, a class that trained nothing" if with_decoys else "every other class of the model"
        )
        found.append(
            f"Top-1 linkage is the share of reconstructions that are nearer to their own class than to {others}; an "
            f"attacker without the model reaches exactly {percent(trials['linkage_chance'].max())}; smaller is safer."
        )
    if "attack_accuracy" in trials:
        found.append(
            "Attack accuracy is the share of reconstructions that the evaluator, a separately trained classifier, "
            "assigns to their class; smaller is safer."
        )
    return [*found, "A difference is called clear only if the two 95 % intervals do not overlap."]


def of_tables(pictured: bool) -> list[str]:
    """Say what an image is in a study of a table; nothing in a study of pictures."""
    return (
        []
        if pictured
        else [
            "The images of this study are rows of a table, every column scaled to [0, 1]; they are not shown."
        ]
    )


def made_by(trials: pd.DataFrame) -> list[str]:
    """State which code and which machines made the numbers.

    >>> made_by(pd.DataFrame({"trained_by": ["a", "a"], "attacked_by": ["a", "b"], "measured_by": ["b", "b"]}))[1:]
    ['Trained by a.', 'Attacked by a (1 trial), b (1 trial).', 'Measured by b.']
    """
    columns = {"trained_by": "Trained", "attacked_by": "Attacked", "measured_by": "Measured"}
    if trials[list(columns)].stack().nunique() == 1:
        return [f"Trained, attacked and measured by {trials['trained_by'].iloc[0]}."]
    lines = ["Several versions of the code, or several kinds of machines, made these numbers."]
    for column, done in columns.items():
        counts = trials[column].value_counts()
        makers = (f"{maker} ({n} trial{'s' if n > 1 else ''})" for maker, n in counts.items())
        lines.append(f"{done} by {counts.index[0] if len(counts) == 1 else ', '.join(makers)}.")
    return lines


def matched(matched_on: str | None) -> str:
    """State how the strengths of a study were chosen; empty if the user chose them.

    >>> matched("epsilon 8")
    'Strengths matched on epsilon 8.'
    >>> matched("accuracy 0.97")
    'Strengths matched on accuracy 0.97, measured on the same test set.'
    """
    if matched_on is None:
        return ""
    tail = ", measured on the same test set" if matched_on.startswith("accuracy") else ""
    return f"Strengths matched on {matched_on}{tail}."
