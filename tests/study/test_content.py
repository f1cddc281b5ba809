"""No number of other data or of other code is shown: what changed is computed again, and nothing else."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from dpmi import data, metrics, versions
from dpmi.data import ImageSet, Split
from dpmi.study import (
    Machines,
    Results,
    Store,
    StoreError,
    gather,
    measure,
    parse,
    prepare,
    run,
    unmeasured,
    work,
)

from .conftest import TINY, comparable, count_calls, jobs_of, run_study, trials_of

SHORT = TINY.replace("seeds = [0, 1]", "seeds = [0]").replace("[0.5, 1.0]", "0.5")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Results]:
    return run_study(SHORT, tmp_path_factory.mktemp("content") / "study")


@pytest.fixture
def store(finished: tuple[Store, Results], tmp_path: Path) -> Store:
    """A copy, to write into."""
    shutil.copytree(finished[0].root, tmp_path / "study")
    return Store.open(tmp_path / "study")


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many models were trained, how many attacks were run, and how many were measured, in this process."""
    return count_calls(monkeypatch, work, "train", "_attack", "_numbers")


def other_data(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """The digits, but for one pixel or label of a part."""
    split = data.load("digits")
    if part in ("train", "test"):
        images: ImageSet = getattr(split, part)
        changed = images.images.clone()
        changed[0, 0, 0, 0] = 0.37
        split = dataclasses.replace(split, **{part: ImageSet(changed, images.labels)})
    elif part == "label":
        labels = split.train.labels.clone()
        labels[0] = (labels[0] + 1) % 10
        split = dataclasses.replace(split, train=ImageSet(split.train.images, labels))
    else:
        public = split.public.clone()
        public[0, 0, 0, 0] = 0.37
        split = dataclasses.replace(split, public=public)

    def load(*_: object) -> Split:
        return split

    monkeypatch.setattr(work, "_load", load)


@pytest.mark.parametrize("part", ["train", "test", "label", "public"])
def test_other_data_give_other_numbers(
    store: Store, done: dict[str, int], monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    before = {job.key for job in jobs_of(SHORT)}
    other_data(monkeypatch, part)
    assert not before & {job.key for job in jobs_of(SHORT)}
    _, results = run_study(SHORT, store.root)
    assert done == {"train": 2, "attack": 2, "numbers": 2}
    assert set(results.trials["trial"]) == {each.key for each in trials_of(SHORT)}


def test_and_back_nothing_is_computed_again(
    store: Store, finished: tuple[Store, Results], done: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        other_data(patch, "test")
        run_study(SHORT, store.root)
    before = dict(done)
    _, again = run_study(SHORT, store.root)
    assert done == before
    pd.testing.assert_frame_equal(again.trials, finished[1].trials)


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("TRAINING", {"train": 2, "attack": 2, "numbers": 2}),
        ("ATTACK", {"train": 0, "attack": 2, "numbers": 2}),
        ("MEASUREMENT", {"train": 0, "attack": 0, "numbers": 2}),
        ("PRIOR", {"train": 0, "attack": 0, "numbers": 0}),
        ("EVALUATOR", {"train": 0, "attack": 0, "numbers": 0}),
    ],
)
def test_another_version_of_a_stage_is_computed_again(
    store: Store,
    done: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    expected: dict[str, int],
) -> None:
    monkeypatch.setattr(versions, stage, getattr(versions, stage) + 1)
    assert len(gather(parse(SHORT), store).trials) == (0 if any(expected.values()) else 2)
    run_study(SHORT, store.root)
    assert done == expected


def test_a_changed_metric_is_measured_again_from_what_is_stored(
    store: Store, finished: tuple[Store, Results], done: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = metrics.mia_distance

    def doubled(*args: object, **kwargs: object) -> object:
        found = plain(*args, **kwargs)  # type: ignore[arg-type]
        return dataclasses.replace(found, values=2 * found.values)

    spec = parse(SHORT)
    monkeypatch.setattr(metrics, "mia_distance", doubled)
    monkeypatch.setattr(versions, "MEASUREMENT", versions.MEASUREMENT + 1)
    assert len(unmeasured(spec, store)) == 2
    assert measure(spec, store, machines=Machines(workers=1)) == []
    assert done == {"train": 0, "attack": 0, "numbers": 2}
    assert unmeasured(spec, store) == []
    trials = gather(spec, store).trials
    assert trials["distance"].tolist() == (2 * finished[1].trials["distance"]).tolist()
    same = [c for c in comparable(trials) if "distance" not in c and "advantage" not in c]
    pd.testing.assert_frame_equal(trials[same], finished[1].trials[same])


def test_measuring_needs_the_data_of_the_models(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    other_data(monkeypatch, "test")
    with pytest.raises(
        StoreError, match=r"the data or weights are not those that the models in .* trained on"
    ):
        measure(parse(SHORT), store, machines=Machines(workers=1))


def test_a_data_root_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data root .*nowhere does not exist"):
        prepare(parse(SHORT), root=str(tmp_path / "nowhere"))


def test_records_say_who_made_them(store: Store) -> None:
    records = [json.loads(path.read_text()) for path in store.root.glob("*/*/record.json")]
    measured = [json.loads(path.read_text())["found"] for path in store.root.glob("*/*/measured.json")]
    assert len(records) == len(measured) == 4
    for record in (*records, *measured):
        made = record["made"]
        assert {"dpmi", "revision", "python", "torch", "opacus", "dp-accounting", "date"} <= made.keys()
        assert made["threads"] == 1
        assert made["device"].startswith("cpu (")
        assert made["wall_seconds"] > 0
        assert made["cpu_seconds"] >= 0
    trials = gather(parse(SHORT), store).trials
    for column in ("trained_by", "attacked_by", "measured_by"):
        (told,) = set(trials[column])
        assert told.startswith("dpmi ")
        assert told.endswith("1 thread of " + records[0]["made"]["device"])


FILES = ("content.json", "classes.npz", "study.toml", "models/*/model.pt", "models/*/record.json")
TRIAL_FILES = (
    "models/*/measured.json",
    "trials/*/recons.npz",
    "trials/*/record.json",
    "trials/*/measured.json",
)


@pytest.mark.parametrize("damage", [b"", b"{}", b"garbage \xff", None])
@pytest.mark.parametrize("pattern", FILES + TRIAL_FILES)
def test_every_damaged_file_heals(
    store: Store, finished: tuple[Store, Results], pattern: str, damage: bytes | None
) -> None:
    path = sorted(store.root.glob(pattern))[0]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage is None else damage)
    again, results = run_study(SHORT, store.root)
    pd.testing.assert_frame_equal(
        comparable(results.trials), comparable(finished[1].trials), check_exact=True
    )
    pd.testing.assert_frame_equal(results.per_class, finished[1].per_class, check_exact=True)
    assert run(parse(SHORT), again, machines=Machines(workers=1)) == []
