"""Studies that ask for LPIPS and for the knowledge that a student extracts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dpmi import data, metrics, models
from dpmi.data import ImageSet
from dpmi.study import Results, Store, gather, on_request, parse, prepare, run
from dpmi.study.schema import PER_CLASS, TRIALS, problems

from .conftest import trials_of

STUDY = """
name = "asked"
seeds = [0]
model = "softmax"
data = "digits"
training = { steps = 60, learning_rate = 0.3 }
defenses = [{ name = "none" }]
attacks = [{ name = "wiener" }, { name = "miface", iterations = 3 }]
"""
STUDENT = 'knowledge = { model = "softmax", epochs = 20, learning_rate = 0.5 }\n'


def results_of(text: str, folder: Path) -> tuple[Results, Store]:
    store = Store.create(folder, text)
    assert run(parse(text), store) == []
    return gather(parse(text), store), store


def test_the_student_is_measured_apart_from_training(tmp_path: Path) -> None:
    """A finished study that asks for it later trains and attacks nothing; and the score is that of the function."""
    before, store = results_of(STUDY, tmp_path)
    assert "knowledge" not in before.trials
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "models").rglob("*.pt")}
    found, store = results_of(STUDY + STUDENT, tmp_path)
    assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "models").rglob("*.pt")}
    split = data.load("digits")
    for row, trial in zip(found.trials.itertuples(), trials_of(STUDY + STUDENT), strict=True):
        recons = store.reconstructions(trial.key)
        student = models.build("softmax", image_shape=(1, 8, 8), num_classes=10, seed=0)
        expected = metrics.knowledge_extraction(
            student, recons.images, recons.labels, split.train, split.test, epochs=20, learning_rate=0.5
        )
        assert (row.knowledge, row.knowledge_test) == pytest.approx((expected.train, expected.test))
    assert found.trials["knowledge"][0] > 0.6, "the pictures of an undefended model teach digits"
    assert "knowledge" not in found.per_class
    assert list(problems(found.trials, TRIALS)) == []


def test_the_student_learns_the_attacked_classes_only(tmp_path: Path) -> None:
    """Its classes are numbered anew, and it is tested on private images of these."""
    text = STUDY + STUDENT + "linkage = { private = 3 }\n"
    found, store = results_of(text, tmp_path)
    (trial, *_) = trials_of(text)
    split = data.load("digits")
    own = found.per_class[found.per_class["trial"] == found.trials["trial"][0]]["class_index"].tolist()
    recons = store.reconstructions(trial.key)

    def of_own(part: ImageSet) -> ImageSet:
        kept = part.cut(torch.isin(part.labels, torch.tensor(own)))
        return ImageSet(kept.images, torch.tensor([own.index(k) for k in kept.labels.tolist()]))

    student = models.build("softmax", image_shape=(1, 8, 8), num_classes=3, seed=0)
    roles = parse(text).jobs[0].roles
    assert roles is not None
    order = torch.tensor([own.index(k) for k in roles.roles(10).private])
    expected = metrics.knowledge_extraction(
        student, recons.images[order.argsort()], torch.arange(3), of_own(split.train), of_own(split.test),
        epochs=20, learning_rate=0.5,
    )  # fmt: skip
    assert found.trials["knowledge"][0] == pytest.approx(expected.train)


def test_a_student_that_diverges_has_no_score(tmp_path: Path) -> None:
    wild = STUDENT.replace("learning_rate = 0.5", "learning_rate = 1e30")
    found, _ = results_of(STUDY + wild, tmp_path)
    assert found.trials["knowledge"].isna().all()


def faces(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for person in range(4):
        (folder / f"person{person}").mkdir(parents=True)
        mean = generator.integers(0, 255, (32, 32))
        for number in range(5):
            picture = np.clip(mean + generator.normal(0, 20, (32, 32)), 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(folder / f"person{person}" / f"{number}.png")


def apart(one: Tensor, other: Tensor) -> Tensor:
    """In the place of LPIPS, whose weights are not part of the tests; tests/metrics has its formula."""
    return (one - other).abs().mean(dim=(1, 2, 3))


def test_lpips_of_every_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faces(tmp_path / "faces")
    text = f"""
name = "asked"
seeds = [0]
model = "softmax"
data = {{ folder = {str(tmp_path / "faces")!r} }}
training = {{ steps = 20, learning_rate = 0.1 }}
attacks = [{{ name = "enhanced", iterations = 3 }}]
lpips = true
"""
    monkeypatch.setattr(on_request, "_lpips_network", lambda: apart)
    found, store = results_of(text, tmp_path / "out")
    split = data.load("folder", folder=str(tmp_path / "faces"))
    recons = store.reconstructions(trials_of(text)[0].key)
    expected = metrics.lpips_distance(
        recons.images, recons.labels, split.train.images, split.train.labels, network=apart
    )
    per_class = found.per_class[found.per_class["trial"] == found.trials["trial"][0]]["lpips"]
    assert list(problems(found.per_class, PER_CLASS)) == []
    assert per_class.tolist() == pytest.approx(expected.values.tolist())
    assert found.trials["lpips"][0] == pytest.approx(float(expected.values.mean()))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("lpips = true\n", "lpips: LPIPS needs "),
        ('knowledge = { model = "torchvision/alexnet" }\n', "knowledge.model .torchvision/alexnet.: "),
        ('knowledge = { model = "nothing" }\n', "knowledge.model 'nothing': unknown model"),
    ],
)
def test_what_cannot_be_measured_is_said_before_training(
    asked: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_request, "_lpips_network", lambda: apart)
    with pytest.raises(ValueError, match=message):
        prepare(parse(STUDY + asked))


def test_lpips_without_its_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    on_request._lpips_network.cache_clear()
    with pytest.raises(ValueError, match=r"lpips: LPIPS needs torchvision's weights of AlexNet"):
        prepare(parse(STUDY + "lpips = true\n"))
