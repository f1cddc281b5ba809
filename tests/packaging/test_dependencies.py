"""What is declared is used, what is used is declared, and ``make demo`` installs no more than that."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads(ROOT.joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
#: Extras that only developers install.
TOOLS = {"dev", "docs", "release", "test"}
PLAIN = [Requirement(line) for line in PROJECT["dependencies"]]


def imported() -> set[str]:
    """The top-level modules that the packages import, wherever the import stands."""
    found = set()
    for path in (path for package in ("accountants", "dpmi") for path in ROOT.glob(f"{package}/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"accountants", "dpmi"}


def of_imports() -> set[str]:
    """The installed distributions of these modules."""
    known = packages_distributions()
    return {canonicalize_name(each) for module in imported() for each in known.get(module, ())}


def names(lines: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in lines}


def of_others(distribution: str) -> Iterator[str]:
    for line in requires(distribution) or []:
        if (one := Requirement(line)).marker is None or one.marker.evaluate({"extra": ""}):
            yield canonicalize_name(one.name)


def test_every_dependency_is_imported() -> None:
    used = of_imports()
    needed = {canonicalize_name(each.name) for each in PLAIN if each.marker is None or each.marker.evaluate()}
    assert needed - used == set()
    assert len(needed) >= 20


def test_every_import_is_declared() -> None:
    """By dpmi: that a dependency brings it today is no promise."""
    optional = set().union(*(names(lines) for extra, lines in EXTRAS.items() if extra not in TOOLS))
    suites = {"pytest"}  # of dpmi.testing, which is imported by tests alone
    assert of_imports() - names(PROJECT["dependencies"]) - optional == suites


def test_a_plain_install_brings_dependencies_of_dependencies_and_no_extra() -> None:
    brought, waiting = set(), {canonicalize_name(each.name) for each in PLAIN}
    while waiting:
        if (one := waiting.pop()) not in brought:
            brought.add(one)
            try:
                waiting |= {*of_others(one)}
            except ModuleNotFoundError:
                continue  # it belongs to another system, or to another Python
    optional = set().union(*(names(lines) for lines in EXTRAS.values())) - names(PROJECT["dependencies"])
    shared = {"setuptools"}  # torch needs it from Python 3.12 on
    assert brought & optional - shared == set()
    assert {"sympy", "ray", "mypy"} & brought == {"sympy"}


def test_a_test_file_of_an_extra_is_skipped_without_it() -> None:
    """Which `make test-lowest` installs none of, and Python 3.10 not all."""
    pytest.importorskip("transformers", reason="modules of extras that are not installed are not known")
    extras = set().union(*map(names, EXTRAS.values()))
    optional = extras - names(PROJECT["dependencies"]) - names(EXTRAS["test"]) - {"dpmi"}
    known = packages_distributions()
    seen = 0
    for path in ROOT.glob("tests/**/test_*.py"):
        text = path.read_text(encoding="utf-8")
        for module in re.findall(r"^(?:from|import) (\w+)", text, flags=re.MULTILINE):
            if {canonicalize_name(each) for each in known.get(module, ())} & optional:
                before = re.split(rf"^(?:from|import) {module}\b", text, maxsplit=1, flags=re.MULTILINE)[0]
                assert f'importorskip("{module}"' in before, f"{path}: {module}"
                seen += 1
    assert seen >= 8


def made(*arguments: str) -> str:
    """What make would do in a fresh checkout."""
    command = ["make", "--dry-run", "--no-print-directory", "VENV=none", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


class TestMake:
    def test_demo_installs_no_extra(self) -> None:
        installs = re.findall(r"pip install .*", made("demo"))
        assert [line.rpartition(" -c constraints.txt ")[2] for line in installs] == ["-e ."]

    def test_tests_install_all_extras(self) -> None:
        installs = re.findall(r"pip install .*", made("test"))
        assert {line.rpartition(" -c constraints.txt ")[2] for line in installs} == {"-e '.[dev]'"}

    def test_the_cpu_build_of_torch_comes_first_and_may_fail(self) -> None:
        first, _, second = made("demo", "TORCH=cpu").partition("||")
        assert "torch torchvision --index-url https://download.pytorch.org/whl/cpu" in first
        assert "-e ." not in first
        assert "echo" in second.splitlines()[1]
        assert "-e ." in second

    def test_another_torch_is_refused(self) -> None:
        assert "TORCH is gpu; it must be cpu, or absent" in made("demo", "TORCH=gpu")

    def test_the_oldest_and_the_newest_python_are_used(self, tmp_path: Path) -> None:
        pythons = []
        for name in ("python3.10", "python3.12", "python3.14"):
            (tmp_path / name).write_text("#!/bin/sh\necho 1\n")
            (tmp_path / name).chmod(0o755)
            pythons.append(str(tmp_path / name))
        output = made("test-versions", f"PYTHONS={tmp_path / 'python3.9'} {' '.join(pythons)}")
        assert f"found {' '.join(pythons)}; used {pythons[0]} {pythons[2]}" in output
        assert re.findall(r"-m venv (\S+)", output) == ["none-python3.10", "none-python3.14"]
        assert "none of" in made("test-versions", f"PYTHONS={tmp_path / 'python3.9'}")


def pins(file: str) -> list[Requirement]:
    lines = ROOT.joinpath(file).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def version_of(one: Requirement) -> Version:
    ((operator, version),) = [(each.operator, each.version) for each in one.specifier]
    assert operator == "=="
    return Version(version)


def pinned(file: str, name: str, python: str) -> list[Version]:
    return [
        version_of(one)
        for one in pins(file)
        if canonicalize_name(one.name) == name
        and (
            one.marker is None
            or one.marker.evaluate({"python_version": python, "python_full_version": f"{python}.9"})
        )
    ]


@pytest.mark.parametrize("minor", range(10, 15))
def test_every_dependency_is_pinned_once_for_every_python(minor: int) -> None:
    python = f"3.{minor}"
    lines = [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
    for one in map(Requirement, lines):
        if one.name != "dpmi" and (one.marker is None or one.marker.evaluate({"python_version": python})):
            found = pinned("constraints.txt", canonicalize_name(one.name), python)
            assert len(found) == 1, f"{one.name} on Python {python}"
            assert found[0] in one.specifier, one


def test_the_lowest_versions_are_those_that_are_allowed() -> None:
    """So that what `make test-lowest` tries is what an installer may take."""
    for one in [*PLAIN, *map(Requirement, EXTRAS["test"])]:
        (floor,) = [Version(each.version) for each in one.specifier if each.operator == ">="]
        assert pinned("constraints-min.txt", canonicalize_name(one.name), "3.10") == [floor], one


@pytest.mark.release
@pytest.mark.parametrize("python", [f"3.{minor}" for minor in range(10, 15)])
def test_the_pinned_versions_resolve(python: str) -> None:
    resolve("--extra", "dev", "--extra", "release", "-c", "constraints.txt", "--python-version", python)


@pytest.mark.release
@pytest.mark.parametrize("system", ["x86_64-pc-windows-msvc", "aarch64-apple-darwin"])
def test_the_pinned_versions_resolve_on_other_systems(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACOSX_DEPLOYMENT_TARGET", "14.0")  # that of torch's wheels
    resolve("-c", "constraints.txt", "--python-version", "3.12", system=system)


@pytest.mark.release
@pytest.mark.parametrize("python", ["3.10", "3.11"])
def test_the_lowest_versions_resolve(python: str) -> None:
    resolve("--extra", "test", "-c", "constraints-min.txt", "--python-version", python)


def resolve(*options: str, system: str = "x86_64-manylinux_2_28") -> None:
    """To wheels alone: who installs has no compiler."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "pyproject.toml", *options]
    only = ["--only-binary", ":all:", "--prerelease", "if-necessary"]
    done = subprocess.run(
        [*command, *only, "--python-platform", system], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "torch==" in done.stdout
