"""A study that never ran, with numbers of the size that real ones have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from dpmi.report.numbers import tables
from dpmi.study.results import Results

# defense, label, strength, unit, delta, epsilons (tight, add/remove, Lemma 3, Theorem 1), distance, accuracy
SETTINGS = (
    ("none", "none", math.nan, "none", math.nan, (math.inf, math.inf, math.inf, math.inf), 1.21, 0.972),
    ("record-dp", "record-dp, noise 0.65", 0.65, "record", 1e-5, (9.84, 5.52, 14.1, 12.3), 1.36, 0.957),
    ("record-dp", "record-dp, noise 1", 1.0, "record", 1e-5, (2.843, 1.828, 5.1, 4.292), 1.39, 0.935),
    ("record-dp", "record-dp, noise 1.8", 1.8, "record", 1e-5, (1.02, 0.61, 1.9, 1.7), 1.35, 0.912),
    (
        "subclass-dp",
        "subclass-dp, noise 1.6",
        1.6,
        "subclass",
        1e-3,
        (15.924, 7.448, 28.36, 18.585),
        1.71,
        0.954,
    ),
    ("subclass-dp", "subclass-dp, noise 3", 3.0, "subclass", 1e-3, (5.440, 2.452, 10.2, 8.203), 1.95, 0.931),
    (
        "subclass-dp",
        "subclass-dp, noise 3.65",
        3.65,
        "subclass",
        1e-3,
        (4.466, 1.994, 8.9, 7.008),
        2.08,
        0.908,
    ),
)
CLASS_DP = (
    ("class-dp", "class-dp, noise 0.8", 0.8, "class", 1e-2, (43.0, 18.0, 80.0, 60.0), 1.7, 0.94),
    ("class-dp", "class-dp, noise 1.6", 1.6, "class", 1e-2, (13.0, 5.5, 25.0, 18.6), 1.8, 0.91),
    ("class-dp", "class-dp, noise 3", 3.0, "class", 1e-2, (5.0, 2.1, 9.0, 8.0), 2.0, 0.8),
)
BLANK, PUBLIC_MEAN, PUBLIC_NEAREST = 2.25, 1.92, 1.45
HOSTILE_NAME = "<b>x</b>"


def make_results(
    seeds: Sequence[int] = (0, 1, 2),
    attacks: Sequence[str] = ("mi-face",),
    settings: Sequence[tuple] = SETTINGS,
    planned: int | None = None,
    channels: int = 1,
) -> Results:
    """A finished study; ``planned`` above the number of trials makes it an interrupted one."""
    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)
    examples = np.stack([images[digits.target == k][0] for k in range(10)])[:, None].repeat(channels, axis=1)
    means = np.stack([images[digits.target == k].mean(0) for k in range(10)])[:, None].repeat(
        channels, axis=1
    )
    names = (HOSTILE_NAME, *(str(k) for k in range(1, 10)))
    rng = np.random.default_rng(7)
    trials, per_class, recons, statements = [], [], {}, {}
    for attack_place, attack in enumerate(attacks):
        for defense, label, strength, unit, delta, epsilons, distance, accuracy in settings:
            for seed in seeds:
                trial = f"{defense}-{strength}-{attack}-{seed}"
                private = unit != "none"
                distances = distance + 0.1 * attack_place + rng.normal(0, 0.05) + rng.normal(0, 0.12, 10)
                advantage = 1 - distances / min(BLANK, PUBLIC_MEAN)
                over_nearest = 1 - distances / PUBLIC_NEAREST
                trials.append(
                    {
                        "trial": trial,
                        "data": "digits",
                        "model": "mlp",
                        "defense": defense,
                        "label": label,
                        "strength": strength,
                        "strength_name": "" if math.isnan(strength) else "noise_multiplier",
                        "attack": attack,
                        "adaptation": "",
                        "seed": seed,
                        "unit": unit,
                        "adjacency": "replace" if private else "none",
                        "accountant": "tight" if private else "none",
                        "delta": delta,
                        "epsilon": epsilons[0],
                        "epsilon_add_remove": epsilons[1],
                        "epsilon_lemma3": epsilons[2],
                        "epsilon_theorem1": epsilons[3],
                        "steps": 200.0 if private else math.nan,
                        "sampling_rate": 0.2 if private else math.nan,
                        "noise_multiplier": strength,
                        "max_grad_norm": 3.0 if private else math.nan,
                        "buckets": 500.0 if private else math.nan,
                        "train_accuracy": accuracy + 0.01,
                        "test_accuracy": accuracy + rng.normal(0, 0.004),
                        "distance_kind": "euclidean",
                        "distance": distances.mean(),
                        "distance_blank": BLANK,
                        "distance_public_mean": PUBLIC_MEAN,
                        "distance_public_nearest": PUBLIC_NEAREST,
                        "advantage": advantage.mean(),
                        "advantage_over_nearest": over_nearest.mean(),
                        "score": 0.93,
                        "iterations": 500.0,
                        "queries": 0.0,
                        "grad_calls": 500.0,
                        "train_seconds": 2.1,
                        "attack_seconds": 0.8,
                        "trained_by": "dpmi 1.0",
                        "attacked_by": "dpmi 1.0",
                        "measured_by": "dpmi 1.0",
                        "attack_settings": f"{attack.title()}(iterations=500, learning_rate=0.1)",
                    }
                )
                for index, name in enumerate(names):
                    per_class.append(
                        {
                            "trial": trial,
                            "class_index": index,
                            "class_name": name,
                            "distance": distances[index],
                            "distance_blank": BLANK,
                            "distance_public_mean": PUBLIC_MEAN,
                            "distance_public_nearest": PUBLIC_NEAREST,
                            "advantage": advantage[index],
                            "advantage_over_nearest": over_nearest[index],
                            "score": 0.93,
                        }
                    )
                haze = min(1.0, (distance - 1.0) / 1.2)
                noise = rng.random(means.shape)
                recons[trial] = np.clip((1 - haze) * means + haze * noise, 0, 1).astype(np.float32)
                statements[trial] = (
                    f"{label}: epsilon = {epsilons[0]} for one {unit}.\nConditional on the partition."
                    if private
                    else "No privacy guarantee: trained without noise."
                )
    return Results(
        name="digits <demo>",
        trials=pd.DataFrame(trials),
        per_class=pd.DataFrame(per_class),
        recons=recons,
        examples=examples,
        class_names=names,
        statements=statements,
        planned=len(trials) if planned is None else planned,
        spec_toml='name = "digits <demo>"\nseeds = [0, 1, 2]\n',
        command="dpmi run digits.toml --out runs/digits",
    )


def drawn(picture: ModuleType, results: Results) -> Figure:
    """A picture of a study as the report draws it."""
    figure: Figure = picture.draw(results, tables.summary(results))
    return figure


def with_evaluator(results: Results) -> Results:
    """The same study with an evaluator, which takes the fewer reconstructions for their class the farther they are."""
    nearness = (2.5 - results.per_class["distance"]).clip(0, 1)
    per_class = results.per_class.assign(attack_accuracy=nearness, knn_distance=results.per_class["distance"])
    means = per_class.groupby("trial")["attack_accuracy"].mean()
    trials = results.trials.assign(
        attack_accuracy=results.trials["trial"].map(means),
        attack_accuracy_top5=1.0,
        fid=80.0,
        density=0.5,
        coverage=0.5,
        evaluator="scnn",
        evaluator_accuracy=0.99,
    )
    return replace(results, trials=trials, per_class=per_class)


def with_linkage(results: Results, shares: Mapping[str, float], *, classes: int = 5) -> Results:
    """The same study with linkage: every model has half of the classes, and links this share of them.

    Args:
        results: a study.
        shares: label of a defence -> how many of ten reconstructions are nearest to their class; others link all.
        classes: number of private classes, and of decoys.
    """
    trials = results.trials.copy()
    parts = []
    for place, (trial, label, seed) in enumerate(trials[["trial", "label", "seed"]].itertuples(index=False)):
        mine = results.per_class[results.per_class["trial"] == trial]
        mine = mine[mine["class_index"] % 2 == seed % 2].head(classes)
        won = round(shares.get(label, 1.0) * 10)
        linked = np.array([float((3 * (place + k)) % 10 < won) for k in range(len(mine))])
        parts.append(
            mine.assign(
                linkage_top1=linked,
                linkage_auc=0.6 + 0.4 * linked,
                linkage_top1_mia=linked,
                linkage_auc_mia=0.6 + 0.4 * linked,
            )
        )
    per_class = pd.concat(parts)
    of_class = trials["unit"] == "class"
    trials = trials.assign(
        **{
            name: trials["trial"].map(per_class.groupby("trial")[name].mean())
            for name in ("linkage_top1", "linkage_auc", "linkage_top1_mia", "linkage_auc_mia")
        },
        linkage_chance=1 / (1 + classes),
        linkage_bound_top1=np.where(of_class, np.minimum(1, 0.02 * trials["epsilon"] + 0.2), 1.0),
        linkage_bound_auc=np.where(of_class, 0.9, 1.0),
        accuracy_bound=np.where(of_class, 0.95, 1.0),
    )
    recons = {
        trial: images[per_class.loc[per_class["trial"] == trial, "class_index"]]
        for trial, images in results.recons.items()
    }
    return replace(results, trials=trials, per_class=per_class, recons=recons)


@pytest.fixture(scope="session")
def results() -> Results:
    return make_results()
