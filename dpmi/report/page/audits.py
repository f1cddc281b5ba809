"""The table of audits: what the canaries of every audited model say about its epsilon."""

from __future__ import annotations

import pandas as pd

from dpmi.report import words
from dpmi.report.page.cells import Table, guarantee


def warning(trials: pd.DataFrame) -> str:
    """The sentence that comes before every other if an audit contradicts a ledger; empty if none does."""
    if "audit_verdict" not in trials:
        return ""
    models = trials[trials["audit_verdict"].str.startswith("violated")]["model_key"].nunique()
    if not models:
        return ""
    return f"Audits contradict the ledger of {models} of the models: do not rely on their epsilon. "


def audited(trials: pd.DataFrame) -> Table:
    """The audits of a study, one row per model setting; the worst of its seeds."""
    rows = []
    audited_models = trials.dropna(subset=["audit_lower_bound"]).drop_duplicates("model_key")
    for label, models in audited_models.groupby("label", sort=False):
        worst = models.sort_values("audit_p_value").iloc[0]
        wrong = models[models["audit_verdict"] != "consistent"]
        rows.append(
            (
                str(label),
                guarantee(worst),
                words.number(models["audit_lower_bound"].min()),
                words.number(models["audit_lower_bound"].max()),
                words.number(models["audit_ceiling"].max()),
                str(len(models)),
                f"{worst.audit_p_value:.2g}",
                "consistent"
                if wrong.empty
                else f"{len(wrong)} of {len(models)}: {wrong.iloc[0].audit_verdict}",
            )
        )
    return Table(
        "Audits: the epsilon that the trainings have at least, with 95 % confidence each, measured with canary buckets "
        "that see every noisy sum. Least and largest of the models of a setting.",
        (
            "Model",
            "epsilon, claimed",
            "At least, least",
            "At least, largest",
            "Ceiling",
            "Models",
            "p, least",
            "Verdict",
        ),
        rows,
        (
            "The ceiling is what a perfect training reaches on average with as many canaries: a lower bound far below "
            "epsilon means a weak test, not a strong promise. An audit finds faults; it proves no promise.",
        ),
    )
