"""Studies with roles of classes: their columns, their bounds, and an attacker who learns nothing."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from accountants import Ledger, PrivacyProfile, reconstruction_bound
from dpmi import attacks, data, defenses, metrics, models, versions
from dpmi.attacks import Attack, Reconstructions
from dpmi.data import ImageSet, Split
from dpmi.data.registry import REGISTRY, Dataset
from dpmi.data.roles import Roles
from dpmi.defenses import Recipe
from dpmi.privacy import Account
from dpmi.study import (
    Job,
    Machines,
    Results,
    SpecError,
    Store,
    Trial,
    gather,
    linkage,
    measure,
    parse,
    prepare,
    run,
    work,
)
from dpmi.study.evaluator import judge
from dpmi.study.schema import PER_CLASS, TRIALS, problems
from dpmi.study.work import load, load_private, roles_of, untrained_model

from .conftest import TINY, comparable, count_calls, jobs_of, run_study, trials_of

#: One model and one attack, without an evaluator.
SMALL = """
name = "linked"
seeds = [0]
model = "softmax"

[data]
name = "digits"

[training]
steps = 60
learning_rate = 0.5

[linkage]

[[defenses]]
name = "none"

[[attacks]]
name = "wiener"
tau_index = 10
"""

#: Two models of three kinds and two attacks, with an evaluator.
LINKED = (
    SMALL.replace("[0]", "[0, 1]")
    + """
[[attacks]]
name = "gmi"
iterations = 10
restarts = 1
images_per_class = 3
prior = { steps = 20, batch_size = 16, latent_size = 8 }

[evaluator]
model = "cnn-small"
classes = "private"
training = { steps = 60, learning_rate = 0.1 }

[[defenses]]
name = "record-dp"
noise_multiplier = 2.0
sampling_rate = 0.9
max_grad_norm = 1.0
delta = 1e-3
training = { steps = 3 }

[[defenses]]
name = "class-dp"
noise_multiplier = 2.0
sampling_rate = 0.9
max_grad_norm = 1.0
delta = 1e-3
training = { steps = 3 }
"""
)

SCORES = ("linkage_top1", "linkage_auc")
WHOLE = {"linkage_chance", "linkage_bound_top1", "linkage_bound_auc", "accuracy_bound", "identified_bound"}
IDENTIFIED = {"identified_own", "identified_decoy", "identified_gain"}


def drawn(seed: int) -> tuple[list[int], list[int]]:
    """Private classes and decoys of a model on the digits."""
    order = torch.randperm(10, generator=torch.Generator().manual_seed(seed // 2)).tolist()
    order = order[::-1] if seed % 2 else order
    return order[:5], order[5:]


@pytest.fixture(scope="module")
def accounted_once() -> Iterator[None]:
    """Account for every ledger once: the seeds share it, and it takes longer than anything else here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "guarantee", functools.cache(Ledger.guarantee))
        yield


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory, accounted_once: None) -> tuple[Store, Results]:
    """LINKED, run once."""
    return run_study(LINKED, tmp_path_factory.mktemp("linked") / "study")


@pytest.fixture
def copied(linked: tuple[Store, Results], tmp_path: Path) -> Path:
    """A copy of its folder, to change."""
    return Path(shutil.copytree(linked[0].root, tmp_path / "study"))


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many models were trained, and how many attacks were run, in this process."""
    return count_calls(monkeypatch, work, "train", "_attack")


def trials(results: Results) -> Iterator[tuple[Trial, pd.Series, pd.DataFrame]]:
    """Every trial with its row, and its rows per class."""
    for trial, (_, row) in zip(trials_of(LINKED), results.trials.iterrows(), strict=True):
        assert row["trial"] == trial.key
        yield trial, row, results.per_class[results.per_class["trial"] == trial.key]


def in_the_data_set(store: Store, trial: Trial) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Reconstructions of a trial with the labels of the data set, in the order of the target, and the decoys."""
    private, decoys = drawn(trial.job.seed)
    recons = store.reconstructions(trial.key)
    return recons.images, torch.tensor(private)[recons.labels], decoys


def test_undefended_classes_are_linked(linked: tuple[Store, Results]) -> None:
    """Ten games of two models; the prototype linked all."""
    rows = linked[1].trials
    wiener = rows[(rows["defense"] == "none") & (rows["attack"] == "wiener")]
    assert len(wiener) == 2
    assert wiener["linkage_top1"].mean() >= 0.9
    assert wiener["linkage_auc"].mean() >= 0.97


def test_columns_are_those_of_the_schema(linked: tuple[Store, Results]) -> None:
    _, results = linked
    assert list(problems(results.trials, TRIALS)) == []
    assert list(problems(results.per_class, PER_CLASS)) == []
    scores = {f"{name}{suffix}" for name in SCORES for suffix in ("", "_mia")}
    assert scores | IDENTIFIED | WHOLE <= set(results.trials)
    assert scores | IDENTIFIED <= set(results.per_class)
    assert not {f"{name}_whitened" for name in SCORES} & set(results.trials)
    assert (results.trials["linkage_chance"] == 1 / 6).all()
    assert results.trials[sorted(scores | IDENTIFIED | WHOLE)].notna().all(axis=None)
    for _, row, rows in trials(results):
        for name in scores | IDENTIFIED:
            assert row[name] == pytest.approx(rows[name].mean())


@functools.cache
def expected_bounds(ledger: Ledger) -> list[float]:
    """Bounds on top-1 among 6 candidates, on the AUC, on the gain, and on the accuracy of 5 classes."""
    top1, auc = reconstruction_bound(ledger, [1 / 6, 1 / 2])
    profile = PrivacyProfile(ledger=ledger, unit="class")
    return [top1, auc, float(profile.delta(0.0)), 1 - float(profile.trade_off(1 / 5))]


def test_bounds_are_those_of_the_ledger_for_a_class_and_none_for_other_units(
    linked: tuple[Store, Results],
) -> None:
    store, results = linked
    names = ["linkage_bound_top1", "linkage_bound_auc", "identified_bound", "accuracy_bound"]
    for trial, row, _ in trials(results):
        record = store.model_record(trial.job.key)
        assert record is not None
        assert row["unit"] == record["unit"]
        found = row[names].tolist()
        if row["unit"] != "class":
            assert bool(record["account"]) == (row["unit"] == "record")
            assert found == [1, 1, 1, 1]
            continue
        ledger = Account.from_json(record["account"]).ledger
        assert ledger.steps == 3
        assert found == pytest.approx(expected_bounds(ledger), abs=1e-12)
        top1, auc, gain, accuracy = found
        assert 1 / 6 < top1 < auc < 1
        # If a class owned two of the buckets, every bound would be for both.
        both = dataclasses.replace(Account.from_json(record["account"]), buckets_per_unit=2).to_json()
        assert all(two > one for two, one in zip(linkage.bounds(both, "class", 6, 5), found, strict=True))
        assert 0 < gain < 1
        assert 1 / 5 < accuracy < 1
    assert results.trials["unit"].value_counts().to_dict() == {"none": 4, "record": 4, "class": 4}


def test_the_target_is_that_of_the_relabelled_private_classes(linked: tuple[Store, Results]) -> None:
    """Trained by hand on the images of the private classes, label k for the k-th of them."""
    store, results = linked
    split = data.load("digits")
    for trial, row, _ in trials(results):
        if trial.job.defense.name != "none":
            continue
        private, _ = drawn(trial.job.seed)
        sets = []
        for whole in (split.train, split.test):
            mine = [i for i, k in enumerate(whole.labels.tolist()) if k in private]
            sets.append(
                ImageSet(
                    whole.images[mine], torch.tensor([private.index(int(whole.labels[i])) for i in mine])
                )
            )
        model = models.build("softmax", image_shape=(1, 8, 8), num_classes=5, seed=trial.job.seed)
        trained = defenses.train(
            defenses.get("none")(), model, sets[0], Recipe(steps=60, learning_rate=0.5), seed=trial.job.seed
        )
        stored = torch.load(store.root / "models" / trial.job.key / "model.pt", weights_only=True)
        assert stored.keys() == trained.model.state_dict().keys()
        for name, value in trained.model.state_dict().items():
            assert torch.equal(stored[name], value), name
        assert row["train_accuracy"] == metrics.accuracy(trained.model, sets[0].images, sets[0].labels)
        assert row["test_accuracy"] == metrics.accuracy(trained.model, sets[1].images, sets[1].labels) > 0.9


def test_rows_and_pictures_are_those_of_the_classes_of_the_data_set(linked: tuple[Store, Results]) -> None:
    """The target has other labels; the attack is repeated by hand on the stored model."""
    store, results = linked
    split = data.load("digits")
    for trial, _, rows in trials(results):
        private, _ = drawn(trial.job.seed)
        assert rows["class_index"].tolist() == sorted(private) != private
        assert rows["class_name"].tolist() == [str(k) for k in sorted(private)]
        if trial.attack.name != "wiener" or trial.job.defense.name != "none":
            continue
        target = models.build("softmax", image_shape=(1, 8, 8), num_classes=5, seed=0).eval()
        store.load_weights(trial.job.key, target)
        attack = attacks.get("wiener")(tau_index=10)
        found = attack.run(
            target,
            torch.arange(5),
            image_shape=(1, 8, 8),
            generator=torch.Generator().manual_seed(trial.job.seed),
            knowledge=attack.fit(target, public=split.public, image_shape=(1, 8, 8)),
        )
        pictures = results.recons[trial.key]
        assert len(pictures) == 5
        for k, picture, score, distance in zip(
            sorted(private), pictures, rows["score"], rows["distance"], strict=True
        ):
            by_hand = found.images[private.index(k)]
            assert np.array_equal(picture, by_hand.numpy())
            assert score == pytest.approx(
                target(by_hand[None]).softmax(1)[0, private.index(k)].item(), abs=1e-6
            )
            nearest = (split.train.images[split.train.labels == k] - by_hand).flatten(1).norm(dim=1).min()
            assert distance == pytest.approx(nearest.item(), abs=1e-5)
    assert results.class_names == tuple("0123456789")
    assert results.examples.shape == (10, 1, 8, 8)


def test_linkage_and_distance_of_every_trial(linked: tuple[Store, Results]) -> None:
    """Also of several reconstructions of a class."""
    store, results = linked
    split = data.load("digits")
    private = split.train.images, split.train.labels
    for trial, row, rows in trials(results):
        images, labels, decoys = in_the_data_set(store, trial)
        assert len(images) == 5 * row["images_per_class"]
        for scorer, suffix in (("whitened", ""), ("mia", "_mia")):
            table = metrics.candidate_distances(
                images, labels, *private, decoys, scorer=scorer, public=split.public
            )
            expected = metrics.linkage(table)
            assert rows[f"linkage_top1{suffix}"].tolist() == expected.top1.tolist()
            assert rows[f"linkage_auc{suffix}"].tolist() == expected.auc.tolist()
        distances = metrics.mia_distance(images, labels, *private).values
        assert rows["distance"].tolist() == pytest.approx(metrics.class_means(distances, labels)[1].tolist())


def test_the_mia_scorer_uses_the_distance_of_the_data_set() -> None:
    """The decoys are nearly grey: nearest to a noisy image in Euclidean distance, but not in structure."""
    images = torch.rand(52, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 5
    images[:20][labels >= 3] = 0.5 + 0.01 * images[:20][labels >= 3]
    split = Split(
        name="noise",
        train=ImageSet(images[:20], labels),
        test=ImageSet(images[20:25], torch.arange(5)),
        public=images[25:45],
        class_names=tuple("abcde"),
        distance="ssim",
        citation="",
    )
    recons = Reconstructions(
        images=0.3 * images[[0, 5, 1, 6, 2, 7]] + 0.7 * images[46:],
        labels=torch.tensor([0, 0, 1, 1, 2, 2]),
        scores=torch.ones(6),
        iterations=torch.ones(6, dtype=torch.int64),
        diverged=torch.zeros(6, dtype=torch.bool),
        queries=0,
        grad_calls=0,
    )
    job = jobs_of(SMALL)[0]
    _, found = linkage.columns(recons, Roles((0, 1, 2), (3, 4)), split, job, account="", unit="none")
    ssim, euclidean = (
        metrics.linkage(
            metrics.candidate_distances(
                recons.images,
                recons.labels,
                split.train.images,
                labels,
                (3, 4),
                scorer="mia",
                public=split.public,
                kind=kind,
            )
        )
        for kind in ("ssim", "euclidean")
    )
    assert found["linkage_top1_mia"] == ssim.top1.tolist() == [1, 1, 1]
    assert euclidean.top1.tolist() == [0, 0, 0]


def test_an_evaluator_identifies_the_class_or_a_decoy(linked: tuple[Store, Results]) -> None:
    store, results = linked
    split = data.load("digits")
    judged_by = judge(jobs_of(LINKED)[0], split, store, lambda *_: None)
    assert judged_by is not None
    identified = []
    for trial, row, rows in trials(results):
        images, labels, decoys = in_the_data_set(store, trial)
        said = judged_by.evaluator(images).argmax(dim=1).tolist()
        for k, own, decoy in zip(
            rows["class_index"], rows["identified_own"], rows["identified_decoy"], strict=True
        ):
            of_class = [s for s, label in zip(said, labels.tolist(), strict=True) if label == k]
            assert own == pytest.approx(np.mean([s == k for s in of_class]))
            assert decoy == pytest.approx(np.mean([np.mean([s == d for d in decoys]) for s in of_class]))
        assert rows["identified_own"].tolist() == rows["attack_accuracy"].tolist()
        gain = rows["identified_own"] - rows["identified_decoy"]
        assert rows["identified_gain"].tolist() == pytest.approx(gain.tolist())
        assert row["evaluator_accuracy"] > 0.8
        identified.append((row["identified_own"], row["identified_decoy"]))
    own, decoy = zip(*identified, strict=True)
    assert max(own) > 0
    assert max(decoy) > 0


def test_baselines_are_those_of_a_study_without_linkage(
    linked: tuple[Store, Results], tmp_path: Path
) -> None:
    _, plain = run_study(SMALL.replace("[linkage]\n", ""), tmp_path)
    assert not [name for name in plain.trials if str(name).startswith(("linkage", "identified"))]
    assert "accuracy_bound" not in plain.trials
    assert plain.per_class["class_index"].tolist() == list(range(10))
    rows = linked[1].per_class
    baselines = [name for name in rows if str(name).startswith("distance_")]
    assert len(baselines) == 3
    expected = plain.per_class.set_index("class_index").loc[rows["class_index"], baselines]
    pd.testing.assert_frame_equal(
        rows[baselines].reset_index(drop=True), expected.reset_index(drop=True), check_exact=True
    )
    assert set(rows["class_index"]) == set(range(10)), "one draw and the swapped one"


class TestInTheDataSet:
    RECONS = Reconstructions(
        images=torch.arange(6.0).view(6, 1, 1, 1) / 6,
        labels=torch.tensor([0, 0, 1, 1, 2, 2]),
        scores=torch.arange(6.0) / 10,
        iterations=torch.arange(6) + 10,
        diverged=torch.tensor([True, False, False, False, True, True]),
        queries=30,
        grad_calls=20,
        stopped_by="queries",
    )

    def test_classes_ascend_and_keep_the_order_of_their_images(self) -> None:
        found = linkage.in_data_set(self.RECONS, Roles((7, 2, 5), (0, 1)))
        assert found.labels.tolist() == [2, 2, 5, 5, 7, 7]
        order = [2, 3, 4, 5, 0, 1]
        for name in ("images", "scores", "iterations", "diverged"):
            assert torch.equal(getattr(found, name), getattr(self.RECONS, name)[order]), name
        for name in ("queries", "grad_calls", "stopped_by"):
            assert getattr(found, name) == getattr(self.RECONS, name), name

    def test_without_roles_nothing_changes(self) -> None:
        assert linkage.in_data_set(self.RECONS, None) is self.RECONS


class TestKeys:
    def test_of_a_study_without_linkage_are_those_of_earlier_versions(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Computed by the code before linkage; stored studies stay valid."""
        for name in ("TRAINING", "ATTACK"):
            monkeypatch.setattr(versions, name, 1)
        first = jobs_of(TINY)[0]
        assert (first.key, first.trials[0].key) == ("cce6f038e74191f2", "59aa079a730b0124")

    def test_depend_on_the_roles(self) -> None:
        texts = [SMALL.replace("[linkage]\n", new) for new in ("", "[linkage]\n", "[linkage]\ndecoys = 4\n")]
        assert len({jobs_of(text)[0].key for text in texts}) == 3
        assert len({trials_of(text)[0].key for text in texts}) == 3

    def test_do_not_depend_on_the_scorer(self) -> None:
        other = SMALL.replace("[linkage]\n", '[linkage]\nscorer = "mia"\n')
        assert jobs_of(other)[0].key == jobs_of(SMALL)[0].key
        assert trials_of(other)[0].key == trials_of(SMALL)[0].key


def test_two_seeds_share_a_draw_with_swapped_roles() -> None:
    jobs = jobs_of(SMALL.replace("[0]", "[0, 1, 6, 7]"))
    split = data.load("digits")
    roles = [roles_of(job, split) for job in jobs]
    for found, seed in zip(roles, (0, 1, 6, 7), strict=True):
        assert found is not None
        assert ([*found.private], [*found.decoys]) == drawn(seed)
    for one, other in (roles[:2], roles[2:]):
        assert set(one.private) == set(other.decoys)
        assert set(one.decoys) == set(other.private)
    assert len({frozenset(found.private) for found in roles}) == 4
    assert load_private(jobs[1], None).class_names == tuple(str(k) for k in drawn(1)[0])
    assert roles_of(jobs_of(TINY)[0], split) is None
    assert load_private(jobs_of(TINY)[0], None).num_classes == 10


def test_numbers_of_roles_are_those_of_the_study_file() -> None:
    found = roles_of(
        jobs_of(SMALL.replace("[linkage]\n", "[linkage]\nprivate = 6\ndecoys = 3\n"))[0], data.load("digits")
    )
    assert found is not None
    assert (len(found.private), len(found.decoys)) == (6, 3)


def test_another_scorer_measures_again_and_trains_and_attacks_nothing(
    linked: tuple[Store, Results], copied: Path, done: dict[str, int]
) -> None:
    first = linked[1]
    _, results = run_study(LINKED.replace("[linkage]\n", '[linkage]\nscorer = "mia"\n'), copied)
    assert done == {"train": 0, "attack": 0}
    for name in SCORES:
        assert results.per_class[name].tolist() == first.per_class[f"{name}_mia"].tolist()
        assert results.per_class[f"{name}_whitened"].tolist() == first.per_class[name].tolist()
        assert results.trials[name].tolist() != results.trials[f"{name}_whitened"].tolist()
        assert f"{name}_mia" not in results.trials
    assert list(problems(results.trials, TRIALS)) == []
    assert list(problems(results.per_class, PER_CLASS)) == []
    same = [name for name in first.per_class if not str(name).startswith("linkage")]
    pd.testing.assert_frame_equal(results.per_class[same], first.per_class[same], check_exact=True)


def test_a_resumed_study_has_the_same_tables(
    linked: tuple[Store, Results], copied: Path, done: dict[str, int]
) -> None:
    first = linked[1]
    shutil.rmtree(copied / "trials" / first.trials["trial"].iloc[1])
    shutil.rmtree(copied / "models" / first.trials["model_key"].iloc[3])
    part = gather(parse(LINKED), Store.open(copied))
    assert len(part.trials) == len(first.trials) - 3
    _, resumed = run_study(LINKED, copied)
    assert done == {"train": 1, "attack": 1}
    pd.testing.assert_frame_equal(comparable(resumed.trials), comparable(first.trials), check_exact=True)
    pd.testing.assert_frame_equal(resumed.per_class, first.per_class, check_exact=True)
    assert all(np.array_equal(resumed.recons[key], first.recons[key]) for key in first.recons)


def test_without_its_model_a_trial_is_not_measured_by_half(
    linked: tuple[Store, Results], copied: Path, done: dict[str, int]
) -> None:
    first = linked[1]
    trial, model = first.trials[["trial", "model_key"]].iloc[0]
    (copied / "trials" / trial / "measured.json").unlink()
    (copied / "models" / model / "record.json").write_text("{}")
    assert measure(parse(LINKED), Store.open(copied), machines=Machines(workers=1)) == []
    assert not (copied / "trials" / trial / "measured.json").exists()
    _, resumed = run_study(LINKED, copied)
    assert done == {"train": 1, "attack": 0}
    pd.testing.assert_frame_equal(resumed.per_class, first.per_class, check_exact=True)


NULL = """
name = "null"
seeds = [0]
model = "softmax"

[data]
name = "turned-digits"

[training]
steps = 1
learning_rate = 100.0

[linkage]
private = 35
decoys = 5

[[defenses]]
name = "class-dp"
noise_multiplier = 5000
sampling_rate = 0.9
max_grad_norm = 1.0

[[attacks]]
name = "wiener"
tau_index = 10
images = 1

[[attacks]]
name = "label-mean"
"""


def turned() -> Split:
    """A few digits, each by four quarter turns: 40 classes, so that one model plays 35 games."""
    split = data.load("digits")

    def part(whole: ImageSet, count: int) -> ImageSet:
        images = [
            whole.images[whole.labels == k][:count].rot90(turn, (2, 3))
            for k in range(10)
            for turn in range(4)
        ]
        return ImageSet(torch.cat(images).contiguous(), torch.arange(40).repeat_interleave(count))

    public = torch.cat([some.rot90(turn, (2, 3)) for turn, some in enumerate(split.public[:200].split(50))])
    return Split(
        name="turned-digits",
        train=part(split.train, 3),
        test=part(split.test, 1),
        public=public.contiguous(),
        class_names=tuple(f"{k}, turn {turn}" for k in range(10) for turn in range(4)),
        distance="euclidean",
        citation=split.citation,
    )


def played(job: Job, attack: Attack) -> Callable[[str], metrics.Linkage]:
    """Train, attack and score as :mod:`dpmi.study.work` does, without accounting; return the linkage by scorer."""
    split, own = load(job.data, None), load_private(job, None)
    roles = roles_of(job, split)
    assert roles is not None
    model = untrained_model(job, own, None)
    target = defenses.train(job.defense, model, own.train, job.recipe, seed=job.seed).model.eval()
    recons = attack.run(
        target,
        torch.arange(own.num_classes),
        image_shape=own.image_shape,
        generator=torch.Generator().manual_seed(job.seed),
        knowledge=attack.fit(target, public=own.public, image_shape=own.image_shape),
    )
    recons = linkage.in_data_set(recons, roles)
    private = split.train.images, split.train.labels

    def score(scorer: str) -> metrics.Linkage:
        table = metrics.candidate_distances(
            recons.images, recons.labels, *private, roles.decoys, scorer=scorer, public=split.public
        )
        return metrics.linkage(table)

    return score


def test_an_attacker_who_learns_nothing_has_the_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """The null check: noise 5,000 hides every class, so top-1 is 1/6 and the AUC 1/2.

    120 models play 4,200 games; half of the models are attacked by wiener, half by label-mean. The games of one model
    are correlated, so the standard errors come from the means of the models: 0.0066 for top-1 and 0.0050 for the AUC.
    A correct implementation fails by bad luck, if its seeds or random streams change, with probability 2e-10 and 6e-5.
    The MIA distance is slower and has 40 models, standard errors 0.0132 and 0.0110: 1e-3 and 6e-6.
    """
    monkeypatch.setitem(REGISTRY._builtins, "turned-digits", Dataset("turned-digits", "", turned))
    seeds = ", ".join(map(str, range(120)))
    found: dict[str, list[list[float]]] = {"whitened": [], "mia": []}
    for job in parse(NULL.replace("[0]", f"[{seeds}]")).jobs:
        score = played(job, job.attacks[job.seed // 2 % 2])
        for scorer, means in found.items():
            if scorer == "whitened" or job.seed % 3 == 0:
                means.append([float(values.mean()) for values in score(scorer)])
    top1, auc = np.mean(found["whitened"], axis=0)
    assert 0.12 < top1 < 0.21
    assert 0.48 < auc < 0.52
    assert len(found["mia"]) == 40
    top1, auc = np.mean(found["mia"], axis=0)
    assert 0.12 < top1 < 0.21
    assert 0.45 < auc < 0.55
    # Without noise the attacker wins the same games.
    job = parse(NULL.replace("5000", "1e-3")).jobs[0]
    for attack in job.attacks:
        assert played(job, attack)("whitened").top1.mean() > 0.8


def few(classes: int) -> Split:
    """The first digits only."""
    split = data.load("digits")
    train, test = (
        ImageSet(part.images[part.labels < classes], part.labels[part.labels < classes])
        for part in (split.train, split.test)
    )
    return dataclasses.replace(split, train=train, test=test, class_names=split.class_names[:classes])


def dark() -> Split:
    """Equal public images."""
    return dataclasses.replace(data.load("digits"), public=torch.zeros(4, 1, 8, 8))


def twins() -> Split:
    """An image of a 0 is also that of a 1, for whom the roles of the first seed are the same."""
    split = data.load("digits")
    images = split.train.images.clone()
    first, second = ((split.train.labels == k).nonzero()[0, 0] for k in (0, 2))
    images[second] = images[first]
    return dataclasses.replace(split, train=ImageSet(images, split.train.labels))


def test_a_shared_image_under_any_seed_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY._builtins, "digits-twins", Dataset("digits-twins", "", twins))
    together = [seed for seed in range(0, 40, 2) if len({0, 2} & set(drawn(seed)[0])) != 1]
    apart = [seed for seed in range(0, 40, 2) if len({0, 2} & set(drawn(seed)[0])) == 1]
    text = SMALL.replace('name = "digits"', 'name = "digits-twins"')
    prepare(parse(text.replace("[0]", f"[{together[0]}]")))
    with pytest.raises(ValueError, match=r"1 images of .* belong to both a private class and a decoy"):
        prepare(parse(text.replace("[0]", f"[{together[0]}, {apart[0]}]")))


@pytest.mark.parametrize(
    ("loader", "table", "message"),
    [
        (lambda: few(3), "", "linkage needs at least 4 classes, 2 private and 2 decoys; the data set has 3"),
        (
            lambda: data.load("digits"),
            "private = 9\n",
            "private = 9 and at least 2 decoys are more than the 10 classes of the data set",
        ),
        (dark, "", "linkage: the public images must be at least 2 different images.* got 4 images that are all equal"),
    ],
    ids=["few", "private", "dark"],
)  # fmt: skip
def test_what_the_data_do_not_allow_is_refused_before_anything_is_written(
    loader: Callable[[], Split],
    table: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    # The loaded data are kept by name, so every case has its own.
    name = f"digits-{request.node.callspec.id}"
    monkeypatch.setitem(REGISTRY._builtins, name, Dataset(name, "", loader))
    text = SMALL.replace('name = "digits"', f'name = "{name}"').replace("[linkage]\n", f"[linkage]\n{table}")
    spec = parse(text)
    with pytest.raises(ValueError, match=message):
        prepare(spec)
    store = Store.create(tmp_path, text)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message):
        run(spec, store, machines=Machines(workers=1))
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    # Without linkage, the same data are accepted.
    prepare(
        parse(
            text.replace(f"[linkage]\n{table}", "")
            .replace("wiener", "miface")
            .replace("tau_index = 10\n", "")
        )
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('scorer = "cosine"', r"^linkage.scorer is 'cosine': input should be 'mia' or 'whitened'$"),
        ("private = 1", "^linkage.private is 1: input should be greater than or equal to 2$"),
        ("decoys = 1", "^linkage.decoys is 1: input should be greater than or equal to 2$"),
        ("decoys = 10000000000", "^linkage.decoys is 10000000000: input should be less than or equal to 1000000000$"),
        ("private = 2.0", "^linkage.private is 2.0: input should be a valid integer"),
        ("privat = 5", "^linkage: unknown key 'privat'; did you mean 'private'"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_named(line: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(SMALL.replace("[linkage]\n", f"[linkage]\n{line}\n"))
