"""Our numbers beside those that [Z20] prints; reads the tables that the studies left in this folder.

``python docs/results/compare.py`` prints the Markdown that README.md in this folder shows.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from dpmi.metrics import confidence_interval
from dpmi.report.numbers.tables import correlations

HERE = Path(__file__).parent

#: (defence, noise multiplier) -> (test accuracy, epsilon), as printed in [Z20] section V.
PRINTED = {
    "mnist": {
        ("none", None): (0.989, None),
        ("record-dp", 0.65): (0.96, 6.0),
        ("record-dp", 1.0): (0.93, 1.6),
        ("record-dp", 1.8): (0.91, 0.5),
        ("subclass-dp", 1.6): (0.96, 18.6),
        ("subclass-dp", 3.0): (0.93, 8.2),
        ("subclass-dp", 3.65): (0.91, 7.0),
    },
    "faces94": {
        ("none", None): (1.0, None),
        ("record-dp", 0.8): (0.995, 9.1),
        ("record-dp", 1.1): (0.992, 4.2),
        ("record-dp", 1.4): (0.99, 2.7),
        ("class-dp", 0.8): (0.995, 62.0),
        ("class-dp", 1.2): (0.992, 45.5),
        ("class-dp", 1.6): (0.99, 40.5),
    },
}

#: Record-DP on Faces94 at noise 0.8: with the epsilon that [Z20] prints, and with the accuracy.
AT_EPSILON, AT_ACCURACY = (
    f"0.8, sampling rate {q}, steps {steps}, learning rate {rate}"
    for q, steps, rate in ((0.05, 390, 0.5), (0.2, 1000, 1))
)

#: The pairs that [Z20] sets side by side in Figures 6 and 11: by its own accounts, of equal accuracy.
MATCHED = {
    study: [
        (f"record-dp, noise multiplier {r}", f"{bucket}, noise multiplier {b:g}")
        for r, b in zip(records, buckets, strict=True)
    ]
    for study, bucket, records, buckets in (
        ("mnist", "subclass-dp", ("0.65", "1", "1.8"), (1.6, 3.0, 3.65)),
        ("faces94", "class-dp", (AT_EPSILON, "1.1", "1.4"), (0.8, 1.2, 1.6)),
    )
}

#: Pairs that are of about equal accuracy here.
MATCHED["mnist"].append(("record-dp, noise multiplier 0.65", "subclass-dp, noise multiplier 0.3"))
MATCHED["faces94"].append((f"record-dp, noise multiplier {AT_ACCURACY}", "class-dp, noise multiplier 0.01"))

#: MIA distance per class, [Z20] Tables I (Euclidean, digits 0 to 9) and II (1 - SSIM, six people).
PRINTED_DISTANCES = {
    "mnist": {
        "miface": (8.02, 8.36, 9.14, 9.50, 8.35, 9.76, 9.64, 8.38, 8.79, 8.93),
        "enhanced": (5.93, 7.89, 8.51, 7.92, 8.2, 8.41, 8.51, 7.76, 8.06, 8.76),
    },
    "faces94": {
        "miface": (0.707, 0.663, 0.64, 0.681, 0.668, 0.707),
        "enhanced": (0.691, 0.643, 0.626, 0.664, 0.65, 0.692),
    },
}


def tables(study: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two tables of a study: one row per trial, one row per trial and class."""
    return pd.read_parquet(HERE / study / "trials.parquet"), pd.read_parquet(
        HERE / study / "per_class.parquet"
    )


def accuracy_and_epsilon(study: str) -> None:
    """[Z20] Figures 7, 8, 12 and 13 as a table: accuracy, epsilon, distance and advantage of every model."""
    trials, per_class = tables(study)
    print(
        "| model | paper: accuracy | ours | paper: epsilon | Theorem 1, ours | tight, add/remove | "
        "**tight, replace** | MIA distance | advantage |\n" + "| --- " * 9 + "|"
    )
    for label, rows in trials.groupby("label", sort=False):
        strength = rows["strength"].iloc[0]
        key = (rows["defense"].iloc[0], None if pd.isna(strength) else float(strength))
        accuracy, epsilon = PRINTED[study].get(key, (None, None))
        gain = _interval(per_class[per_class["trial"].isin(rows["trial"])], "advantage")
        cells = [
            label,
            "" if accuracy is None else f"{accuracy:.1%}",
            f"{rows['test_accuracy'].mean():.1%}",
            "" if epsilon is None else f"{epsilon:g}",
            *(_epsilon(rows[c].max()) for c in ("epsilon_theorem1", "epsilon_add_remove", "epsilon")),
            f"{rows['distance'].mean():.3f}",
            gain,
        ]
        print("| " + " | ".join(map(str, cells)) + " |")


def distances_per_class(study: str) -> None:
    """[Z20] Tables I and II: the two attacks on the model without a defence."""
    trials, per_class = tables(f"{study}-attacks")
    printed = PRINTED_DISTANCES[study]
    shown = len(printed["miface"])
    per_class = per_class.merge(trials[["trial", "attack"]], on="trial")
    print(
        "| | "
        + " | ".join(f"class {k}" for k in range(shown))
        + " | mean of all |\n"
        + "| --- " * (shown + 2)
        + "|"
    )
    for attack in ("miface", "enhanced"):
        means = per_class[per_class["attack"] == attack].groupby("class_index")["distance"].mean()
        paper = printed[attack]
        print(
            f"| {attack}, paper | " + " | ".join(f"{d:g}" for d in paper) + f" | {sum(paper) / shown:.3f} |"
        )
        print(
            f"| {attack}, ours | "
            + " | ".join(f"{d:.3f}" for d in means[:shown])
            + f" | {means.mean():.3f} |"
        )
    for column in ("distance_blank", "distance_public_mean", "distance_public_nearest"):
        means = per_class.groupby("class_index")[column].mean()
        name = column.replace("distance_", "no model: ").replace("_", " ")
        print(f"| {name} | " + " | ".join(f"{d:.3f}" for d in means[:shown]) + f" | {means.mean():.3f} |")


def correlation(study: str) -> None:
    """The claim behind Figures 7(b), 8(b), 12(b) and 13(b): does epsilon go with the distance?"""
    print("| unit | attack | Spearman | p | trials |\n| --- | --- | --- | --- | --- |")
    for row in correlations(tables(study)[0]).itertuples():
        print(f"| {row.unit} | {row.attack} | {row.rho:.2f} | {row.p:.3f} | {row.n} |")


def per_class_comparison(study: str, ours: str, theirs: str) -> None:
    """[Z20] Figures 6 and 11: class by class, is the bucket-level model farther than the record-level one?"""
    trials, per_class = tables(study)
    wide = per_class.pivot_table(index="trial", columns="class_index", values="distance")
    by_seed = {
        label: wide.loc[rows.sort_values("seed")["trial"]].to_numpy()
        for label, rows in trials.groupby("label")
    }
    difference = by_seed[ours] - by_seed[theirs]
    mean, low, high = confidence_interval(difference)
    wins = int((difference.mean(axis=0) > 0).sum())
    print(
        f"- {ours} minus {theirs}: {mean:+.3f} [{low:+.3f}, {high:+.3f}], farther in {wins} of "
        f"{difference.shape[1]} classes"
    )


def clusters() -> None:
    """[Z20] Figure 9: more subclasses, more accuracy; does the distance fall?"""
    print(
        "| model | units | accuracy | epsilon (tight, replace) | MIA distance | advantage |\n"
        + "| --- " * 6
        + "|"
    )
    for row in tables("mnist-clusters")[0].itertuples():
        units = "" if pd.isna(row.buckets) else f"{row.buckets:g}"
        print(
            f"| {row.label} | {units} | {row.test_accuracy:.1%} | {_epsilon(row.epsilon)} | {row.distance:.3f} | "
            f"{row.advantage:+.2f} |"
        )


def _interval(per_class: pd.DataFrame, column: str) -> str:
    values = per_class.pivot_table(index="trial", columns="class_index", values=column).to_numpy()
    mean, low, high = confidence_interval(values)
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def _epsilon(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.4g}"


def main() -> None:
    """Print every section for which a study is there."""
    for study in ("mnist", "faces94"):
        if not (HERE / study / "trials.parquet").exists():
            continue
        print(f"\n### {study}: accuracy, epsilon, distance\n")
        accuracy_and_epsilon(study)
        print(f"\n### {study}: rank correlation of epsilon with MIA distance\n")
        correlation(study)
        print(f"\n### {study}: class by class\n")
        for record, bucket in MATCHED[study]:
            per_class_comparison(study, bucket, record)
        if (HERE / f"{study}-attacks" / "trials.parquet").exists():
            print(f"\n### {study}: the two attacks without a defence\n")
            distances_per_class(study)
    if (HERE / "mnist-clusters" / "trials.parquet").exists():
        print("\n### mnist: number of subclasses per class, noise 1.6, one seed\n")
        clusters()


if __name__ == "__main__":
    main()
