"""Every function of the operating system that the packages call exists on Windows and macOS, or is checked for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Modules that some system lacks (https://docs.python.org/3/library/unix.html), and ways around its libraries.
NAMES = "fcntl|resource|pwd|grp|pty|termios|tty|syslog|posix|ctypes|msvcrt|winreg|_winapi"
OF_ONE_SYSTEM = rf"^\s*(?:import|from) ({NAMES})\b"
PATHS = r"""["'](/(?:proc|dev|tmp|etc|sys|var|usr)/)"""


def sources() -> list[Path]:
    return [path for package in ("accountants", "dpmi") for path in ROOT.glob(f"{package}/**/*.py")]


@pytest.mark.parametrize("pattern", [OF_ONE_SYSTEM, PATHS])
def test_no_module_and_no_path_of_one_system(pattern: str) -> None:
    found = [
        (path.relative_to(ROOT).as_posix(), *re.findall(pattern, text, flags=re.MULTILINE))
        for path in sources()
        if re.search(pattern, text := path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    ]
    assert found == []


@pytest.mark.parametrize("pattern", [OF_ONE_SYSTEM, PATHS])
def test_the_rules_find_them_in_tests(pattern: str) -> None:
    """Which use both."""
    texts = [path.read_text(encoding="utf-8") for path in ROOT.glob("tests/data/*.py")]
    assert any(re.search(pattern, text, flags=re.MULTILINE) for text in texts)


@pytest.mark.release
@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_every_name_of_the_standard_library_exists(system: str, tmp_path: Path) -> None:
    """By the types of the standard library, which differ between systems; mypy takes half a minute for each."""
    options = ["--platform", system, "--cache-dir", str(tmp_path)]
    command = [sys.executable, "-m", "mypy", *options, "-p", "accountants", "-p", "dpmi"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
