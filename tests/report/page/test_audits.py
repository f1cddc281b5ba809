"""The table of audits: one row per model setting, and what contradicts a ledger first."""

from __future__ import annotations

import math

import pandas as pd

from dpmi.report.page.audits import audited, warning


def trials(*, violated: bool = False) -> pd.DataFrame:
    verdict = "violated (p = 1e-09): noise is 0.5, not 1" if violated else "consistent"
    claim = {"unit": "class", "adjacency": "replace", "delta": 1e-3, "accountant": "tight", "epsilon": 8.0}
    rows = [
        {
            "label": "class-dp",
            "model_key": "a",
            "audit_lower_bound": 5.0,
            "audit_ceiling": 6.0,
            "audit_p_value": 0.4,
        },
        {
            "label": "class-dp",
            "model_key": "a",
            "audit_lower_bound": 5.0,
            "audit_ceiling": 6.0,
            "audit_p_value": 0.4,
        },
        {
            "label": "class-dp",
            "model_key": "b",
            "audit_lower_bound": 5.5,
            "audit_ceiling": 6.1,
            "audit_p_value": 0.2,
        },
    ]
    found = [{**claim, **row, "audit_verdict": "consistent"} for row in rows]
    found[2]["audit_verdict"] = verdict
    nothing = {**claim, "label": "none", "model_key": "c", "audit_verdict": "", "audit_lower_bound": math.nan}
    return pd.DataFrame([*found, nothing])


def test_one_row_per_setting_counts_each_model_once() -> None:
    table = audited(trials())
    ((label, claim, least, largest, ceiling, models, p, verdict),) = table.rows
    assert (label, models, p, verdict) == ("class-dp", "2", "0.2", "consistent")
    assert claim.startswith("8")
    assert (float(least), float(largest), float(ceiling)) == (5.0, 5.5, 6.1)
    assert len(table.header) == 8
    assert warning(trials()) == warning(trials().drop(columns="audit_verdict")) == ""


def test_a_contradiction_is_named_and_comes_first() -> None:
    ((*_, verdict),) = audited(trials(violated=True)).rows
    assert verdict == "1 of 2: violated (p = 1e-09): noise is 0.5, not 1"
    assert warning(trials(violated=True)) == (
        "Audits contradict the ledger of 1 of the models: do not rely on their epsilon. "
    )
