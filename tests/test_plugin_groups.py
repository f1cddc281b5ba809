"""Data sets, models, metrics and accountants of an installed package are found by name.

Modules: accountants/plugins.py, accountants/registry.py, dpmi/data/registry.py, dpmi/metrics/registry.py,
dpmi/models/registry.py.
"""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from accountants import epsilon
from accountants.plugins import PluginError
from dpmi import data, metrics, models
from dpmi.cli import app
from dpmi.study import SpecError, parse

from .accountants.test_plugins import install


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
        with pytest.raises(ValueError, match="data set 'thirds' has no option 'sede'; its options are seed"):
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
        (origin,) = models.origins("flat")
        assert origin.startswith("dpmi_model ")
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

    def test_a_broken_accountant_hides_no_other(self, site: Path) -> None:
        install(site, "dpmi_broken", "import nothing_of_that_name", group="dpmi.accountants", broken="broken")
        settings = "--sampling-rate 0.5 --noise-multiplier 2 --steps 7 --delta 1e-3 --unit user --json"
        done = CliRunner().invoke(app, ["epsilon", *settings.split()])
        assert done.exit_code == 0
        assert {each["accountant"] for each in json.loads(done.stdout)} == {"tight", "lemma3", "theorem1"}
        assert "accountant 'broken' of package 'dpmi_broken'" in done.stderr

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


RAISED = [("KeyError('size')", "KeyError: 'size'"), ("SystemExit(3)", "SystemExit: 3")]


class TestBroken:
    """The code of a package may raise anything; it is named, and nothing else is affected."""

    @pytest.mark.parametrize(
        ("raised", "told"), [("KeyError('size')", "KeyError: 'size'"), ("SystemExit(3)", "SystemExit: 3")]
    )
    def test_while_a_defence_is_made(self, site: Path, raised: str, told: str) -> None:
        name = f"broken-{told[:3].lower()}"
        code = f"""
from dataclasses import dataclass
from typing import ClassVar
from dpmi.defenses import NoDefense

@dataclass(frozen=True, kw_only=True)
class Broken(NoDefense):
    name: ClassVar[str] = "{name}"

    def __post_init__(self):
        raise {raised}
"""
        install(site, f"dpmi_defence_{told[:3].lower()}", code, group="dpmi.defenses", **{name: "Broken"})
        study = """
name = "s"
seeds = [0]
model = "softmax"
data = "digits"
training = { steps = 5, learning_rate = 0.1 }
attacks = [{ name = "label-mean" }]
"""
        with pytest.raises(SpecError, match=rf"defenses {name}: {told}"):
            parse(study + f'defenses = [{{ name = "none" }}, {{ name = "{name}" }}]\n')
        assert len(parse(study + 'defenses = [{ name = "none" }]\n').trials) == 1

    @pytest.mark.parametrize(
        ("raised", "told"), [("KeyError('size')", "KeyError: 'size'"), ("SystemExit(3)", "SystemExit: 3")]
    )
    def test_while_data_or_a_model_is_made(self, site: Path, raised: str, told: str) -> None:
        code = f"""
from dpmi.data import Dataset
from dpmi.models import Architecture

def fail(*_):
    raise {raised}

images = Dataset("broken-images", "none", lambda: fail())
layers = Architecture("broken-layers", "none", 1, fail)
"""
        package = f"dpmi_made_{told[:3].lower()}"
        install(site, f"{package}_data", code, group="dpmi.data", **{"broken-images": "images"})
        install(site, f"{package}_models", code, group="dpmi.models", **{"broken-layers": "layers"})
        with pytest.raises(PluginError, match=rf"data set 'broken-images' failed: {told}"):
            data.load("broken-images")
        with pytest.raises(PluginError, match=rf"model 'broken-layers' failed: {told}"):
            models.build("broken-layers", image_shape=(1, 8, 8), num_classes=3, seed=0)
