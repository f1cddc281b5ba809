"""Every key that cites a paper leads to an entry of docs/references.md, and every entry is cited."""

from __future__ import annotations

import re

from .repository import ROOT, files

REFERENCES = ROOT / "docs" / "references.md"
KEY = re.compile(r"\[(?:[A-Z][A-Za-z-]*[0-9]{2}[a-z]?|TL-DMI|BiDO|CALoR)\]")


def test_every_key_is_resolved_and_every_entry_is_used() -> None:
    used = {
        key: path.relative_to(ROOT).as_posix()
        for path in files(".py", ".md", ".toml", ".ipynb")
        if path != REFERENCES
        for key in KEY.findall(path.read_text(encoding="utf-8"))
    }
    listed = KEY.findall(REFERENCES.read_text(encoding="utf-8"))
    assert len(used) > 20
    assert {key: path for key, path in used.items() if key not in listed} == {}, "add them to the page"
    assert set(listed) - set(used) == set(), "nobody cites them"
    assert len(listed) == len(set(listed)), "listed twice"
