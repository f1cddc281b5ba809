"""Code of the user by name: modules of the current folder, files, and everything that is neither.

Modules: dpmi/by_name.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torchvision.models import resnet18

from dpmi.by_name import code_of, imported, is_name

CODE = "import beside_{0}\n\ndef half(x):\n    return x / beside_{0}.TWO\n\nNUMBER = 3\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Holds ``mine_NAME.py`` and the module that it imports; NAME differs from test to test."""
    name = tmp_path.name.replace("-", "_")
    (tmp_path / f"mine_{name}.py").write_text(CODE.format(name))
    (tmp_path / f"beside_{name}.py").write_text("TWO = 2\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mine(folder: Path) -> Path:
    (found,) = folder.glob("mine_*.py")
    return found


def test_a_module_of_the_current_folder(folder: Path) -> None:
    before = list(sys.path)
    assert imported(f"{mine(folder).stem}:half")(3) == 1.5
    assert sys.path == before


def test_a_file_from_anywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    name = f"{mine(folder)}:half"
    assert imported(name)(3) == 1.5
    assert imported(name) is imported(name)


def test_an_installed_module() -> None:
    assert imported("torchvision.models:resnet18") is resnet18


def test_the_content_identifies_it_and_the_path_does_not(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = mine(folder)
    before = code_of(f"{path}:half")
    other = tmp_path_factory.mktemp("other")
    for file in folder.glob("*.py"):
        (other / file.name).write_bytes(file.read_bytes())
    assert code_of(f"{other / path.name}:half") == before
    path.write_text(path.read_text() + "\n# another\n")
    assert code_of(f"{path}:half") != before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine", "'mine' must be module:name or FILE.py:name"),
        ("mine:3", "must be module:name or FILE.py:name"),
        (":half", "must be module:name or FILE.py:name"),
        ("my-file:half", "must be module:name or FILE.py:name"),
        ("nowhere.py:half", "there is no file nowhere.py"),
        ("no_such_module:half", "no_such_module cannot be imported: ModuleNotFoundError"),
        ("{mine}.py:third", r"mine_\w+\.py has no function or class 'third'; it has half"),
        ("{mine}.py:NUMBER", "has no function or class 'NUMBER'"),
        ("exits.py:f", r"exits\.py cannot be imported: SystemExit: 3"),
        ("broken.py:f", r"broken\.py cannot be imported: SyntaxError"),
    ],
)
def test_what_is_no_code(folder: Path, name: str, message: str) -> None:
    (folder / "exits.py").write_text("raise SystemExit(3)")
    (folder / "broken.py").write_text("def f(:")
    with pytest.raises(ValueError, match=message):
        imported(name.format(mine=mine(folder).stem))


def test_names_of_other_kinds_are_none() -> None:
    assert not any(
        map(is_name, ["resnet18", "torchvision/vit_b_16", "folder:images", "a:b:c", "cnn+groupnorm"][:2])
    )
    assert not is_name("a b:c")
