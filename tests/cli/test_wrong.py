"""Hundreds of wrong studies and command lines: exit code 2, one line that says what is wrong, and nothing left behind.

They are generated: every key of a study is misspelt, and given values of every type and of extreme size; every option
of every command is given values that are no such thing. What is accepted would be computed, so the work itself is
replaced by an error that says so.

Modules: dpmi/cli/arguments.py, dpmi/study/spec.py, dpmi/study/study.py, dpmi/study/sweeps.py.
"""

from __future__ import annotations

import copy
import datetime
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import typer

from dpmi import cli
from dpmi.study import run

from .conftest import EPSILON, Dpmi, Outcome, is_one_line

Place: TypeAlias = tuple[Any, ...]

STUDY: dict[str, Any] = {
    "name": "generated",
    "seeds": [0, 1],
    "model": "softmax",
    "data": {"name": "digits", "options": {"seed": 1}},
    "training": {
        "steps": 3,
        "learning_rate": 0.5,
        "batch_size": 16,
        "momentum": 0.9,
        "schedule": "cosine",
        "optimizer": "sgd",
    },
    "evaluator": {
        "model": "softmax",
        "training": {"steps": 3, "learning_rate": 0.5},
        "classes": "private",
        "seed": 1000,
    },
    "budget": {"queries": 100_000, "grad_calls": 100_000, "seconds": 100.0},
    "adaptive": False,
    "defenses": [
        {"name": "none"},
        {
            "name": "class-dp",
            "noise_multiplier": [0.5],
            "sampling_rate": 0.3,
            "max_grad_norm": 1.0,
            "delta": 1e-3,
            "max_records_per_bucket": 16,
        },
        {"name": "label-smoothing", "alpha": [0.1], "training": {"steps": 2}},
    ],
    "attacks": [
        {"name": "enhanced", "iterations": 2, "learning_rate": 0.1, "weight": 0.1},
        {
            "name": "gmi",
            "iterations": 2,
            "restarts": 1,
            "images_per_class": 1,
            "prior": {"steps": 2, "batch_size": 8, "latent_size": 4},
        },
    ],
}
VALUES = (
    *("", "no-such", "a\nb", True, -1, -0.5, 2**70, 1e308, math.inf, math.nan),
    *([], [[]], [1, "a"], {}, {"a": 1}, datetime.date(2020, 1, 1)),
)
WORDS = (
    "",
    "abc",
    "-1",
    "1.5",
    "inf",
    "nan",
    "1e400",
    "[]",
    str(2**70),
    "/nonexistent/x",
    "None",
    "1,5",
    "--",
    "a\nb",
)
COMMANDS: dict[str, tuple[str, ...]] = {
    "epsilon": tuple(part for option in EPSILON.items() for part in option),
    "calibrate": (
        *("--sampling-rate", "0.2", "--steps", "20", "--delta", "1e-3"),
        *("--unit", "class", "--target-epsilon", "3"),
    ),
    "reconstruction-bound": (
        *("--sampling-rate", "0.2", "--noise-multiplier", "1.6", "--steps", "20"),
        *("--unit", "class", "--prior", "0.1"),
    ),
    "units": (
        *("--sampling-rate", "0.2", "--noise-multiplier", "1.6", "--steps", "20"),
        *("--delta", "1e-3", "--records-per-unit", "user=3"),
    ),
    "explain": tuple(part for option in EPSILON.items() for part in option),
    "plan": ("--labels", "labels.csv", "--epsilon", "3", "--delta", "1e-3"),
    "statement": ("nothing.pt", "--delta", "1e-3"),
    "dossier": ("study",),
    "audit": ("nothing.py:main",),
    "attack": ("nothing.pt", "--model", "softmax", "--data", "digits"),
    "curve": ("--workers", "1"),
    "run": ("study.toml",),
    "measure": ("study",),
    "match": ("study.toml", "--accuracy", "0.5", "--out", "matched"),
    "report": ("study",),
    "layers": ("study",),
    "side-effects": ("study",),
    "list": (),
    "schema": (),
}


def toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, float):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + " }"
    return str(value)


def document(study: dict[str, Any]) -> str:
    return "".join(f"{key} = {toml(value)}\n" for key, value in study.items())


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        yield (*at, key)
        yield from places(each, (*at, key))


def changed(at: Place) -> tuple[dict[str, Any], Any]:
    """A copy of the study, and the table or list in it that holds this place."""
    study = copy.deepcopy(STUDY)
    holder: Any = study
    for key in at[:-1]:
        holder = holder[key]
    return study, holder


def wrong_studies() -> Iterator[tuple[str, str]]:
    """What was done to the study, and what came out."""
    for at in places(STUDY):
        key = at[-1]
        if isinstance(key, str):
            study, holder = changed(at)
            holder[f"{key}_"] = holder.pop(key)
            yield f"{at} misspelt", document(study)
        for value in VALUES:
            study, holder = changed(at)
            holder[key] = value
            yield f"{at} = {value!r}", document(study)
    whole = document(STUDY)
    for length in range(3, len(whole), 41):
        yield f"the first {length} letters", whole[:length]


def wrong_lines() -> Iterator[list[str]]:
    group: Any = typer.main.get_command(cli.app)
    assert set(COMMANDS) == set(group.commands), "give every command a line of its own"
    for name, rest in COMMANDS.items():
        line = [name, *rest]
        yield [*line, "--no-such-option"]
        yield [*line, "one", "too", "many"]
        for cut in range(1, len(line)):
            yield line[:cut]
        for parameter in group.commands[name].params:
            for option in () if parameter.param_type_name == "argument" else parameter.opts:
                yield [*line, option]
                for word in WORDS:
                    if option in line:
                        place = line.index(option) + 1
                        yield [*line[:place], word, *line[place + 1 :]]
                    else:
                        yield [*line, option, word]


def works(outcome: Outcome) -> bool:
    return outcome.code == 0 or "ACCEPTED" in outcome.err


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, where no study comes as far as to be computed."""

    def accept(*_: object, **__: object) -> None:
        raise ValueError("ACCEPTED")

    monkeypatch.setitem(run.__globals__, "compute", accept)
    monkeypatch.chdir(tmp_path)
    return tmp_path


#: Of the quick tests: one case in so many.
SOME = pytest.mark.parametrize("stride", [29, pytest.param(1, marks=pytest.mark.slow)])


@SOME
def test_wrong_studies(here: Path, dpmi: Dpmi, stride: int) -> None:
    file, out = here / "study.toml", here / "out"
    accepted, cases = [], list(wrong_studies())[::stride]
    for what, text in cases:
        file.write_text(text, encoding="utf-8")
        outcome = dpmi("run", file, "--out", out, "--workers", "1")
        if works(outcome):
            accepted.append(what)
            shutil.rmtree(out)
            continue
        assert outcome.code == 2, (what, outcome)
        assert is_one_line(outcome), (what, outcome.err)
        assert list(here.iterdir()) == [file], what
        if "misspelt" in what:
            word = what.split("'")[-2]
            named = (f"'{word}_'", f"{word} is missing", "has no name")
            assert any(each in outcome.err for each in named), (what, outcome.err)
    assert len(accepted) < 0.02 * len(cases) + 2, accepted  # a label of any sign, a budget without limits


@SOME
def test_wrong_command_lines(here: Path, dpmi: Dpmi, stride: int) -> None:
    here.joinpath("study.toml").write_text(document(STUDY), encoding="utf-8")
    here.joinpath("labels.csv").write_text("label\n" + "a\nb\nc\n" * 10, encoding="utf-8")
    before, lines = sorted(here.iterdir()), list(wrong_lines())[::stride]
    accepted = []
    for line in lines:
        outcome = dpmi(*line)
        left = [path for path in here.iterdir() if path not in before]
        if works(outcome):
            accepted.append(line)
            for path in left:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            continue
        assert outcome.code == 2, (line, outcome)
        assert is_one_line(outcome), (line, outcome.err)
        assert left == [], line
    assert len(accepted) < 0.2 * len(lines), (
        accepted
    )  # a name can be anything, and an option may stand before --
