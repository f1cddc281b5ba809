"""Running a study: in parallel, interrupted, edited, and with jobs that fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dpmi import data
from dpmi.metrics import mia_distance
from dpmi.study import Failure, Machines, Results, Store, gather, parse, pending, prepare, run, work

from .conftest import TINY, comparable, count_calls, run_study, trials_of


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Results]:
    """TINY, run once, in one process, without a break."""
    return run_study(TINY, tmp_path_factory.mktemp("finished") / "study")


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many models were trained, and how many attacks were run, in this process."""
    return count_calls(monkeypatch, work, "train", "_attack")


def assert_same(one: Results, other: Results) -> None:
    pd.testing.assert_frame_equal(comparable(one.trials), comparable(other.trials), check_exact=True)
    pd.testing.assert_frame_equal(one.per_class, other.per_class, check_exact=True)
    assert one.recons.keys() == other.recons.keys()
    assert all(np.array_equal(one.recons[key], other.recons[key]) for key in one.recons)
    assert one.statements == other.statements


def test_tables(finished: tuple[Store, Results]) -> None:
    _, results = finished
    trials = results.trials
    assert trials["trial"].tolist() == [t.key for t in trials_of(TINY)]
    assert results.planned == len(trials) == 6
    assert trials["label"].tolist()[::2] == [
        "none",
        "class-dp, noise multiplier 0.5",
        "class-dp, noise multiplier 1",
    ]
    assert trials["seed"].tolist() == [0, 1] * 3
    assert set(trials["attack"]) == {"enhanced"}
    assert trials["iterations"].max() <= 5
    none, private = trials[trials["defense"] == "none"], trials[trials["defense"] == "class-dp"]
    assert np.isinf(none["epsilon"]).all()
    assert (none["unit"] == "none").all()
    assert (none["test_accuracy"] > 0.8).all()
    assert (private["steps"] == 20).all()
    assert (private["buckets"] == 10).all()
    assert (private["unit"] == "class").all()
    assert private["epsilon"].tolist() == sorted(private["epsilon"], reverse=True)
    assert np.isfinite(private["epsilon"]).all()


def test_numbers_are_those_of_the_stored_pictures(finished: tuple[Store, Results]) -> None:
    store, results = finished
    split = data.load("digits")
    key = results.trials["trial"].iloc[0]
    recons = torch.from_numpy(store.recons(key))
    distances = mia_distance(
        recons, torch.arange(10), split.train.images, split.train.labels, kind="euclidean"
    )
    mine = results.per_class[results.per_class["trial"] == key]
    assert mine["distance"].tolist() == distances.values.tolist()
    assert mine["class_name"].tolist() == [str(k) for k in range(10)]
    assert results.trials["distance"].iloc[0] == pytest.approx(float(distances.values.mean()))
    assert np.array_equal(results.examples[7], split.train.images[split.train.labels == 7][0].numpy())


def test_statements_are_those_of_the_models(finished: tuple[Store, Results]) -> None:
    _, results = finished
    none, private = results.trials["trial"].iloc[0], results.trials["trial"].iloc[-1]
    assert "No privacy guarantee" in results.statements[none]
    assert "came from a user's seed" in results.statements[private]
    assert f"{np.ceil(results.trials['epsilon'].iloc[-1] * 1000) / 1000:.3f}" in results.statements[private]


def test_parquet_and_csv_agree(finished: tuple[Store, Results]) -> None:
    store, results = finished
    for name, table in (("trials", results.trials), ("per_class", results.per_class)):
        parquet = pd.read_parquet(store.root / f"{name}.parquet")
        pd.testing.assert_frame_equal(parquet, table, check_exact=True)
        text = {c: str for c in table if pd.api.types.is_string_dtype(table[c])}
        csv = pd.read_csv(store.root / f"{name}.csv", dtype=text)
        assert list(csv) == list(table)
        for column in table:
            missing = table[column].isna() | (table[column].astype(str) == "")
            assert csv[column].isna().tolist() == missing.tolist(), column
            assert csv[column][~missing].tolist() == table[column][~missing].tolist(), column


def test_complete_study_runs_nothing(finished: tuple[Store, Results], done: dict[str, int]) -> None:
    store, results = finished
    stamps = {p: p.stat().st_mtime_ns for p in store.root.rglob("record.json")}
    _, again = run_study(TINY, store.root)
    assert done == {"train": 0, "attack": 0}
    assert {p: p.stat().st_mtime_ns for p in store.root.rglob("record.json")} == stamps
    assert_same(again, results)


def test_edited_study_runs_what_changed(
    finished: tuple[Store, Results], tmp_path: Path, done: dict[str, int]
) -> None:
    store, first = run_study(TINY, tmp_path / "study")
    assert done == {"train": 6, "attack": 6}
    _, edited = run_study(TINY.replace("[0.5, 1.0]", "[0.5, 1.25]"), store.root)
    assert done == {"train": 8, "attack": 8}
    pd.testing.assert_frame_equal(comparable(edited.trials)[:4], comparable(first.trials)[:4])
    assert edited.trials["strength"].tolist()[4:] == [1.25, 1.25]
    # Another attack on the same models: nothing is trained.
    run_study(TINY.replace("iterations = 5", "iterations = 4"), store.root)
    assert done == {"train": 8, "attack": 14}
    # And back: everything is still there, under the labels of the study that is asked for.
    _, back = run_study(TINY, store.root)
    assert done == {"train": 8, "attack": 14}
    assert_same(back, finished[1])


def test_labels_follow_the_edited_study(tmp_path: Path, done: dict[str, int]) -> None:
    """What was stored when one weight was tried must not be mixed up with a second weight."""
    text = TINY.replace("[0, 1]", "[0]").replace("[0.5, 1.0]", "0.5")
    _, one = run_study(text, tmp_path)
    assert one.trials["attack"].tolist() == ["enhanced", "enhanced"]
    _, two = run_study(text + "weight = [0.05, 0.5]\n", tmp_path)
    assert two.trials["attack"].tolist() == ["enhanced, weight 0.05", "enhanced, weight 0.5"] * 2
    assert done == {"train": 2, "attack": 4}


@pytest.mark.parametrize(("kind", "again"), [("models", "train"), ("trials", "attack")])
def test_damaged_record_is_computed_again(
    finished: tuple[Store, Results], done: dict[str, int], kind: str, again: str
) -> None:
    store, results = finished
    damaged = sorted((store.root / kind).glob("*/record.json"))[0]
    damaged.write_text('{"cut o')
    _, repaired = run_study(TINY, store.root)
    assert done == {"train": 0, "attack": 0, again: 1}
    assert_same(repaired, results)


def test_gather_of_an_interrupted_study(finished: tuple[Store, Results], tmp_path: Path) -> None:
    text = TINY.replace('name = "class-dp"', 'name = "class-dp"\ntraining = { steps = 19 }')
    assert len(pending(parse(text), finished[0], prepare(parse(text)))) == 4
    part = gather(parse(text), finished[0])
    assert part.trials["defense"].tolist() == ["none", "none"]
    assert part.planned == 6
    assert len(part.per_class) == 20
    assert set(part.recons) == {t.key for t in trials_of(TINY)[:2]}


def test_failing_job_does_not_stop_the_others(tmp_path: Path) -> None:
    """Two learning rates are too high, for one defence with noise and for one without."""
    text = (
        TINY.replace("[0, 1]", "[0]").replace("[0.5, 1.0]", "0.5")
        + '[[defenses]]\nname = "none"\ntraining = { learning_rate = 1e38 }\n'
        + '[[defenses]]\nname = "class-dp"\nnoise_multiplier = 0.5\nsampling_rate = 0.9\nmax_grad_norm = 1.0\n'
        + "training = { learning_rate = 1e38 }\n"
    )
    failures: list[Failure] = []
    store, results = run_study(text, tmp_path, failures=failures)
    reasons = {f.label: f.message for f in failures}
    assert set(reasons) == {
        "none, learning rate 1e+38, seed 0",
        "class-dp, noise multiplier 0.5, sampling rate 0.9, learning rate 1e+38, seed 0",
    }
    for reason in reasons.values():
        assert reason.startswith("FloatingPointError: the loss of ")
        assert reason.endswith("lower the learning rate (1e+38)")
    assert results.trials["label"].tolist() == [
        "none, learning rate 0.5",
        "class-dp, noise multiplier 0.5, sampling rate 0.3, learning rate 0.5",
    ]
    assert results.planned == 4
    assert len(list((store.root / "models").iterdir())) == 2


def test_a_model_that_does_not_fit_the_data_is_refused_before_anything_runs(tmp_path: Path) -> None:
    text = TINY.replace('"softmax"', '"cnn"')
    with pytest.raises(ValueError, match=r"model 'cnn' needs images .* at least 14"):
        run(parse(text), Store.create(tmp_path, text), machines=Machines(workers=1))


def test_progress_ends_at_the_whole_also_of_what_was_there(tmp_path: Path, done: dict[str, int]) -> None:
    text = TINY.replace("[0, 1]", "[0]").replace("[0.5, 1.0]", "0.5").replace("= 5", "= [4, 5]")
    run_study(text.replace("[4, 5]", "4"), tmp_path)
    told: dict[str, set[str]] = {}

    def report(label: str, what: str, done: int, total: int) -> None:
        if done == total:
            told.setdefault(label, set()).add(what)

    assert run(parse(text), Store.open(tmp_path), machines=Machines(workers=1), report=report) == []
    stages = {"training", "enhanced, iterations 4", "enhanced, iterations 5", "measuring"}
    assert told == {"none, seed 0": stages, "class-dp, noise multiplier 0.5, seed 0": stages}
    assert done == {"train": 2, "attack": 4}


LONG = TINY.replace("[0, 1]", "[0, 1, 2]").replace("[0.5, 1.0]", "0.5").replace("= 5", "= 400")


def _session(leader: int) -> list[int]:
    """The living processes of a session, from /proc."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it ended while we looked
            continue
        if int(session) == leader and state != "Z":
            found.append(int(folder.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for left-over processes in /proc")
def test_killed_and_resumed_gives_the_same_tables(tmp_path: Path, done: dict[str, int]) -> None:
    spec_file, out = tmp_path / "study.toml", tmp_path / "killed"
    spec_file.write_text(LONG, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "dpmi.cli", "run", str(spec_file), "--out", str(out), "--workers", "1"],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not list(out.glob("trials/[!.]*/measured.json")):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    store = Store.open(out)
    part = gather(parse(LONG), store)
    assert 1 <= len(part.trials) < part.planned == 6

    _, resumed = run_study(LONG, out)
    assert done["attack"] == 6 - len(part.trials)
    _, whole = run_study(LONG, tmp_path / "whole")
    assert_same(resumed, whole)
    assert not list(out.rglob(".partial-*"))

    deadline = time.monotonic() + 10
    while (left := _session(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == [], "a killed study leaves no process behind"
