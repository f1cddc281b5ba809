"""The tables of ``side_effects.md``: adversarial and backdoor robustness of the models of a study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from dpmi.metrics.backdoor import TRIGGERS
from dpmi.metrics.robustness import ATTACKS
from dpmi.report import words
from dpmi.report.numbers.side_effects import NAMES
from dpmi.report.page.cells import Table


def tables(summarized: pd.DataFrame) -> list[Table]:
    """The table of adversarial attacks, and the table of backdoors if they were measured.

    Args:
        summarized: table of :func:`dpmi.report.numbers.side_effects.summary`.
    """
    adversarial = {"test_accuracy": "Test accuracy"}
    adversarial |= {f"{name}_accuracy": f"{NAMES[name]}: accuracy" for name in ATTACKS}
    adversarial |= {f"{name}_targeted": f"{NAMES[name]}: targeted success" for name in ATTACKS}
    backdoor = {"test_accuracy": "Test accuracy, not poisoned"}
    for name in TRIGGERS:
        backdoor |= {
            f"{name}_accuracy": f"{NAMES[name]}: test accuracy",
            f"{name}_success": f"{NAMES[name]}: success",
            f"{name}_unpoisoned": f"{NAMES[name]}: success, not poisoned",
        }
    found = [
        _table(
            summarized,
            adversarial,
            "Adversarial robustness: accuracy under an untargeted attack (higher is more robust), and share of images "
            "for which a targeted attack reaches the label of the next class (lower is more robust). Means over seeds "
            "with 95 % Student intervals.",
            "FGSM, PGD and BIM change each pixel by at most 8/255; PGD and BIM take 10 steps of 2/255. The one-pixel "
            "attack uses differential evolution with 10 generations of 10 candidates. Images that the model "
            "misclassifies without an attack count as fooled. A model that draws noise, or whose gradients vanish, can "
            "look more robust than it is.",
        )
    ]
    if any(f"{name}_success" in summarized for name in TRIGGERS):
        found.append(
            _table(
                summarized,
                backdoor,
                "Backdoor robustness: 1 % of the training images carry a trigger and the label of class 0. Success: "
                "share of test images of other classes that the model assigns to class 0 if they carry the trigger "
                "(lower is more robust). Means over seeds with 95 % Student intervals.",
                "Success, not poisoned: the same trigger on the model of the study, which was trained without it.",
            )
        )
    return found


def _table(summarized: pd.DataFrame, columns: dict[str, str], caption: str, note: str) -> Table:
    shown = {measure: text for measure, text in columns.items() if measure in summarized}
    rows = [
        (row["label"], f"{row['seeds']}", *(_cell(row, measure) for measure in shown))
        for row in summarized.to_dict("records")
    ]
    return Table(caption, ("Model", "Seeds", *shown.values()), rows, (note,))


def _cell(row: Mapping[Any, Any], measure: str) -> str:
    return words.percent_interval(*(row[c] for c in (measure, f"{measure}_low", f"{measure}_high")))
