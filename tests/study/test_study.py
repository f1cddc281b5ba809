"""A study file: what it expands to, and how it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpmi.attacks import Enhanced
from dpmi.defenses import ClassDP, NoDefense, Recipe
from dpmi.study import Content, SpecError, parse, read

from .conftest import TINY
from .test_spec import replaced


def test_expands_to_every_defence_strength_seed_and_attack() -> None:
    text = replaced("iterations = 5", "iterations = [5, 6]")
    spec = parse(text)
    private = {"sampling_rate": 0.3, "max_grad_norm": 1.0}
    defenses = [
        NoDefense(),
        ClassDP(noise_multiplier=0.5, **private),
        ClassDP(noise_multiplier=1.0, **private),
    ]
    assert [(j.defense, j.seed) for j in spec.jobs] == [(d, seed) for d in defenses for seed in (0, 1)]
    assert {j.recipe for j in spec.jobs} == {Recipe(steps=20, learning_rate=0.5)}
    assert [t.attack for t in spec.trials] == [Enhanced(iterations=5), Enhanced(iterations=6)] * 6
    assert len({t.key for t in spec.trials_on(Content(data="d"))}) == 12


def test_training_of_a_defence_overrides_the_study() -> None:
    spec = parse(
        replaced("max_grad_norm = 1.0", 'max_grad_norm = 1.0\ntraining = { steps = 7, schedule = "cosine" }')
    )
    assert {(j.defense.name, j.recipe) for j in spec.jobs} == {
        ("none", Recipe(steps=20, learning_rate=0.5)),
        ("class-dp", Recipe(steps=7, learning_rate=0.5, schedule="cosine")),
    }


def test_a_study_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    with pytest.raises(
        SpecError, match=r"missing\.toml cannot be read: No such file or directory; give a TOML"
    ):
        read(missing)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match=r"binary\.toml is not a TOML file"):
        read(binary)
    with pytest.raises(SpecError, match="cannot be read: Is a directory"):
        read(tmp_path)


def test_read_returns_the_text(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(TINY, encoding="utf-8")
    assert read(path) == TINY
