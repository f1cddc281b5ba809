"""``dpmi list``, ``dpmi schema`` and ``dpmi --version``: what there is, its settings, and broken packages beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dpmi import __version__

from ..accountants.test_plugins import install
from .conftest import Dpmi, check_mistake


def test_a_defence_with_its_settings(dpmi: Dpmi) -> None:
    outcome = dpmi("list", "subclass-dp")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0] == "subclass-dp, of the defences: One bucket per subclass."
    rows = {
        line.split()[0]: line.split(maxsplit=3) for line in lines if line.startswith(" ") and line.strip()
    }
    assert rows["noise_multiplier"][1:3] == ["float", "(required)"]
    assert rows["noise_multiplier"][3].strip() == "sigma >= 0, noise standard deviation / max_grad_norm."
    assert rows["clusters_per_class"][1:3] == ["int", "50"]
    assert any(line == "  source: dpmi, dpmi.defenses.bucket_dp" for line in lines)


def test_an_attack_with_the_settings_of_its_prior(dpmi: Dpmi) -> None:
    (found,) = json.loads(dpmi("list", "gmi", "--json").out)
    fields = {field["name"]: field for field in found["fields"]}
    assert fields["prior"]["default"] == "a table"
    assert fields["prior.steps"] == {
        "name": "prior.steps",
        "type": "int",
        "default": "2200",
        "meaning": "number of batches of the critic.",
    }
    assert found["needs"] == "gan_disc, generator, public_data, white_grad"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("facescrub", ("of the data sets", "test_share", "0.1", "share of each private class's images")),
        ("mcnn", ("of the models", "32 x 32 pixels")),
        ("theorem1", ("of the accountants", "a guarantee: no")),
        ("advantage", ("of the metrics", "bootstrap interval")),
    ],
)
def test_the_other_kinds(dpmi: Dpmi, name: str, words: tuple[str, ...]) -> None:
    outcome = dpmi("list", name)
    assert (outcome.code, outcome.err) == (0, "")
    for word in words:
        assert word in outcome.out


def test_every_name_can_be_shown(dpmi: Dpmi) -> None:
    listed = json.loads(dpmi("list", "--json").out)
    assert list(listed) == ["data sets", "defences", "attacks", "metrics", "models", "accountants"]
    for kind, names in listed.items():
        for name in names:
            shown = json.loads(dpmi("list", name, "--json").out)
            assert (kind, name) in [(each["kind"], each["name"]) for each in shown]


def test_an_unknown_name(dpmi: Dpmi) -> None:
    check_mistake(dpmi("list", "subclas-dp"), "'subclas-dp'", "did you mean 'subclass-dp'?")


BROKEN = {
    "import": "import nothing_of_that_name",
    "exit": "raise SystemExit(3)",
    "lookup": "{}['size']",
    "description": """
from dpmi.data import Dataset

class Odd(Dataset):
    @property
    def description(self):
        raise KeyError("text")

Thing = Odd("description", "", lambda: None)
""",
    "name": """
class Odd:
    @property
    def name(self):
        raise KeyError("name")

Thing = Odd()
""",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_package_is_listed_with_its_error_beside_the_others(
    dpmi: Dpmi, site: Path, kind: str
) -> None:
    install(site, f"dpmi_broken_{kind}", BROKEN[kind], group="dpmi.data", **{kind: "Thing"})
    outcome = dpmi("list", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    listed = json.loads(outcome.out)["data sets"]
    assert listed["digits"].startswith("8x8 handwritten digits")
    assert "cannot be" in listed[kind] or "must be" in listed[kind]
    table = dpmi("list")
    assert (table.code, table.err) == (0, "")
    if kind != "description":
        check_mistake(dpmi("list", kind), f"data set {kind!r} of package 'dpmi_broken_{kind}'")


def test_square_brackets_are_text(dpmi: Dpmi, site: Path) -> None:
    code = "from dpmi.data import Dataset\nThing = Dataset('odd', 'faces [/] of [red]people', lambda: None)"
    install(site, "dpmi_brackets", code, group="dpmi.data", odd="Thing")
    assert "faces [/] of [red]people" in dpmi("list").out
    assert "faces [/] of [red]people" in dpmi("list", "odd").out


def test_version_and_completion(dpmi: Dpmi) -> None:
    assert dpmi("--version").out == f"dpmi {__version__}\n"
    # Which shell it prints for, it finds out from the process that started it.
    assert "--install-completion" in dpmi("--help").out


def test_schema(dpmi: Dpmi) -> None:
    outcome = dpmi("schema")
    assert (outcome.code, outcome.err) == (0, "")
    assert json.loads(outcome.out)["title"] == "A study of dpmi"
