"""The unit game of a study: which units train a model, its references, its AUC against chance and bound, bad input."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from accountants import BucketMechanism, Ledger, reconstruction_bound
from dpmi import data, defenses, models, versions
from dpmi.data import ImageSet, Split
from dpmi.data.halves import divide
from dpmi.defenses import Recipe
from dpmi.privacy import Account
from dpmi.study import (
    Job,
    Machines,
    Results,
    SpecError,
    Store,
    parse,
    parse_match,
    prepare,
    train_models,
    units,
    work,
)
from dpmi.study.grid import hashed
from dpmi.study.schema import TRIALS, problems

from .conftest import TINY, comparable, count_calls, jobs_of, run_study

NONE = '[[defenses]]\nname = "none"\n'
SUBCLASS = (
    '[[defenses]]\nname = "subclass-dp"\nnoise_multiplier = 16.0\nsampling_rate = 0.2\nmax_grad_norm = 1.0\n'
    "training = { steps = 40, learning_rate = 0.5 }\n"
)
RECORD = SUBCLASS.replace("subclass", "record").replace("16.0", "1.0")
HEAD = """
name = "game"
seeds = [0, 1, 2, 3]
model = "softmax"
data = { name = "digits" }
training = { steps = 150, learning_rate = 0.1 }
attacks = [{ name = "label-mean" }]
units = { unit = "subclass" }
"""
GAME = HEAD + NONE + SUBCLASS
SMALL = HEAD.replace("150", "20") + NONE
ATTACKER = SMALL.replace("[0, 1, 2, 3]", "[0]").replace(
    "}\n[[", ', references = "attacker", count = 2 }\n[[', 1
)
ONE = Machines(workers=1)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Results]:
    return run_study(GAME, tmp_path_factory.mktemp("units") / "study")


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Split], None]]:
    """Puts another data set in the place of the digits, in this process."""
    caches = (work._load, work._units, work._of_half, work._of_roles)

    def replace(split: Split) -> None:
        monkeypatch.setattr(data, "load", lambda *_, **__: split)
        for cache in caches:
            cache.cache_clear()

    yield replace
    for cache in caches:
        cache.cache_clear()


def of_users(users: int) -> Split:
    split = data.load("digits")
    owner = torch.arange(len(split.train)) % users
    return dataclasses.replace(split, train=ImageSet(split.train.images, split.train.labels, owner))


def aucs(text: str, root: Path) -> dict[str, list[float]]:
    """AUC of every model, by setting; nothing is attacked."""
    jobs, store = jobs_of(text), Store.create(root, text)
    assert train_models(jobs, store, machines=ONE) == []
    found: dict[str, list[float]] = {}
    for job in jobs:
        numbers = work.model_numbers(job, store)
        assert numbers is not None
        found.setdefault(job.defense.name, []).append(numbers["unit_auc"])
    return found


def test_undefended_models_tell_and_bounds_hold(played: tuple[Store, Results]) -> None:
    trials = played[1].trials
    assert list(problems(trials, TRIALS)) == []
    mean = trials.groupby("defense")["unit_auc"].mean()
    assert mean["none"] > 0.65
    bounds = {name: set(group) for name, group in trials.groupby("defense")["unit_bound_auc"]}
    run = Ledger().record(BucketMechanism(sampling_rate=0.2, noise_multiplier=16.0), 40)
    bound = float(reconstruction_bound(run, 0.5))
    assert bounds == {"none": {1.0}, "subclass-dp": {bound}}
    assert bound < 0.54
    # 3 standard errors of 4 models with 100 units in and 100 out.
    assert mean["subclass-dp"] < bound + 3 * math.sqrt(201 / (12 * 100 * 100) / 4)
    private = trials[trials["defense"] == "subclass-dp"]
    assert set(private["unit"]) == {"subclass"}
    assert set(private["buckets"]) == {100}, "the units that are in are the buckets"
    told = played[1].statements
    assert all("k-means" in told[trial] for trial in private["trial"])


def test_record_level_epsilon_bounds_the_game_of_records(tmp_path: Path) -> None:
    found = aucs(HEAD.replace('"subclass"', '"record"') + NONE + RECORD, tmp_path)
    mean = {name: sum(values) / 4 for name, values in found.items()}
    assert mean["none"] > 0.53
    run = Ledger().record(BucketMechanism(sampling_rate=0.2, noise_multiplier=1.0), 40)
    assert mean["record-dp"] < float(reconstruction_bound(run, 0.5))


@pytest.mark.parametrize(
    ("unit", "count", "private"),
    [
        ("record", 6, RECORD.replace("= 1.0\nsampling", "= 5000.0\nsampling")),
        ("subclass", 12, SUBCLASS.replace("16.0", "5000.0")),
    ],
)
def test_noise_leaves_chance(unit: str, count: int, private: str, tmp_path: Path) -> None:
    """The standard error is .007, for 6 models of 1,197 records or 12 models of 500 subclasses."""
    head = HEAD.replace("[0, 1, 2, 3]", str(list(range(count))))
    head = head.replace('"subclass"', f'"{unit}", clusters_per_class = 50')
    (found,) = aucs(head + private.replace("steps = 40", "steps = 3"), tmp_path).values()
    assert len(found) == count
    assert sum(found) / count == pytest.approx(0.5, abs=0.02)


def test_references_are_out_of_every_unit_equally_often() -> None:
    spec = parse(GAME.replace("[0, 1, 2, 3]", "[7, 0, 1, 5, 2, 3, 9, 8]"))
    of = divide(data.load("digits"), "subclass", clusters_per_class=20)
    for job in spec.jobs:
        others = units.others(job)
        assert {other.setting for other in others} == {job.setting}
        # 5 and 7 are not in whole pairs.
        assert [other.seed for other in others] == [
            seed for seed in (0, 1, 2, 3, 8, 9) if seed // 2 != job.seed // 2
        ]
        out = sum((~other.half.kept(of)).long() for other in others if other.half is not None)
        assert set(torch.as_tensor(out).tolist()) == {len(others) // 2}


def test_auc_by_brute_force(played: tuple[Store, Results]) -> None:
    """Of one model, from the stored models and a clustering of the test's own."""
    store, results = played
    split = data.load("digits")
    of = divide(split, "subclass", clusters_per_class=20)
    jobs = [job for job in jobs_of(GAME) if job.defense.name == "none"]

    def means(job: Job) -> list[float]:
        logits = work.stored_model(job, store, split)(split.train.images).detach().double()
        p = logits.softmax(dim=1)[torch.arange(len(logits)), split.train.labels]
        margin = (p / (1 - p)).log()
        return [float(margin[of.of == unit].mean()) for unit in range(200)]

    target, *others = (jobs[place] for place in (1, 2, 3))
    kept = {job.seed: work.load_private(job, None).train.images for job in jobs}
    inside = {
        seed: [bool((images == split.train.images[of.of == unit][0]).flatten(1).all(1).any()) for unit in range(200)]
        for seed, images in kept.items()
    }  # fmt: skip
    assert [sum(each) for each in inside.values()] == [100] * 4
    own, known = means(target), {other.seed: means(other) for other in others}
    statistic = [
        own[unit] - next(known[seed][unit] for seed in (2, 3) if not inside[seed][unit])
        for unit in range(200)
    ]
    wins = [
        statistic[i] > statistic[j]
        for i in range(200)
        for j in range(200)
        if i // 20 == j // 20 and inside[1][i] and not inside[1][j]
    ]
    row = results.trials[(results.trials["defense"] == "none") & (results.trials["seed"] == 1)]
    assert row["unit_auc"].item() == pytest.approx(sum(wins) / len(wins), abs=1e-9)


def test_attackers_train_on_public_images_with_the_labels_of_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, results = run_study(ATTACKER, tmp_path)
    (job,), split = jobs_of(ATTACKER), data.load("digits")
    shadows = units.shadows(job)
    assert len({shadow.key for shadow in shadows}) == 2
    stored = {path.name for path in (store.root / "models").iterdir()}
    assert stored == {job.key, *(shadow.key for shadow in shadows)}, "no lock is left"
    said = work.stored_model(job, store, split)(split.public).argmax(dim=1)
    for shadow in shadows:

        def fresh(seed: int = shadow.seed) -> torch.nn.Module:
            return models.build("softmax", image_shape=(1, 8, 8), num_classes=10, seed=seed)

        recipe = Recipe(steps=20, learning_rate=0.1)
        again = defenses.train(
            defenses.NoDefense(), fresh(), ImageSet(split.public, said), recipe, seed=shadow.seed
        )
        found = shadow.load(fresh, store)
        for name, value in again.model.state_dict().items():
            torch.testing.assert_close(found.state_dict()[name], value)
    assert results.trials["unit_auc"].item() > 0.5
    # The models are kept when only their measurement is missing.
    (store.root / "models" / job.key / "measured.json").unlink()
    done = count_calls(monkeypatch, defenses, "train")
    again = run_study(ATTACKER, tmp_path)[1]
    assert done["train"] == 0
    pd.testing.assert_frame_equal(comparable(again.trials), comparable(results.trials))


def test_users(replaced: Callable[[Split], None], tmp_path: Path) -> None:
    replaced(of_users(40))
    text = HEAD.replace('"subclass"', '"user"') + SUBCLASS.replace("subclass", "user")
    trials = run_study(text, tmp_path)[1].trials
    assert set(trials["unit"]) == {"user"}
    assert set(trials["buckets"]) == {20}
    assert (trials["unit_bound_auc"] < 0.54).all()
    # 3 standard errors of 4 models with 20 units in and 20 out.
    assert trials["unit_auc"].mean() < 0.54 + 3 * math.sqrt(41 / (12 * 20 * 20) / 4)


def test_epsilon_of_another_unit_bounds_nothing(played: tuple[Store, Results]) -> None:
    store = played[0]
    account = next(
        record["account"]
        for job in jobs_of(GAME)
        if (record := store.model_record(job.key)) is not None and record["account"]
    )
    assert units.bound(account, "subclass", "subclass") < 0.54
    both = dataclasses.replace(Account.from_json(account), buckets_per_unit=2).to_json()
    assert 0.54 < units.bound(both, "subclass", "subclass") < 0.6
    assert units.bound(account, "record", "subclass") == units.bound("", "none", "subclass") == 1.0


def test_an_interrupted_study_resumes_and_trains_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_study(SMALL, tmp_path / "whole")[1]
    done = count_calls(monkeypatch, work, "train")
    store, jobs = Store.create(tmp_path / "again", SMALL), jobs_of(SMALL)
    assert train_models(jobs[2:3], store, machines=ONE) == []
    assert done == {"train": 3}, "the model and its references"
    again = run_study(SMALL, store.root)[1]
    assert done == {"train": 4}
    pd.testing.assert_frame_equal(comparable(again.trials), comparable(whole.trials))


@pytest.mark.slow
def test_two_workers_give_the_table_of_one(tmp_path: Path) -> None:
    one = run_study(GAME, tmp_path / "one")[1]
    store, two = run_study(GAME, tmp_path / "two", workers=2)
    pd.testing.assert_frame_equal(comparable(two.trials), comparable(one.trials))
    assert len(list((store.root / "models").iterdir())) == 8


def test_a_reference_that_another_worker_trains_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, whole = jobs_of(SMALL), Store.create(tmp_path / "whole", SMALL)
    assert train_models(jobs, whole, machines=ONE) == []
    store = Store.create(tmp_path / "again", SMALL)
    done = count_calls(monkeypatch, work, "train")
    begun = threading.Event()

    def other_worker() -> None:
        """Trains the model of seed 2, until that of seed 3 is there."""
        with store.training(jobs[2].key) as missing:
            assert missing
            begun.set()
            deadline = time.monotonic() + 60
            while store.model_record(jobs[3].key) is None and time.monotonic() < deadline:
                time.sleep(0.01)
            shutil.copytree(whole.root / "models" / jobs[2].key, store.root / "models" / jobs[2].key)

    other = threading.Thread(target=other_worker)
    other.start()
    assert begun.wait(60)
    work.train_model(jobs[0], store, root=None, progress=lambda *_: None)
    other.join()
    assert done == {"train": 2}, "its own model, and that of seed 3"
    found, expected = (work.model_numbers(jobs[0], each) for each in (store, whole))
    assert found is not None
    assert expected is not None
    assert found["unit_auc"] == expected["unit_auc"]


def test_more_seeds_measure_again_and_keep_the_models(played: tuple[Store, Results], tmp_path: Path) -> None:
    store = played[0]
    more = GAME.replace("[0, 1, 2, 3]", "[0, 1, 2, 3, 4, 5]")
    assert [job.key for job in jobs_of(more) if job.seed < 4] == [job.key for job in jobs_of(GAME)]
    assert all(work.model_numbers(job, store) is not None for job in jobs_of(GAME))
    assert all(work.model_numbers(job, store) is None for job in jobs_of(more))


def test_a_match_trains_no_references() -> None:
    match = parse_match(GAME.replace("noise_multiplier = 16.0\n", ""))
    for candidate in match.candidates:
        for job in candidate.at(1.0):
            assert job.half is not None
            assert (job.game, units.others(job), units.settings(job)) == (None, (), {})


def test_a_study_without_a_game_is_as_before() -> None:
    for job in jobs_of(TINY):
        assert set(json.loads(job.settings)) == {"model", "pretrained", "defense", "recipe", "seed"}
        assert work._measurement_of_models(job) == hashed(measurement=versions.MEASUREMENT)
        assert job.stages == 3
        assert work.load_private(job, None) is work.load(job.data, None)
    assert jobs_of(GAME)[0].stages == 4


def test_keys_depend_on_what_the_half_depends_on() -> None:
    def keys(text: str) -> list[str]:
        return [job.key for job in jobs_of(text)]

    assert len(set(keys(GAME))) == 8
    fewer = keys(GAME.replace('"subclass" }', '"subclass", clusters_per_class = 10 }'))
    assert not set(fewer) & set(keys(GAME))
    other = HEAD.replace('"subclass" }', '"record" }') + NONE
    assert keys(other) == keys(other.replace('"record" }', '"record", clusters_per_class = 10 }'))
    assert keys(other) == keys(other.replace('"record" }', '"record", references = "attacker" }'))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("units =", "linkage = {}\nunits =", "linkage and units are two games, .* give one of them"),
        ("[0, 1, 2, 3]", "[0, 1, 2, 5]", r"seeds must hold at least 2 whole pairs 2j, 2j \+ 1, .* got \[0, 1, 2, 5\]"),
        ('"subclass"', '"class"', "units.unit is 'class': input should be 'subclass', 'record' or 'user'"),
        ('{ unit = "subclass" }', "{}", "units.unit is missing"),
        ('"subclass" }', '"subclass", clusters_per_class = 1 }', "units.clusters_per_class is 1: input should be"),
        ('"subclass" }', '"subclass", references = "all" }', "units.references is 'all': input should be 'auditor' or"),
        ('"subclass" }', '"subclass", count = 0 }', "units.count is 0: input should be greater than or equal to 1"),
        ('"subclass" }', '"subclass", cout = 2 }', "units: unknown key 'cout'; did you mean 'count'"),
    ],
)  # fmt: skip
def test_mistakes_in_the_file(old: str, new: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(SMALL.replace(old, new))
    parse(
        SMALL.replace("[0, 1, 2, 3]", "[5]").replace('"subclass" }', '"subclass", references = "attacker" }')
    )


@pytest.mark.parametrize(
    ("users", "text", "message"),
    [
        (0, SMALL.replace('"subclass"', '"user"'), "units: unit 'user' needs the user of every image, and Split"),
        (0, SMALL.replace('"subclass" }', '"subclass", clusters_per_class = 500 }'), "units: class . has .* fewer"),
        (0, SMALL + SUBCLASS.replace("subclass", "user"), "defenses user-dp: .* is 'subclass'; give 'user', or leave"),
        (40, SMALL.replace('"subclass"', '"user"') + SUBCLASS, "defenses subclass-dp: .* and units.unit is 'user'"),
        (2, SMALL.replace('"subclass"', '"record"') + SUBCLASS, "defenses subclass-dp: units must be subclasses"),
        (1, SMALL.replace('"subclass"', '"user"'), "units: class '0' of .* has no image in a half of the units"),
    ],
)  # fmt: skip
def test_mistakes_that_the_data_show(
    users: int, text: str, message: str, replaced: Callable[[Split], None]
) -> None:
    if users:
        replaced(of_users(users))
    with pytest.raises(ValueError, match=message):
        prepare(parse(text))


def test_an_attacker_needs_public_images(replaced: Callable[[Split], None]) -> None:
    split = data.load("digits")
    replaced(dataclasses.replace(split, public=split.public[:0]))
    with pytest.raises(
        ValueError, match=r"units.references is 'attacker', whose models train on public images"
    ):
        prepare(parse(ATTACKER))
