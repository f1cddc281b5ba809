"""Side effects of a study of seconds: the numbers, what is stored, and what is measured again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from dpmi import data, metrics, models
from dpmi.data import ImageSet
from dpmi.defenses import train
from dpmi.metrics.backdoor import TRIGGERS, backdoor_success, poison
from dpmi.metrics.robustness import ATTACKS, robustness
from dpmi.study import Failure, Job, Machines, Store, StoreError, parse, run
from dpmi.study import side_effects as module
from dpmi.study.side_effects import gather_side_effects, measure, unmeasured
from dpmi.study.work import stored_model

from .conftest import TINY, count_calls, jobs_of

TEXT = TINY.replace("[0.5, 1.0]", "0.5")
SPEC = parse(TEXT)
JOBS = jobs_of(TEXT)
IMAGES = 12


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that has been run: none and class-dp, two seeds."""
    root = tmp_path_factory.mktemp("trained") / "study"
    assert run(SPEC, Store.create(root, TEXT), machines=Machines(workers=1)) == []
    return root


@pytest.fixture
def store(trained: Path, tmp_path: Path) -> Store:
    """A copy, to write into."""
    shutil.copytree(trained, tmp_path / "study")
    return Store.open(tmp_path / "study")


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many attacks were run, and how many models were trained, in this process."""
    return count_calls(monkeypatch, module, "robustness", "train")


def measured(store: Store, *, backdoor: bool = False, images: int = IMAGES, workers: int = 1) -> pd.DataFrame:
    assert measure(SPEC, store, backdoor=backdoor, images=images, machines=Machines(workers=workers)) == []
    return gather_side_effects(SPEC, store, images=images)


def test_numbers_are_those_of_the_stored_models_and_of_poisoned_ones(store: Store) -> None:
    table = measured(store, backdoor=True)
    assert table["model_key"].tolist() == [job.key for job in JOBS]
    assert table["label"].tolist() == ["none"] * 2 + ["class-dp, noise multiplier 0.5"] * 2
    assert table["seed"].tolist() == [0, 1] * 2
    split = data.load("digits")
    chosen = torch.randperm(len(split.test), generator=torch.Generator().manual_seed(0))[:IMAGES]
    attacked = ImageSet(split.test.images[chosen], split.test.labels[chosen])

    def fresh(seed: int) -> torch.nn.Module:
        return models.build("softmax", image_shape=split.image_shape, num_classes=10, seed=seed)

    for place in (0, 3):
        job, row = JOBS[place], table.iloc[place]
        model = fresh(job.seed)
        store.load_weights(job.key, model)
        assert row["test_accuracy"] == metrics.accuracy(model, split.test.images, split.test.labels)
        for attack in ATTACKS:
            found = robustness(attack, model, attacked, seed=job.seed)
            for name, interval in (("accuracy", found.accuracy), ("targeted", found.targeted)):
                columns = [f"{attack}_{name}{end}" for end in ("", "_low", "_high")]
                assert row[columns].tolist() == list(interval)
        for name, trigger in TRIGGERS.items():
            poisoned = fresh(job.seed)
            train(
                job.defense, poisoned, poison(split.train, trigger, seed=job.seed), job.recipe, seed=job.seed
            )
            assert row[f"{name}_accuracy"] == metrics.accuracy(poisoned, split.test.images, split.test.labels)
            for kind, judged in (("success", poisoned), ("unpoisoned", model)):
                columns = [f"{name}_{kind}{end}" for end in ("", "_low", "_high")]
                assert row[columns].tolist() == list(backdoor_success(judged, split.test, trigger))


def test_what_is_stored_is_not_measured_again(store: Store, work: dict[str, int]) -> None:
    first = measured(store)
    assert work == {"robustness": 16, "train": 0}
    assert not any(str(c).startswith(tuple(TRIGGERS)) for c in first)
    assert unmeasured(SPEC, store, images=IMAGES) == []
    assert len(unmeasured(SPEC, store, images=IMAGES, backdoor=True)) == 4
    both = measured(store, backdoor=True)
    assert work == {"robustness": 16, "train": 8}
    pd.testing.assert_frame_equal(both[list(first)], first)
    # Without the option a stored backdoor is shown all the same.
    pd.testing.assert_frame_equal(measured(store), both)
    assert work == {"robustness": 16, "train": 8}


def test_what_is_damaged_or_of_other_settings_is_measured_again(store: Store, work: dict[str, int]) -> None:
    first = measured(store)
    (store.root / "side-effects" / f"{JOBS[1].key}-bim.json").write_text('{"cut o')
    pd.testing.assert_frame_equal(measured(store), first)
    assert work["robustness"] == 16 + 1
    measured(store, images=IMAGES - 1)
    assert work["robustness"] == 16 + 1 + 16


@pytest.mark.slow
def test_two_workers_give_the_same_table(store: Store, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "other")
    pd.testing.assert_frame_equal(measured(Store.open(tmp_path / "other"), workers=2), measured(store))


def test_progress_ends_at_every_part(store: Store) -> None:
    told: dict[str, set[str]] = {}

    def report(label: str, what: str, done: int, total: int) -> None:
        if done == total:
            told.setdefault(label, set()).add(what)

    assert measure(SPEC, store, backdoor=True, images=4, machines=Machines(workers=1), report=report) == []
    assert told == {job.label: {*ATTACKS, *TRIGGERS} for job in SPEC.jobs}


def test_an_unfinished_study_is_measured_as_far_as_it_goes(store: Store) -> None:
    shutil.rmtree(store.root / "models" / JOBS[0].key)
    assert measured(store, images=4)["model_key"].tolist() == [job.key for job in JOBS[1:]]


class Broken(RuntimeError):
    pass


@pytest.mark.parametrize(
    ("error", "told"), [(Broken("on purpose"), "Broken: on purpose"), (SystemExit(3), "SystemExit: 3")]
)
def test_a_model_that_fails_does_not_stop_the_others(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: BaseException, told: str
) -> None:
    def broken(job: Job, *rest: object) -> torch.nn.Module:
        if job.key == JOBS[2].key:
            raise error
        return stored_model(job, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "stored_model", broken)
    (failure,) = measure(SPEC, store, images=4, machines=Machines(workers=1))
    assert failure == Failure(JOBS[2].label, told)
    missing = gather_side_effects(SPEC, store, images=4)["fgsm_accuracy"].isna()
    assert missing.tolist() == [False, False, True, False]


def test_bad_input(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "new", TEXT)
    with pytest.raises(StoreError, match="has no finished trial yet; run the study first"):
        measure(SPEC, store)
    with pytest.raises(ValueError, match="images must be at least 1, got 0"):
        measure(SPEC, store, images=0)


def test_an_unknown_executor_is_refused_before_anything_is_computed(store: Store) -> None:
    with pytest.raises(ValueError, match="executor is 'dask'"):
        measure(SPEC, store, machines=Machines(executor="dask"))
