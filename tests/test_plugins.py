"""Plug-ins of installed packages, with a package that is written to a folder on the path."""

from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from accountants import epsilon
from accountants.plugins import PluginError, Registry
from dpmi import data, metrics, models


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


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


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


class TestGroups:
    """A package adds data sets, models, metrics and accountants as it adds attacks and defences."""

    def test_data(self, site: Path) -> None:
        code = """
from dpmi.data import Dataset, load

thirds = Dataset("thirds", "the digits, another split", lambda seed=3: load("digits", seed=seed))
"""
        install(site, "dpmi_data", code, group="dpmi.data", thirds="thirds")
        assert data.names()[-1] == "thirds"
        assert torch.equal(data.load("thirds").train.images, data.load("digits", seed=3).train.images)
        with pytest.raises(ValueError, match="data set 'thirds' has no option 'sede'; it has seed"):
            data.load("thirds", sede=1)

    def test_models(self, site: Path) -> None:
        code = """
from torch import nn
from dpmi.models import Architecture

def layers(image_shape, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(image_shape[1] * image_shape[2], num_classes))

flat = Architecture("flat", "one layer", 4, layers)
"""
        install(site, "dpmi_model", code, group="dpmi.models", flat="flat")
        build = partial(models.build, "flat", num_classes=3, seed=0)
        assert build(image_shape=(1, 8, 8))(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
        assert models.origins("flat") == ["dpmi_model 1.0"]
        assert models.origins("softmax") == models.origins("torchvision/resnet18") == []
        with pytest.raises(ValueError, match="H and W at least 4"):
            build(image_shape=(1, 2, 2))

    def test_accountants(self, site: Path) -> None:
        code = """
from accountants.guarantee import Bound
from accountants.registry import Accountant

def bound(totals, *, delta, adjacency):
    return Bound(float(sum(totals.values())), caveats=("one for each step",))

count = Accountant(name="count", description="counts", bound=bound, is_guarantee=False)
"""
        install(site, "dpmi_accountant", code, group="dpmi.accountants", count="count")
        settings = {"sampling_rate": 0.5, "noise_multiplier": 2.0, "steps": 7, "delta": 1e-3, "unit": "user"}
        answer = epsilon(**settings, accountant="count")
        assert (answer.epsilon, answer.is_guarantee, answer.caveats) == (7.0, False, ("one for each step",))
        with pytest.raises(
            ValueError, match=r"unknown accountant 'cuont'; did you mean 'count'\? \(known: tight, "
        ):
            epsilon(**settings, accountant="cuont")

    def test_metrics(self, site: Path) -> None:
        code = """
from dpmi.metrics import Metric

def measure(images, labels, private):
    return images.flatten(1).mean(dim=1)

brightness = Metric(name="brightness", description="mean of the pixels", measure=measure, low=0, high=1)
short = Metric(name="short", description="wrong", measure=lambda images, labels, private: images[:1, 0, 0, 0])
"""
        private = data.load("digits").train
        images, labels = torch.rand(4, 1, 8, 8), torch.tensor([1, 0, 1, 0])
        assert metrics.added_columns(images, labels, private) == {}
        install(site, "dpmi_metric", code, group="dpmi.metrics", brightness="brightness")
        (found,) = metrics.added_columns(images, labels, private).values()
        pixels = images.flatten(1).double().mean(dim=1)
        torch.testing.assert_close(found, torch.stack([pixels[[1, 3]].mean(), pixels[[0, 2]].mean()]))

    def test_a_metric_that_returns_something_else_is_named(self, site: Path) -> None:
        code = """
from dpmi.metrics import Metric

short = Metric(name="short", description="wrong", measure=lambda images, labels, private: images[:1, 0, 0, 0])
"""
        install(site, "dpmi_short", code, group="dpmi.metrics", short="short")
        with pytest.raises(ValueError, match=r"metric 'short' must return .* 4 .*got \(1,\)"):
            metrics.added_columns(torch.rand(4, 1, 8, 8), torch.arange(4), data.load("digits").train)
