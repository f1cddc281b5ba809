"""The JSON schema of study files accepts every study here, and refuses wrong names, keys, types and ranges."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dpmi.privacy import GroupClipping
from dpmi.study.json_schema import study_schema

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PRESETS = ROOT / "dpmi" / "study" / "presets"
STUDIES = [*PRESETS.glob("*.toml"), *ROOT.glob("studies/**/*.toml"), *ROOT.glob("docs/results/*/study.toml")]
VALIDATOR = jsonschema.Draft202012Validator(study_schema())


def study() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((PRESETS / "digits.toml").read_text(encoding="utf-8"))
    return found


def test_it_is_a_schema() -> None:
    VALIDATOR.check_schema(VALIDATOR.schema)


def test_it_describes_without_examples_in_python() -> None:
    clipping = VALIDATOR.schema["$defs"]["GroupClipping"]["description"]
    assert ">>>" in (GroupClipping.__doc__ or "")
    assert clipping.startswith("Clipping of every param group")
    assert clipping.endswith("``S r_g / |r|``."), "the rest is there"
    assert ">>>" not in json.dumps(VALIDATOR.schema)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_study_is_valid(path: Path) -> None:
    VALIDATOR.validate(tomllib.loads(path.read_text(encoding="utf-8")))


def test_the_presets_bring_it() -> None:
    """Made by ``python -c``: json.dumps(study_schema(installed=False), indent=1)."""
    kept = (PRESETS / "study.schema.json").read_text(encoding="utf-8")
    assert json.loads(kept) == study_schema(installed=False), "write the schema again"
    for preset in PRESETS.glob("*.toml"):
        assert preset.read_text(encoding="utf-8").startswith("#:schema ./study.schema.json\n")


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ((), "seed", 1),
        ((), "seeds", []),
        ((), "seeds", [-1]),
        ((), "seeds", 3),
        ((), "model", "cnnn"),
        ((), "model", 5),
        ((), "adaptive", "yes"),
        ((), "features", {"weights": "a.pt"}),
        ((), "defenses", []),
        (("data",), "name", "mnst"),
        (("data",), "root", "x"),
        (("training",), "steps", 0),
        (("training",), "steps", 1.5),
        (("training",), "schedule", "linear"),
        (("training",), "learning_rate", -1),
        (("linkage",), "scorer", "eye"),
        (("defenses", 0), "name", "non"),
        (("defenses", 0), "noise", 1),
        (("attacks", 0), "name", "wiener2"),
        (("attacks", 0), "name", None),
        (("attacks", 0), "strength", 2),
    ],
)
def test_what_is_wrong(table: tuple[Any, ...], key: str, value: Any) -> None:
    wrong = copy.deepcopy(study())
    inner: Any = wrong
    for part in table:
        inner = inner[part]
    if value is None:
        del inner[key]
    else:
        inner[key] = value
    assert not VALIDATOR.is_valid(wrong)


@pytest.mark.parametrize(
    "defense",
    [
        {"name": "mid", "beta": [0.1, 0.2], "training": {"steps": 10}},
        {"name": "subclass-dp+random-erasing", "noise_multiplier": 1.0},
        {"name": "bido-hsic", "lambda_x": 1, "lambda_y": [1.0, 2]},
    ],
)
def test_what_is_right(defense: dict[str, Any]) -> None:
    VALIDATOR.validate({**study(), "defenses": [defense], "model": "torchvision/resnet18+groupnorm"})


@pytest.mark.parametrize(
    "defense",
    [{"name": "mid"}, {"name": "mid", "beta": []}, {"name": "mid", "beta": 1, "training": {"step": 1}}],
)
def test_what_is_wrong_in_a_defence(defense: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid({**study(), "defenses": [defense]})
