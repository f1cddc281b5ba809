"""Adaptive attacks: the share of a defence's gain that survives them, and what each adaptation adds."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from dpmi.metrics import paired_difference
from dpmi.report.numbers.pairs import by_seed
from dpmi.report.numbers.strongest import only, strongest
from dpmi.report.numbers.tables import judging
from dpmi.study.results import Results


def is_adaptive(results: Results) -> bool:
    """Whether the study has an adaptive attack."""
    return bool((results.trials["adaptation"] != "").any())


def survival(results: Results) -> pd.DataFrame:
    """One row per defended setting: its gain against plain attacks, and against plain and adaptive attacks.

    The gain is the top-1 linkage, or without linkage the attack accuracy, of the strongest attack on the undefended
    model minus that of the strongest attack on the defended model. Without an evaluator too, it is the corresponding
    increase of the MIA distance. Columns: ``label``, ``reference``, ``seeds``; ``unaware`` and ``strongest``, the names
    of the strongest plain attack and of the strongest attack of all on the defended model; ``gain`` and
    ``gain_adaptive`` with their ``_low`` and ``_high`` (paired over seeds); ``survives``, the second gain divided by
    the first, NaN if the first is not clearly above 0.
    """
    measure = judging(results.trials)
    sign = 1 if measure == "distance" else -1
    kinds = {"": only(results, results.trials["adaptation"] == ""), "_adaptive": results}
    chosen = {kind: {one.label: one for one in strongest(some)} for kind, some in kinds.items()}
    defense = results.trials.groupby("label", sort=False)["defense"].first()
    rows = []
    for label, reference in product(defense.index[defense != "none"], defense.index[defense == "none"]):
        row: dict[str, Any] = {"label": label, "reference": reference}
        row |= {"unaware": chosen[""][label].name, "strongest": chosen["_adaptive"][label].name}
        for kind, of in chosen.items():
            ours, theirs = (by_seed(results, of[name].trials, measure) for name in (label, reference))
            row |= _gain(f"gain{kind}", sign * ours, sign * theirs)
        row["survives"] = row["gain_adaptive"] / row["gain"] if row["gain_low"] > 0 else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def adapted(results: Results) -> pd.DataFrame:
    """One row per setting, attack and adaptation: the effect of the adaptation.

    Columns: ``label``, ``attack``, ``adaptation``, ``seeds``; ``plain`` and ``known``, the mean of the same
    measure of the plain and of the adaptive attack; ``added``, their difference, with its paired interval over seeds.
    """
    measure = judging(results.trials)
    rows = []
    for (label, attack), mine in results.trials.groupby(["label", "attack"], sort=False):
        plain = by_seed(results, mine[mine["adaptation"] == ""], measure)
        for adaptation, those in mine[mine["adaptation"] != ""].groupby("adaptation", sort=False):
            known = by_seed(results, those, measure)
            row: dict[str, Any] = {"label": label, "attack": attack, "adaptation": adaptation}
            row |= {"plain": np.nanmean(plain), "known": np.nanmean(known)} | _gain("added", known, plain)
            rows.append(row)
    return pd.DataFrame(rows)


def _gain(name: str, ours: pd.DataFrame, theirs: pd.DataFrame) -> dict[str, Any]:
    """The paired difference over the common seeds, and their number."""
    seeds = ours.index.intersection(theirs.index)
    found = paired_difference(ours.loc[seeds], theirs.loc[seeds]) if len(seeds) else (np.nan,) * 3
    return {"seeds": len(seeds), **dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))}
