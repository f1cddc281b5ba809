"""Linkage of every study that measures it, beside chance and bound; reads the tables that the studies left here.

``python docs/results/linkage.py`` prints the Markdown that linkage.md in this folder shows, and fails if a cell of
attack, scorer and noise is above its bound by more than chance explains.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from scipy import stats

from dpmi.metrics import confidence_interval, games_interval

HERE = Path(__file__).parent
LEVEL = 0.01
"""Level of the test over all cells together."""
TOP1 = {"": "linkage_top1", "mia": "linkage_top1_mia", "whitened": "linkage_top1_whitened"}


def studies() -> list[str]:
    """The studies here that measure linkage, in alphabetical order."""
    found = []
    for path in sorted(HERE.glob("*/trials.parquet")):
        if "linkage_top1" in pq.read_schema(path).names:
            found.append(path.parent.name)
    return found


def tables(study: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two tables of a study: one row per trial, one row per trial and class."""
    return pd.read_parquet(HERE / study / "trials.parquet"), pd.read_parquet(
        HERE / study / "per_class.parquet"
    )


def cells(study: str) -> pd.DataFrame:
    """One row per setting, attack and scorer with a bound: won games, games, the bound, and an exact p-value.

    p is the probability of so many won games if every game were won with the probability of the bound.
    """
    trials, per_class = tables(study)
    rows = []
    keys = ["label", "attack", "adaptation"]
    for key, mine in trials.assign(adaptation=trials["adaptation"].astype(object).fillna("")).groupby(
        keys, sort=False
    ):
        bound = mine["linkage_bound_top1"].max()
        games = per_class[per_class["trial"].isin(mine["trial"])]
        for scorer, column in TOP1.items():
            if column not in games or bound >= 1:
                continue
            won, count = games[column].sum(), len(games)
            rows.append(
                {
                    **dict(zip(keys, key, strict=True)),
                    "study": study,
                    "scorer": scorer,
                    "won": won,
                    "games": count,
                    "bound": bound,
                    "p": stats.binom.sf(np.ceil(won) - 1, count, bound),
                }
            )
    return pd.DataFrame(rows)


def above_bound() -> pd.DataFrame:
    """The cells of all studies that are above their bound by more than chance explains, at 1 % over all cells."""
    found = pd.concat([cells(study) for study in studies()], ignore_index=True)
    return found[found["p"] < LEVEL / len(found)]


def linked(study: str) -> None:
    """Print the linkage of one study."""
    trials, per_class = tables(study)
    first = trials.iloc[0]
    classes = int(per_class.groupby("trial").size().iloc[0])
    other = "mia" if "linkage_top1_mia" in trials else "whitened"
    judged = "identified_gain" in trials
    print(
        f"### {study}: {trials['seed'].nunique()} models per point, {classes} private classes, chance "
        f"{first['linkage_chance']:.3f}\n"
    )
    columns = [
        "model",
        "epsilon",
        "attack",
        "top-1",
        "at most",
        "AUC",
        f"top-1 by {other}",
        *(["own / per decoy / gain", "gain at most"] if judged else []),
        "advantage",
        "accuracy",
    ]
    print("| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|")
    for (label, attack), mine in trials.groupby(["label", "attack"], sort=False):
        of = per_class[per_class["trial"].isin(mine["trial"])]

        def table(name: str, of: pd.DataFrame = of) -> np.ndarray:
            return of.pivot(index="trial", columns="class_index", values=name).to_numpy()

        row = [
            str(label),
            "∞"
            if np.isinf(mine["epsilon"].max())
            else f"{mine['epsilon'].max():.4g} ({mine['unit'].iloc[0]})",
            str(attack),
            _interval(games_interval(table("linkage_top1"))),
            _bound(mine["linkage_bound_top1"].max()),
            _interval(confidence_interval(table("linkage_auc"))),
            f"{mine[f'linkage_top1_{other}'].mean():.2f}",
        ]
        if judged:
            own, decoy, gain = (mine[f"identified_{name}"].mean() for name in ("own", "decoy", "gain"))
            row += [f"{own:.2f} / {decoy:.2f} / {gain:.2f}", _bound(mine["identified_bound"].max())]
        row += [f"{mine['advantage'].mean():+.2f}", f"{mine['test_accuracy'].mean():.3f}"]
        print("| " + " | ".join(row) + " |")
    print()
    _trend(trials)


def _trend(trials: pd.DataFrame) -> None:
    """Print Spearman's correlation of class-level epsilon with the AUC, the undefended models as infinite epsilon."""
    of_class = trials[trials["unit"].isin(["class", "none"]) & trials["defense"].isin(["class-dp", "none"])]
    if of_class["epsilon"].nunique() < 3:
        return
    said = []
    for attack, mine in of_class.groupby("attack", sort=False):
        rho = stats.spearmanr(mine["epsilon"].replace(np.inf, 1e300), mine["linkage_auc"]).statistic
        said.append(f"{attack} {rho:.2f}")
    print(f"Spearman of class-level epsilon with AUC, over models: {', '.join(said)}.\n")


def _interval(found: tuple[float, float, float]) -> str:
    mean, low, high = found
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def _bound(value: float) -> str:
    return "" if value >= 1 else f"{np.ceil(value * 1000) / 1000:.3f}"


def main() -> None:
    """Print the tables of all studies, and the test of all bounds."""
    for study in studies():
        linked(study)
    found = pd.concat([cells(study) for study in studies()], ignore_index=True)
    over = found[found["won"] / found["games"] > found["bound"]]
    print(
        f"{len(found)} cells of attack, scorer and noise have a bound; {len(over)} are above it by their mean, the "
        f"smallest of all p-values is {found['p'].min():.3g} (limit {LEVEL / len(found):.1g})."
    )
    wrong = above_bound()
    if len(wrong):
        raise SystemExit(f"above their bound:\n{wrong}")


if __name__ == "__main__":
    main()
