"""Strengths that meet an accuracy or an epsilon: from one study file to another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from accountants import BucketMechanism, Ledger
from dpmi import versions
from dpmi.study import (
    AccuracyTarget,
    Content,
    Failure,
    Job,
    Machines,
    Match,
    MatchedStrength,
    SpecError,
    Store,
    gather,
    match_accuracy,
    match_epsilon,
    parse,
    parse_match,
    prepare,
    run,
    train_models,
)
from dpmi.study.grid import hashed
from dpmi.study.study import REPORTED

from .conftest import TINY

OPEN = TINY.replace("noise_multiplier = [0.5, 1.0]\n", "noise_multiplier = [0.05, 20.0]\n")
RECORD = '[[defenses]]\nname = "record-dp"\nsampling_rate = 0.1\nmax_grad_norm = 1.0\n'


ON = Content(data="of a test")


class Training:
    """Stands for training: the accuracy falls with the strength, known in closed form."""

    def __init__(self, store: Store, broken: float | None = None) -> None:
        self.store, self.broken = store, broken
        self.rounds: list[list[str]] = []

    def __call__(self, round_: int, jobs: Sequence[Job]) -> list[Failure]:
        self.rounds.append([job.label for job in jobs])
        for job in jobs:
            assert self.store.model_record(job.key) is None
            assert job.trials == ()
            if job.defense.strength != self.broken:
                self.store.save_model(job.key, torch.nn.Linear(1, 1), {})
                found = {"test_accuracy": accuracy(job)}
                self.store.save_measured("models", job.key, hashed(measurement=versions.MEASUREMENT), found)
        return [Failure(job.label, "broken") for job in jobs if job.defense.strength == self.broken]

    @property
    def trained(self) -> int:
        return sum(map(len, self.rounds))


def accuracy(job: Job) -> float:
    if job.defense.name == "none":
        return 0.97
    return 1 / (1 + job.defense.strength) + 0.001 * (-1) ** job.seed


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "study", OPEN)


def found(outcome: MatchedStrength | Failure) -> MatchedStrength:
    assert isinstance(outcome, MatchedStrength)
    return outcome


def test_every_defence_at_the_target(store: Store) -> None:
    match = parse_match(OPEN + RECORD).on(ON)
    training = Training(store)
    outcomes = match_accuracy(match, store, AccuracyTarget(0.8), train=training)
    assert list(outcomes) == ["none", "class-dp", "record-dp"]
    assert found(outcomes["none"]).accuracies == (0.97, 0.97)
    for name in ("class-dp", "record-dp"):
        assert found(outcomes[name]).note == ""
        assert abs(found(outcomes[name]).accuracy - 0.8) <= 0.005
    # Searches of the same curve go side by side: the first round trains both ends of both, by one seed.
    assert training.rounds[0] == [
        "none, seed 0",
        "none, seed 1",
        "class-dp, noise multiplier 0.05, seed 0",
        "class-dp, noise multiplier 20, seed 0",
        "record-dp, noise multiplier 0.05, seed 0",
        "record-dp, noise multiplier 20, seed 0",
    ]


def test_an_interrupted_match_goes_on(store: Store) -> None:
    class Stopped(Exception):
        pass

    whole = Training(Store.create(store.root.parent / "whole", OPEN))
    expected = repr(match_accuracy(parse_match(OPEN).on(ON), whole.store, AccuracyTarget(0.8), train=whole))

    first = Training(store)

    def stopped(round_: int, jobs: Sequence[Job]) -> list[Failure]:
        if round_ == 3:
            raise Stopped
        return first(round_, jobs)

    with pytest.raises(Stopped):
        match_accuracy(parse_match(OPEN).on(ON), store, AccuracyTarget(0.8), train=stopped)
    second = Training(store)
    assert (
        repr(match_accuracy(parse_match(OPEN).on(ON), store, AccuracyTarget(0.8), train=second)) == expected
    )
    assert first.trained + second.trained == whole.trained
    third = Training(store)
    assert repr(match_accuracy(parse_match(OPEN).on(ON), store, AccuracyTarget(0.8), train=third)) == expected
    assert third.rounds == []


def test_a_failed_training_ends_the_search_of_its_defence_alone(store: Store) -> None:
    match = parse_match(OPEN + RECORD.replace("sampling", "noise_multiplier = [0.1, 10.0]\nsampling")).on(ON)
    outcomes = match_accuracy(match, store, AccuracyTarget(0.8), train=Training(store, broken=20.0))
    assert outcomes["class-dp"] == Failure("class-dp, noise multiplier 20, seed 0", "broken")
    assert found(outcomes["record-dp"]).note == ""


def test_the_matched_study_trains_nothing_again(tmp_path: Path) -> None:
    """For real: the models of the search are those of the study that it leaves."""
    text = OPEN.replace("steps = 20", "steps = 60").replace("[0.05, 20.0]", "[0.01, 2.0]")
    store = Store.create(tmp_path / "study", text)
    match = parse_match(text)
    match = match.on(prepare(match.weakest))

    def train(_: int, jobs: Sequence[Job]) -> list[Failure]:
        return train_models(jobs, store, machines=Machines(workers=1))

    outcome = found(match_accuracy(match, store, AccuracyTarget(0.7, 0.05), train=train)["class-dp"])
    assert abs(outcome.accuracy - 0.7) <= 0.05, "or this test says nothing"
    models = {p: p.stat().st_mtime_ns for p in store.root.glob("models/*/record.json")}
    matched = match.study("accuracy 0.7", {"none": float("nan"), "class-dp": outcome.strength})
    path = store.save_matched(matched)
    assert path.read_text(encoding="utf-8") == store.spec_text == matched

    spec = parse(matched)
    assert run(spec, store, machines=Machines(workers=1)) == []
    assert {p: p.stat().st_mtime_ns for p in store.root.glob("models/*/record.json")} == models
    results = gather(spec, store)
    assert results.matched_on == "accuracy 0.7"
    accuracies = results.trials.groupby("defense")["test_accuracy"].mean()
    assert accuracies["class-dp"] == pytest.approx(outcome.accuracy)
    line = "- the choice of the noise multiplier: it was matched on accuracy 0.7 on the test set"
    listed = {row.defense: line in results.statements[row.trial] for row in results.trials.itertuples()}
    assert listed == {"none": False, "class-dp": True}
    # The same models in a study of the user's own: nothing was chosen by looking.
    own = gather(parse(matched.replace('matched_on = "accuracy 0.7"\n', "")), store)
    assert own.matched_on is None
    assert not any("it was matched on" in text for text in own.statements.values())


def labelled(match: Match) -> dict[str, tuple[float, float] | None]:
    return {candidate.label: candidate.ends for candidate in match.candidates}


def test_ranges() -> None:
    usual = OPEN.replace("noise_multiplier = [0.05, 20.0]\n", "")
    assert labelled(parse_match(usual)) == {"none": None, "class-dp": (0.05, 20.0)}
    # The list of a sweep, in any order and of any length, is a range.
    swept = OPEN.replace("[0.05, 20.0]", "[2, 0.5, 1.0]")
    assert labelled(parse_match(swept))["class-dp"] == (0.5, 2.0)
    # A number is kept.
    kept = parse_match(OPEN.replace("[0.05, 20.0]", "0.5"))
    assert labelled(kept) == {"none": None, "class-dp": None}
    assert [job.defense.strength for job in kept.candidates[1].at(0.5)] == [0.5, 0.5]
    assert parse(kept.study("accuracy 0.9", {"none": 0.0, "class-dp": 0.5})).jobs[2].defense.strength == 0.5


def test_two_tables_of_one_defence_are_told_apart() -> None:
    other = RECORD.replace("0.1", "0.2")
    assert list(labelled(parse_match(OPEN + RECORD + other)))[2:] == [
        "record-dp, sampling rate 0.1",
        "record-dp, sampling rate 0.2",
    ]
    with pytest.raises(SpecError, match="defenses record-dp: its strength is open in two tables; remove one"):
        parse_match(OPEN + RECORD + RECORD.replace("sampling", "noise_multiplier = [0.1, 0.2]\nsampling"))


def test_the_matched_study_is_the_study_but_for_the_strengths() -> None:
    text = OPEN.replace("max_grad_norm = 1.0", 'max_grad_norm = 1.0\ntraining = { schedule = "cosine" }')
    match = parse_match(text + RECORD)
    matched = match.study("accuracy 0.9", {"none": 0.0, "class-dp": 0.25, "record-dp": 1.5})
    by_hand = text.replace("[0.05, 20.0]", "0.25") + RECORD + "noise_multiplier = 1.5\n"
    assert [t.key for t in parse(matched).trials_on(ON)] == [t.key for t in parse(by_hand).trials_on(ON)]
    assert parse(matched).matched_on == "accuracy 0.9"
    # A defence that failed is left out.
    left = parse(match.study("accuracy 0.9", {"none": 0.0, "record-dp": 1.5}))
    assert list(dict.fromkeys(job.defense.name for job in left.jobs)) == ["none", "record-dp"]


def test_epsilon_needs_no_training() -> None:
    strengths = match_epsilon(parse_match(OPEN + RECORD), 3.0)
    for name, rate, delta, unit in (("class-dp", 0.3, 1e-2, "class"), ("record-dp", 0.1, 1e-5, "record")):
        mechanism = BucketMechanism(sampling_rate=rate, noise_multiplier=strengths[name])
        epsilon = Ledger().record(mechanism, 20).guarantee(delta=delta, unit=unit).epsilon
        assert 2.97 < epsilon <= 3.0
    # Its statement has nothing more to say: the noise was not chosen by looking.
    assert parse(parse_match(OPEN + RECORD).study("epsilon 3", strengths)).not_accounted == (REPORTED,)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"digits"', '"digit"', "data.name: unknown name 'digit'; did you mean 'digits'?"),
        ('"class-dp"', '"clas-dp"', "unknown defence 'clas-dp'; did you mean 'class-dp'?"),
        (
            "[0.05, 20.0]",
            "[0.5]",
            r"noise_multiplier is \[0.5\]; a range needs 2 different numbers",
        ),
        ("[0.05, 20.0]", "[0.5, 0.5]", r"a range needs 2 different numbers, \[from, to\]"),
        ("[0.05, 20.0]", '["a", "b"]', r"a range needs 2 different numbers, \[from, to\]"),
        ("[0.05, 20.0]", "[-1.0, 2.0]", "noise_multiplier must be at least 0, got -1.0"),
        ("[0.05, 20.0]", '"much"', "noise_multiplier is 'much': input should be a valid number"),
        ("= 0.3", "= [0.3, 0.4]", "sampling_rate is a list, which a match does not support; write one"),
        ('name = "none"', "", "a table of defenses has no name"),
    ],
)
def test_mistakes(old: str, new: str, message: str) -> None:
    assert OPEN.count(old) == 1
    with pytest.raises(SpecError, match=message):
        parse_match(OPEN.replace(old, new))


def test_matched_on_says_what_was_asked_for() -> None:
    with pytest.raises(SpecError, match="matched_on is 'looks': "):
        parse('matched_on = "looks"\n' + TINY)
