"""Layer importance of the models in a store: rebuilt as trained, on the reconstructions that are stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dpmi import data, metrics, models
from dpmi.study import Store, StoreError, StudySpec, parse
from dpmi.study.layer_information import finished, layer_information

from .conftest import TINY, run_study, trials_of

TEXT = TINY.replace('"softmax"', '"cnn-small"').replace("[0.5, 1.0]", "1.0") + (
    '[[attacks]]\nname = "miface"\niterations = 5\n'
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudySpec, Store]:
    store, _ = run_study(TEXT, tmp_path_factory.mktemp("study"))
    return parse(TEXT), store


def test_one_row_per_trial_and_layer(study: tuple[StudySpec, Store]) -> None:
    spec, store = study
    trials = finished(spec, store)
    assert len(trials) == 2 * 2 * 2
    reports: list[tuple[int, int]] = []
    table = layer_information(trials, store, progress=lambda *now: reports.append(now))
    assert reports[0] == (300, 1280), (
        "300 images for each of 4 models, 10 reconstructions for each of 8 trials"
    )
    assert reports[-1] == (1280, 1280)
    assert reports == sorted(reports)
    assert list(table["trial"].unique()) == [trial.key for trial in trials]
    for trial, rows in table.groupby("trial"):
        assert list(rows["layer"]) == ["0", "2", "6", "8"]
        assert list(rows["kind"]) == ["Conv2d", "Conv2d", "Linear", "Linear"]
        assert list(rows["parameters"]) == [160, 4640, 32832, 650], trial
        assert rows["classification_share"].sum() == pytest.approx(1)
        assert rows["inversion_share"].sum() == pytest.approx(1)
    # The attack changes what inversion depends on, and not what classification does.
    by_attack = table[(table["label"] == "none") & (table["seed"] == 0)].pivot(
        index="layer", columns="attack", values=["classification", "inversion"]
    )
    assert (by_attack["classification", "enhanced"] == by_attack["classification", "miface"]).all()
    assert (by_attack["inversion", "enhanced"] != by_attack["inversion", "miface"])["0"]


def test_values_are_those_of_the_stored_model_and_pictures(study: tuple[StudySpec, Store]) -> None:
    spec, store = study
    trial = finished(spec, store)[-1]
    table = layer_information([trial], store).set_index("layer")
    model = models.build("cnn-small", image_shape=(1, 8, 8), num_classes=10, seed=0)
    store.load_weights(trial.job.key, model)
    split = data.load("digits")
    expected = metrics.inversion_information(
        model,
        torch.from_numpy(store.recons(trial.key)),
        torch.arange(10),
        split.train.images,
        split.train.labels,
    )
    assert table["inversion"].to_dict() == pytest.approx(expected)
    # All 300 held-out images, whatever their order.
    expected = metrics.classification_information(model, split.test.images, split.test.labels)
    assert table["classification"].to_dict() == pytest.approx(expected, rel=1e-4)


def test_a_model_of_one_layer_has_no_information_for_inversion(tmp_path: Path) -> None:
    """Softmax regression looks at pixels: its features have no parameters."""
    store, _ = run_study(TINY.replace("[0, 1]", "[0]"), tmp_path)
    table = layer_information(finished(parse(TINY.replace("[0, 1]", "[0]")), store), store)
    assert list(table["classification_share"]) == [1.0] * 3
    assert list(table["inversion_share"]) == [0.0] * 3


def test_what_is_not_there(study: tuple[StudySpec, Store], tmp_path: Path) -> None:
    spec, store = study
    one = trials_of(TEXT)[3].key
    assert [trial.key for trial in finished(spec, store, one)] == [one]
    with pytest.raises(
        StoreError, match=rf"no finished trial 'x'; the ids are .* such as '{trials_of(TEXT)[0].key}'"
    ):
        finished(spec, store, "x")
    with pytest.raises(StoreError, match="has no finished trial yet; run the study first"):
        finished(spec, Store.create(tmp_path / "new", TEXT))
