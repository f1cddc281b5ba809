"""A version follows the last release, and its changelog mentions every public name that came or went."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from packaging.version import Version

import dpmi

from ..test_public_api import PUBLIC, public
from . import released

ROOT = Path(__file__).parents[2]
SECTIONS = re.findall(
    r"^## (\S+) - (\S+)\n(.*?)(?=^## |\Z)",
    ROOT.joinpath("CHANGELOG.md").read_text(encoding="utf-8"),
    flags=re.MULTILINE | re.DOTALL,
)


def test_names_are_those_that_modules_export() -> None:
    names = released.public_names()
    assert {name for name in names if not name.startswith("dpmi.privacy.integrations.")} == {
        f"{module}.{name}"
        for module in PUBLIC
        if not module.startswith("dpmi.privacy.integrations.")
        for name in public(module).__all__
    }
    assert {"dpmi.privacy.PrivacyEngine", "dpmi.privacy.integrations.lightning.PrivateTraining"} <= {*names}


@pytest.mark.parametrize(
    ("before", "now", "section", "untold"),
    [
        (["a.Old"], ["a.Old"], "", []),
        (["a.Old"], ["a.Old", "b.New"], "- `b.New` computes.", []),
        (["a.Old"], ["a.Old", "b.New"], "- Faster.", ["b.New"]),
        (["a.Old", "a.Kept"], ["a.Kept"], "- Faster.", ["a.Old"]),
        (["a.Old"], ["b.Old"], "- `a.Old` is `b.Old`.", []),
    ],
)
def test_a_name_that_comes_or_goes_is_told(
    before: list[str], now: list[str], section: str, untold: list[str]
) -> None:
    assert released.untold(before, now, section) == untold


def test_the_changelog_tells_what_changed_since_the_last_release() -> None:
    before, names = released.last()
    section = SECTIONS[0][2]
    if before is None:
        assert "The first version." in section
        assert names == []
    else:
        assert released.untold(names, released.public_names(), section) == []


def test_versions_rise() -> None:
    versions = [Version(version) for version, *_ in SECTIONS]
    assert versions == sorted(versions, reverse=True)
    assert versions[0] == Version(dpmi.__version__)
    before, names = released.last()
    if before is not None:
        assert versions[0] >= Version(before)
        assert versions[0] > Version(before) or names == released.public_names(), "a release stays as it is"


def test_only_the_newest_section_may_be_unreleased() -> None:
    dates = [date for _, date, _ in SECTIONS]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for date in dates[1:])
    assert dates[0] == "unreleased" or re.fullmatch(r"\d{4}-\d\d-\d\d", dates[0])


def test_the_names_of_a_release_are_written_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(released, "FILE", tmp_path / "released.json")
    released.write()
    version, names = released.last()
    assert (version, names) == (dpmi.__version__, released.public_names())
    assert json.loads((tmp_path / "released.json").read_text(encoding="utf-8")).keys() == {"version", "names"}
