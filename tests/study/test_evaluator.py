"""Studies whose reconstructions are judged by an evaluator, with attacks that learn from public images."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dpmi import data, metrics, models
from dpmi.attacks import Reconstructions
from dpmi.report.numbers.tables import summary
from dpmi.report.write import write
from dpmi.study import SpecError, Store, parse
from dpmi.study.evaluator import Judge, columns
from dpmi.study.work import trial_numbers

from .conftest import JUDGED, comparable, run_study, trials_of

JUDGEMENT = (
    "attack_accuracy",
    "knn_distance",
    "feature_distance",
    "psnr",
    "fid",
    "precision",
    "density",
    "coverage",
)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, object]:
    return run_study(JUDGED, tmp_path_factory.mktemp("judged"))


def test_every_trial_is_judged(judged) -> None:
    _, results = judged
    assert len(results.trials) == 4
    for name in JUDGEMENT:
        assert results.trials[name].notna().all(), name
    assert results.trials["evaluator_accuracy"].between(0.8, 1).all()
    assert results.trials["attack_accuracy"].between(0, 1).all()
    assert (results.trials["attack_accuracy_worst"] >= results.trials["attack_accuracy"]).all()
    # 8x8 images are smaller than the window of SSIM.
    assert "ssim" not in results.trials
    per_class = results.per_class.groupby("trial")["attack_accuracy"].mean()
    for _, row in results.trials.iterrows():
        assert per_class[row["trial"]] == pytest.approx(row["attack_accuracy"])


def test_report_says_what_the_evaluator_says(judged, tmp_path: Path) -> None:
    _, results = judged
    page = write(results, tmp_path).read_text(encoding="utf-8")
    markdown = (tmp_path / "summary.md").read_text(encoding="utf-8")
    for text in (page, markdown):
        assert "cnn-small, accuracy" in text
        assert "Attack accuracy" in text
    table = summary(results).set_index("attack")
    mean = results.trials.groupby("attack")["attack_accuracy"].mean()
    for attack in ("enhanced", "gmi"):
        assert table.loc[attack, "attack_accuracy"] == pytest.approx(mean[attack])
        assert (
            table.loc[attack, "attack_accuracy_low"]
            <= mean[attack]
            <= table.loc[attack, "attack_accuracy_high"]
        )
        assert table.loc[attack, "attack_accuracy_worst"] >= mean[attack]


def test_recall_needs_more_images_than_neighbours(judged) -> None:
    trials = judged[1].trials.set_index("attack")
    assert trials.loc["enhanced", "recall"].isna().all()
    assert trials.loc["gmi", "recall"].notna().all()


def test_all_reconstructions_are_kept_and_one_of_each_class_is_shown(judged) -> None:
    store, results = judged
    kept = [len(store.reconstructions(key)) for key in results.trials["trial"]]
    assert kept == (10 * results.trials["images_per_class"]).tolist()
    shapes = {recons.shape for recons in results.recons.values()}
    assert shapes == {(10, 1, 8, 8)}
    assert set(results.trials["images_per_class"]) == {1, 5}


def test_one_evaluator_and_one_public_prior_serve_the_whole_study(judged) -> None:
    store, _ = judged
    assert sum(path.is_dir() for path in (store.root / "models").iterdir()) == 3
    assert not list(store.root.glob(".partial-*")), "nothing is left beside what a study shows"
    assert [path.name.rpartition("-")[0] for path in store.priors.iterdir() if path.is_dir()] == ["wgan-gp"]


def test_a_second_run_does_nothing(judged, tmp_path: Path) -> None:
    store, results = judged
    again = run_study(JUDGED, store.root)[1]
    assert comparable(again.trials).equals(comparable(results.trials))
    assert again.trials["attack_seconds"].equals(results.trials["attack_seconds"])


def test_another_evaluator_judges_anew(judged) -> None:
    """Without an attack: the same reconstructions are measured."""
    store, _ = judged
    other = JUDGED.replace("steps = 150", "steps = 151")
    assert [trial.key for trial in trials_of(other)] == [trial.key for trial in trials_of(JUDGED)]
    assert all(trial_numbers(trial, store) is not None for trial in trials_of(JUDGED))
    assert all(trial_numbers(trial, store) is None for trial in trials_of(other))


def test_a_budget_ends_the_attacks(tmp_path: Path) -> None:
    text = JUDGED.replace("seeds = [0, 1]", "seeds = [0]\nbudget = { queries = 150 }")
    _, results = run_study(text, tmp_path)
    assert (results.trials["queries"] <= 150).all()
    assert set(results.trials["stopped_by"]) == {"queries"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('model = "cnn-small"', 'model = "cnn-smal"', "did you mean"),
        ("batch_size = 16", "batch_sise = 16", r"attacks gmi: prior: unknown key 'batch_sise'"),
        ("latent_size = 8", "latent_size = 0", r"attacks gmi: prior: latent_size must be .*got 0"),
        ('classes = "private"', 'classes = "public"', r"evaluator.classes is 'public'"),
        ("seeds = [0, 1]", "seeds = [0]\nbudget = { queries = 0 }", r"budget.queries is 0"),
    ],
)
def test_bad_input_is_named(old: str, new: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(JUDGED.replace(old, new))


def test_an_evaluator_that_takes_no_such_images_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="H and W at least 14"):
        run_study(JUDGED.replace("cnn-small", "cnn"), tmp_path)
    assert not list((tmp_path / "models").iterdir())


def _judge() -> tuple[Judge, data.Split]:
    split = data.load("digits")
    evaluator = models.build("cnn-small", image_shape=split.image_shape, num_classes=10, seed=0).eval()
    seen = metrics.evaluate(evaluator, split.train.images)
    return Judge(evaluator, seen.features, split.train.labels, "cnn-small", 0.1), split


def test_the_target_is_no_evaluator() -> None:
    judge, split = _judge()
    recons = _recons(split.train.images[:10], torch.arange(10))
    with pytest.raises(ValueError, match="trained apart from the target"):
        columns(recons, judge, judge.evaluator, split)


def test_private_images_are_perfect_reconstructions() -> None:
    judge, split = _judge()
    order = split.train.labels.argsort(stable=True)
    first = torch.cat([order[split.train.labels[order] == label][:4] for label in range(10)])
    recons = _recons(split.train.images[first], split.train.labels[first])
    target = models.build("softmax", image_shape=split.image_shape, num_classes=10, seed=0)
    whole, per_class = columns(recons, judge, target, split)
    assert max(per_class["knn_distance"]) == pytest.approx(0, abs=1e-8)
    assert whole["precision"] == 1
    assert min(per_class["psnr"]) == math.inf
    blank = replace(recons, images=torch.zeros_like(recons.images))
    worse, _ = columns(blank, judge, target, split)
    assert worse["fid"] > whole["fid"]
    assert worse["density"] < whole["density"]


def test_pixels_of_ten_images_of_a_class_speak_for_all() -> None:
    judge, split = _judge()
    recons = _recons(
        torch.rand(250, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.arange(10).repeat_interleave(25),
    )
    target = models.build("softmax", image_shape=split.image_shape, num_classes=10, seed=0)
    _, per_class = columns(recons, judge, target, split)
    rows = [round(24 * place / 9) for place in range(10)]
    some = torch.tensor([25 * label + row for label in range(10) for row in rows])
    private = split.train.images, split.train.labels
    expected = metrics.best_psnr(recons.images[some], recons.labels[some], *private)
    assert per_class["psnr"] == pytest.approx(expected.view(10, 10).mean(dim=1).tolist())


def _recons(images: torch.Tensor, labels: torch.Tensor) -> Reconstructions:
    return Reconstructions(
        images=images,
        labels=labels,
        scores=torch.ones(len(labels)),
        iterations=torch.ones_like(labels),
        diverged=torch.zeros_like(labels, dtype=torch.bool),
        queries=0,
        grad_calls=0,
    )
