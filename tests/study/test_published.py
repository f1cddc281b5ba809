"""The studies of published tables are valid, have the published networks, and run whole.

Modules: dpmi/study/study.py, dpmi/study/evaluator.py, dpmi/data/public_set.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dpmi import models
from dpmi.defenses import Transfer
from dpmi.study import Machines, Store, gather, parse, prepare, run
from dpmi.study.spec import load_toml
from dpmi.study.study import read

from .published import dry, in_toml

STUDIES = sorted((Path(__file__).parents[2] / "studies" / "published").glob("*.toml"))

#: Models to train, and attacks on them.
SIZES = {
    "bido-table2": (10, 10),
    "bido-table3-cifar10": (20, 20),
    "bido-table3-mnist": (20, 20),
    "calor-table1": (6, 12),
    "if-gmi": (6, 6),
    "lomma-table1": (1, 4),
    "plg-mi-table1": (1, 1),
    "ppa": (2, 2),
    **{
        f"tl-dmi-table3-{model}{public}": (2, 4)
        for model in ("vgg16", "ir152", "facenet64")
        for public in ("", "-ffhq")
    },
}


def test_every_table_has_its_study() -> None:
    assert {path.stem for path in STUDIES} == set(SIZES)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_is_valid_and_has_the_published_sizes(path: Path) -> None:
    spec = parse(read(path))
    assert spec.name == path.stem
    assert (len(spec.jobs), len(spec.trials)) == SIZES[path.stem]
    assert spec.device == "cuda"
    for prior in (prior for attack in spec.jobs[0].attacks for prior in attack.priors()):
        if prior.given or prior.name in ("surrogates", "feature-statistics"):
            continue
        settings: Any = prior
        assert (settings.width, settings.batch_size, settings.learning_rate) == (1.0, 64, 2e-4), prior.name
        assert settings.generator_every == 5
        assert settings.latent_size == (128 if prior.name == "conditional-gan" else 100)


@pytest.mark.parametrize(
    ("study", "classes", "trained", "whole"),
    [
        ("tl-dmi-table3-vgg16", 1000, 13.9, 16.8),
        ("tl-dmi-table3-ir152", 1000, 17.8, 62.6),
        ("tl-dmi-table3-facenet64", 1000, 34.4, 35.4),
        ("ppa", 1000, 8.9, 11.7),
    ],
)
def test_transfer_trains_the_published_number_of_parameters(
    study: str, classes: int, trained: float, whole: float
) -> None:
    """|theta_C| and |theta_T| of TL-DMI, Table 11, in millions; its ResNet-18 has 1,000 classes."""
    (path,) = (path for path in STUDIES if path.stem == study)
    spec = parse(read(path))
    (defense,) = {job.defense for job in spec.jobs if isinstance(job.defense, Transfer)}
    side = spec.data.options.get("size", 64)
    assert isinstance(side, int)
    model = models.build(spec.model, image_shape=(3, side, side), num_classes=classes, seed=0)
    if spec.normalize is not None:
        model = models.Preprocessed(model, **spec.normalize.model_dump())
    nothing: Any = None
    found = defense.diagnose(model, nothing, seed=0)["trained_parameters"]
    assert round(found / 1e6, 1) == trained
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == whole


def text_of(study: dict[str, Any]) -> str:
    return "".join(f"{key} = {in_toml(value)}\n" for key, value in study.items())


@pytest.mark.slow
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_it_runs_whole(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One or two steps of every stage, on 40 people, at the published sizes of all networks and images.

    Every defence is checked. With the generator of 1024x1024 pixels, only the first and the last run, because the
    others would take the same minutes again.
    """
    study = load_toml(path.read_text(encoding="utf-8"))
    (tmp_path / "data").mkdir()
    changed = dry(study, tmp_path / "data", monkeypatch)
    root = str(tmp_path / "data")
    text = text_of(changed)
    if (tmp_path / "data" / "ffhq.pkl").exists():
        prepare(parse(text), root=root)
        text = text_of({**changed, "defenses": [changed["defenses"][0], changed["defenses"][-1]]})
    spec = parse(text)
    store = Store.create(tmp_path / "study", text)
    assert run(spec, store, root=root, machines=Machines(workers=1)) == []
    results = gather(spec, store)
    assert len(results.trials) == len(spec.trials)
    assert results.trials["evaluator"].eq(study["evaluator"]["model"]).all()
    if "weights" in study["evaluator"]:
        assert (results.trials["evaluator_accuracy"] > 0.5).all()
    for name in ("attack_accuracy", "attack_accuracy_top5", "knn_distance", "fid", "test_accuracy"):
        assert results.trials[name].notna().all(), name
