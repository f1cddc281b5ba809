"""Plug-ins of installed packages, with a package that is written to a folder on the path."""

from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import pytest

from accountants.plugins import PluginError, Registry, origin


class Builtin:
    name: ClassVar[str] = "builtin"


BASE = f"from {__name__} import Builtin\n"


@pytest.fixture
def registry() -> Registry[type[Builtin]]:
    return Registry("dpmi.tests", "thing", Builtin, (Builtin,), classes=True)


def install(folder: Path, package: str, code: str, *, group: str = "dpmi.tests", **plugins: str) -> None:
    """What pip leaves behind: a module, and a dist-info folder with its entry points."""
    (folder / f"{package}.py").write_text(code)
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {package}:{attribute}" for name, attribute in plugins.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))


def test_builtin(registry: Registry[type[Builtin]]) -> None:
    assert registry.get("builtin") is Builtin
    assert registry.names() == ["builtin"]


def test_third_party(registry: Registry[type[Builtin]], site: Path) -> None:
    install(site, "dpmi_other", f"{BASE}class Other(Builtin):\n    name = 'other'\n", other="Other")
    assert registry.names() == ["builtin", "other"]
    assert registry.get("other").__module__ == "dpmi_other"


def test_unknown_name_lists_all_and_the_nearest(registry: Registry[type[Builtin]]) -> None:
    with pytest.raises(
        ValueError, match=r"unknown thing 'bultin'; did you mean 'builtin'\? \(known: builtin\)"
    ):
        registry.get("bultin")


def test_broken_package_is_named_only_when_asked_for(registry: Registry[type[Builtin]], site: Path) -> None:
    install(site, "dpmi_broken", "import nothing_of_that_name", broken="Broken")
    assert registry.names() == ["builtin", "broken"]
    assert registry.get("builtin") is Builtin
    with pytest.raises(PluginError, match=r"thing 'broken' of package 'dpmi_broken'.*nothing_of_that_name"):
        registry.get("broken")


@pytest.mark.parametrize(
    "code",
    [
        "Thing = 3",
        "class Thing:\n    name = 'else'\n",
        "class Thing: pass\n",
        "class Thing:\n    name = 'wrong'\n",
    ],
)
def test_what_is_no_plugin_is_refused(registry: Registry[type[Builtin]], site: Path, code: str) -> None:
    module = f"dpmi_wrong_{abs(hash(code))}"
    install(site, module, code, wrong="Thing")
    with pytest.raises(PluginError, match="must be a subclass of Builtin whose `name` is 'wrong'"):
        registry.get("wrong")


def test_two_packages_with_one_name(registry: Registry[type[Builtin]], site: Path) -> None:
    for package in ("dpmi_first", "dpmi_second"):
        install(site, package, f"{BASE}class Thing(Builtin):\n    name = 'same'\n", same="Thing")
    assert registry.names() == ["builtin", "same"]
    with pytest.raises(PluginError, match=r"dpmi_(first|second).*dpmi_(first|second)"):
        registry.get("same")


def test_builtin_names_cannot_be_taken(registry: Registry[type[Builtin]], site: Path) -> None:
    install(site, "dpmi_thief", "class Thing:\n    name = 'builtin'\n", builtin="Thing")
    assert registry.names() == ["builtin"]
    assert registry.get("builtin") is Builtin


def test_a_partial_is_known_by_the_package_of_its_function() -> None:
    assert origin(partial(pytest.approx, rel=0.1)) == origin(pytest.approx) == f"pytest {version('pytest')}"
    assert origin(partial(partial(Registry, "a"), "b")) == ""


def test_a_package_that_is_installed_meanwhile_is_found(
    registry: Registry[type[Builtin]], site: Path
) -> None:
    assert registry.names() == ["builtin"]
    install(site, "dpmi_late", f"{BASE}class Late(Builtin):\n    name = 'late'\n", late="Late")
    assert registry.names() == ["builtin", "late"]


def test_all_has_the_error_of_what_cannot_be_used(registry: Registry[type[Builtin]], site: Path) -> None:
    install(site, "dpmi_torn", "import nothing_of_that_name", torn="Torn")
    found = registry.all()
    assert found["builtin"] is Builtin
    assert isinstance(found["torn"], PluginError)
