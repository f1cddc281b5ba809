"""A stranger's pictures, module and weights, in a study of a few lines, from a folder outside the checkout.

Modules: dpmi/data/folder.py, dpmi/models/registry.py, dpmi/study/spec.py.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dpmi import models
from dpmi.study import SpecError, parse

NET = """
from torch import nn

class FaceNet(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(32), nn.ReLU())
        self.head = nn.Linear(32, num_classes)

    def forward(self, x):
        return self.head(self.body(x))
"""

PAGE = Path(__file__).parents[2] / "docs" / "studies.md"
(OWN,) = re.findall(r"```toml\n(data = \{ folder.*?)\n```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
"""The lines of the page for one's own data, model and weights, as they stand there."""

STUDY = """
name = "mine"
seeds = [0]
OWN
training = { steps = 60, learning_rate = 0.02 }
defenses = [{ name = "none" }]
attacks = [{ name = "enhanced", iterations = 50 }]
""".replace("OWN", OWN)


def write_faces(folder: Path, classes: int, *, first: int) -> None:
    """Pictures of 48 x 56 pixels; every class has a colour pattern of its own, and every picture its noise."""
    for label in range(classes):
        (folder / f"person{first + label}").mkdir(parents=True)
        random = np.random.default_rng(first + label)
        pattern = np.kron(random.integers(40, 216, (7, 6, 3)), np.ones((8, 8, 1)))
        for index in range(40):
            pixels = pattern + random.normal(0, 25, pattern.shape)
            picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            picture.save(folder / f"person{first + label}" / f"{index}.jpg")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_faces(tmp_path / "faces", 6, first=0)
    write_faces(tmp_path / "other-faces", 3, first=100)
    (tmp_path / "mymodel.py").write_text(NET)
    (tmp_path / "study.toml").write_text(STUDY)
    net = models.build(f"{tmp_path / 'mymodel.py'}:FaceNet", image_shape=(3, 56, 48), num_classes=6, seed=5)
    compiled = {f"_orig_mod.{key}": value for key, value in net.state_dict().items()}
    torch.save({"model": compiled}, tmp_path / "weights.pt")
    return tmp_path


def dpmi(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = "from dpmi.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=place, capture_output=True, text=True, check=False
    )


def test_from_nothing_to_a_report(place: Path) -> None:
    done = dpmi(place, "run", "study.toml", "--out", "result", "--workers", "1")
    assert done.returncode == 0, done.stderr
    trials = pd.read_csv(place / "result" / "trials.csv")
    assert trials["test_accuracy"].item() > 0.9
    assert (place / "result" / "report.html").exists()
    assert "mymodel" in (place / "result" / "study.toml").read_text()
    # Another module of this name is another model.
    (place / "mymodel.py").write_text(NET.replace("nn.ReLU(), nn.Flatten()", "nn.Tanh(), nn.Flatten()"))
    again = dpmi(place, "run", "study.toml", "--out", "result", "--workers", "1")
    assert again.returncode == 0, again.stderr
    assert pd.read_csv(place / "result" / "trials.csv")["trial"].item() != trials["trial"].item()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("mymodel:FaceNet", "mymodel:Net", "model: mymodel has no function or class 'Net'; it has FaceNet"),
        ("mymodel:FaceNet", "nomodel:FaceNet", "model: nomodel cannot be imported: ModuleNotFoundError"),
        ('folder = "faces"', 'folder = "face"', "folder is 'face', which is no folder"),
        ("test = 0.2", "tests = 0.2", "data: data set 'folder' has no option 'tests'"),
        ('"weights.pt"', '"mymodel.py"', "weights mymodel.py is not a file with tensors only"),
        (
            'data = { folder = "faces", public = "other-faces", test = 0.2, size = [56, 48] }',
            'data = "mymodel:faces"',
            "has no function",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(place: Path, old: str, new: str, message: str) -> None:
    (place / "study.toml").write_text(STUDY.replace(old, new))
    done = dpmi(place, "run", "study.toml", "--out", "result", "--workers", "1")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (place / "result").exists()


def test_data_of_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mydata_of_a_test.py").write_text(
        "from dpmi.data import load\n\n\ndef digits(seed=3):\n    return load('digits', seed=seed)\n\n\n"
        "def wrong():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    text = STUDY.replace('{ folder = "faces", public = "other-faces", test = 0.2, size = [56, 48] }', "DATA")
    text = text.replace('"mymodel:FaceNet"', '"softmax"').replace('weights = "weights.pt"\n', "")
    for data in (
        '"mydata_of_a_test:digits"',
        '{ name = "mydata_of_a_test.py:digits", options = { seed = 4 } }',
    ):
        assert parse(text.replace("DATA", data)).data.name.endswith(":digits")
    with pytest.raises(SpecError, match="has no option 'sed'; its options are seed"):
        parse(text.replace("DATA", '{ name = "mydata_of_a_test:digits", options = { sed = 4 } }'))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def net():\n    return 3\n", "it returned a int, and no nn.Module"),
        ("def net(size):\n    return 3\n", "missing 1 required positional argument: 'size'"),
        (
            "from torch import nn\n\ndef net():\n    return nn.Flatten()\n",
            r"logits of shape \(2, 4\); got \(2, 192\)",
        ),
        ("def net(image_shape):\n    raise KeyError('side')\n", "KeyError: 'side'"),
    ],
)
def test_models_that_do_not_fit(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "net.py").write_text(code)
    with pytest.raises(ValueError, match=message):
        models.build(f"{tmp_path / 'net.py'}:net", image_shape=(3, 8, 8), num_classes=4, seed=0)


def test_weights_of_a_model_of_the_user_are_seeded(place: Path) -> None:
    name = f"{place / 'mymodel.py'}:FaceNet"
    one, again, other = (
        models.build(name, image_shape=(3, 56, 48), num_classes=6, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(one.head.weight, again.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)
    assert one.training


def test_a_model_gets_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sized.py").write_text(
        "from torch import nn\n\ndef net(num_classes, width=4):\n"
        "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.Linear(width, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    shape: dict[str, Any] = {"image_shape": (1, 8, 8), "num_classes": 3, "seed": 0}
    net = models.build("sized.py:net", **shape, options={"width": 7})
    assert [layer.out_features for layer in net.modules() if isinstance(layer, torch.nn.Linear)] == [7, 3]
    with pytest.raises(ValueError, match="unexpected keyword argument 'widht'"):
        models.build("sized.py:net", **shape, options={"widht": 7})
    with pytest.raises(ValueError, match="model 'cnn-small' takes no options, but got width"):
        models.build("cnn-small", **shape, options={"width": 7})

    text = STUDY.replace(
        '{ folder = "faces", public = "other-faces", test = 0.2, size = [56, 48] }', '"digits"'
    )
    text = text.replace('"mymodel:FaceNet"', '"sized.py:net"').replace('weights = "weights.pt"\n', "")
    plain, wide = (parse(f"{options}\n{text}").jobs[0] for options in ("", "model_options = { width = 7 }"))
    assert wide.model_options == (("width", 7),)
    assert plain.settings != wide.settings
    with pytest.raises(SpecError, match="model: model 'softmax' takes no options"):
        parse("model_options = { width = 7 }\n" + text.replace("sized.py:net", "softmax"))


TABLE = """
name = "customers"
seeds = [0, 1, 2, 3]
data = { table = "customers.csv", label = "churn", unit = "customer" }
model = "softmax"
training = { steps = 20, learning_rate = 0.5 }
defenses = [{ name = "user-dp", noise_multiplier = 4.0, sampling_rate = 0.2, max_grad_norm = 1.0 }]
attacks = [{ name = "enhanced", iterations = 20 }]
units = { unit = "user" }
"""


def test_a_table_without_pictures(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table = pd.DataFrame({"customer": random.integers(0, 60, 300), "age": random.normal(50, 15, 300)})
    table["plan"] = random.choice(["basic", "pro"], 300)
    table["churn"] = np.where(table["age"] + random.normal(0, 5, 300) > 50, "yes", "no")
    table.to_csv(tmp_path / "customers.csv", index=False)
    (tmp_path / "study.toml").write_text(TABLE)
    done = dpmi(tmp_path, "run", "study.toml", "--out", "result", "--workers", "1")
    assert done.returncode == 0, done.stderr
    trials = pd.read_csv(tmp_path / "result" / "trials.csv")
    assert trials["unit"].unique().tolist() == ["user"]
    assert trials["unit_auc"].between(0, 1).all()
    assert trials["buckets"].unique().tolist() == [24], "half of the 48 customers that train"
    assert not (tmp_path / "result" / "reconstructions.png").exists()
    page = (tmp_path / "result" / "report.html").read_text()
    assert "rows of a table, every column scaled to [0, 1]; they are not shown" in page
    assert "the smallest and largest value of every number of the table" in page, "not accounted"
    (tmp_path / "public.csv").write_text(table.drop(columns=["churn", "customer"]).to_csv(index=False))
    public = TABLE.replace('unit = "customer" }', 'unit = "customer", public = "public.csv" }')
    assert not any("smallest and largest" in text for text in parse(public).not_accounted)
