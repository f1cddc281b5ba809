"""``dpmi attack`` as a stranger uses it: pictures, a module and a checkpoint of one's own, in a fresh folder."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dpmi import models
from dpmi.data import load
from dpmi.study import Store, parse
from tests.cli.conftest import Dpmi, check_mistake
from tests.study.test_own_code import write_faces

NET = """
from torch import nn

class FaceNet(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(
            nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 13 * 11, 32), nn.ReLU(),
            nn.Linear(32, num_classes))

class Soft(FaceNet):
    def forward(self, x):
        return super().forward(x).softmax(dim=1)
"""
MEAN, STD = (torch.tensor(numbers).view(3, 1, 1) for numbers in models.NORMALIZATIONS["imagenet"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint that was trained on images normalised as torchvision's models expect them."""
    folder = tmp_path_factory.mktemp("stranger")
    write_faces(folder / "faces", 6, first=0)
    write_faces(folder / "other-faces", 6, first=100)
    write_faces(folder / "more-faces", 4, first=200)
    (folder / "mymodel.py").write_text(NET)
    images = load("folder", folder=str(folder / "faces")).train
    net = models.build(f"{folder / 'mymodel.py'}:FaceNet", image_shape=(3, 56, 48), num_classes=6, seed=0)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net((images.images - MEAN) / STD), images.labels).backward()
        optimizer.step()
    torch.save({"state_dict": net.state_dict()}, folder / "net.pt")
    return folder


LINE = ("attack", "net.pt", "--model", "mymodel.py:FaceNet", "--data", "faces")


PAGE = Path(__file__).parents[2] / "docs" / "attack_a_model.md"


def stranger(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, in the stranger's folder."""
    command = [sys.executable, "-c", "from dpmi.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def test_a_model_that_expects_normalised_images_is_named_first(place: Path) -> None:
    done = stranger(place, *LINE, "--public", "other-faces", "--out", "wrong")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "under normalize 'imagenet' it recognises 100.0%" in line
    assert re.search(r"recognises [0-9.]+% of its training images, where guessing recognises 16.7%", line)
    assert not (place / "wrong").exists()


def test_a_verdict_a_page_and_pictures(here: Path) -> None:
    (command,) = re.findall(r"^dpmi (attack .*)$", PAGE.read_text(), re.MULTILINE)
    done = stranger(here, *shlex.split(command))
    assert done.returncode == 0, done.stderr
    verdict, page = done.stdout.splitlines()
    assert verdict.startswith("Could somebody who has this model tell one of its classes from others? ")
    assert re.search(r"(Yes|nothing clear).* picks the right class in .*, guessing in 16\.7", verdict)
    folder = here / "runs" / "attack-net"
    assert page == "report: runs/attack-net/report.html"
    html = (folder / "report.html").read_text()
    assert "nearer to its own class than to the others" in html
    assert "guarantee is known" in html
    assert "undefended" not in html
    assert "Epsilon against" not in html
    assert (folder / "reconstructions.png").exists()
    assert not (folder / "curve.png").exists(), "one model without an epsilon has no curve"
    summary = (folder / "summary.md").read_text()
    assert "unknown" in summary
    assert verdict in summary
    assert summary.count("The model recognises") == 1
    # The study file runs by itself, and nothing is done again.
    study = parse((folder / "study.toml").read_text())
    assert study.checkpoint == "net.pt"
    (job,) = study.jobs_on(Store(folder).content())
    record = Store(folder).model_record(job.key)
    assert record is not None
    assert (record["steps"], record["train_seconds"]) == (0, 0.0)


def test_the_study_of_the_page(here: Path, dpmi: Dpmi) -> None:
    """As it stands there, but for a generator of a few steps."""
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    short = '{ name = "gmi", iterations = 2, restarts = 1, images_per_class = 1, prior = { steps = 2 } }'
    assert '{ name = "gmi" }' in text
    quick = '{ name = "miface", iterations = 2 }, { name = "enhanced", iterations = 2 }'
    (here / "page.toml").write_text(text.replace('{ name = "gmi" }', f"{short}, {quick}"))
    done = dpmi("run", "page.toml", "--workers", "1")
    assert done.code == 0, done.err
    summary = (here / "runs" / "page" / "summary.md").read_text()
    assert "nearer to its own class than to decoys" in summary
    assert "| given model | gmi |" in summary
    assert "strongest" not in summary, "its chance level would be another one"


def test_decoys_and_json(here: Path, dpmi: Dpmi) -> None:
    normalize = ",".join(map(str, MEAN.flatten().tolist())) + "/" + ",".join(map(str, STD.flatten().tolist()))
    options = (
        "--public",
        "other-faces",
        "--decoys",
        "more-faces",
        "--normalize",
        normalize,
        "--workers",
        "1",
    )
    done = dpmi(*LINE, *options, "--out", "with", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["classes"] == 6
    assert [each["attack"] for each in found["attacks"]] == ["wiener", "label-mean", "enhanced"]
    assert all(each["chance"] == 1 / 5 for each in found["attacks"]), "itself and four decoys"
    assert all(0 <= each["linkage_top1_low"] <= each["linkage_top1"] <= 1 for each in found["attacks"])
    assert all(each["accuracy"] == 1 for each in found["attacks"])
    assert found["report"] == "with/report.html"
    page = (here / "with" / "report.html").read_text()
    assert "nearer to its own class than to decoys" in page
    assert "if chance decided which classes trained it" in page
    assert "Chance decides which classes of a model are private" not in page


@pytest.mark.usefixtures("here")
def test_without_public_images_the_attack_that_needs_none(dpmi: Dpmi) -> None:
    done = dpmi(*LINE, "--normalize", "imagenet", "--workers", "1", "--out", "alone", "--json")
    assert done.code == 0, done.err
    assert [each["attack"] for each in json.loads(done.out)["attacks"]] == ["enhanced"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--thorough",), "--thorough trains generators on public images, and there are none; give --public"),
        (
            ("--data", "digits", "--size", "8"),
            "--size is for a folder of images, and --data 'digits' is none",
        ),
        (("--size", "3xx4"), "--size is '3xx4'; it must be a number of pixels, or HEIGHTxWIDTH"),
        (("--normalize", "a/b"), "--normalize is 'a/b'; MEAN/STD must be numbers"),
        (("--normalize", "cifar"), "normalize is 'cifar': it must be one of none, imagenet, 0.5"),
        (("--normalize", "0.1/0"), "the standard deviations above 0; got mean [0.1] and std [0.0]"),
        (("--normalize", "0.1,0.2/1,1"), "normalize has 2 means, but the images have 3 channels"),
        (
            ("--outputs", "probabilities", "--normalize", "imagenet"),
            "the sum of the model's outputs is not 1",
        ),
        (("--outputs", "labels"), "outputs is 'labels'"),
        (("--device", "cuda:99"), "device is 'cuda:99', but torch finds"),
        (("--decoys", "faces"), "'person0' is also a class of"),
        (("--data", "more-faces"), "has another number of classes than the 4 of the data set"),
        (("--size", "20", "--normalize", "imagenet"), "cannot be built for images (3, 20, 20)"),
    ],
)
def test_wrong_input_is_named_and_leaves_nothing(
    here: Path, dpmi: Dpmi, arguments: tuple[str, ...], message: str
) -> None:
    check_mistake(dpmi(*LINE, *arguments, "--out", "wrong"), message)
    assert not (here / "wrong").exists()


def test_a_softmax_at_the_end_is_named_and_taken_back(here: Path, dpmi: Dpmi) -> None:
    line = [*LINE, "--model", "mymodel.py:Soft", "--normalize", "imagenet", "--out", "soft", "--workers", "1"]
    check_mistake(dpmi(*line), "the model returns probabilities, whose sum is 1 for every image")
    assert not (here / "soft").exists()
    done = dpmi(*line, "--outputs", "probabilities", "--json")
    assert done.code == 0, done.err
    (found,) = json.loads(done.out)["attacks"]
    assert found["accuracy"] == 1
