"""A study that attacks some classes of each model only, as the papers attack 300 people of 1,000.

Modules: dpmi/study/grid.py, dpmi/study/results.py, dpmi/study/layer_information.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dpmi.report.write import write
from dpmi.study import Results, Store, gather, parse, prepare, run
from dpmi.study.layer_information import finished, layer_information

STUDY = """
name = "some"
classes = 4
seeds = [0, 1]
model = "softmax"
data = "digits"
training = { steps = 40, learning_rate = 0.3 }
defenses = [{ name = "none" }]
attacks = [{ name = "wiener" }, { name = "gmi", iterations = 5, images_per_class = 3, prior = { steps = 5 } }]
"""
LINKED = (
    STUDY.replace('name = "some"', 'name = "linked"').replace("classes = 4", "classes = 3") + "linkage = {}\n"
)
WHOLE = STUDY.replace("classes = 4\n", "")


def results_of(text: str, folder: Path) -> tuple[Results, Store]:
    store = Store.create(folder, text)
    assert run(parse(text), store) == []
    return gather(parse(text), store), store


def test_some_classes_drawn_by_the_seed_are_those_of_the_whole_study(tmp_path: Path) -> None:
    some, store = results_of(STUDY, tmp_path / "some")
    whole, _ = results_of(WHOLE, tmp_path / "whole")
    attacked = []
    for trial, other in zip(some.trials.itertuples(), whole.trials.itertuples(), strict=True):
        mine = some.per_class[some.per_class["trial"] == trial.trial]
        assert len(mine) == 4
        classes = mine["class_index"].tolist()
        assert classes == sorted(classes)
        attacked.append((trial.seed, tuple(classes)))
        if trial.attack == "wiener":  # it computes each class by itself
            pictures = whole.recons[other.trial][classes]
            np.testing.assert_allclose(some.recons[trial.trial], pictures, atol=1e-4)
        theirs = whole.per_class[whole.per_class["trial"] == other.trial].set_index("class_index")
        for column in ("distance_blank", "advantage_class_mean", "class_name"):
            assert mine[column].tolist() == theirs.loc[classes, column].tolist()
    assert len(set(attacked)) == 2, "one draw for each seed, the same for every attack"
    page = write(some, tmp_path / "some").read_text()
    assert "10 classes, of which every model's attacks reconstruct 4." in page
    table = layer_information(finished(parse(STUDY), store, None), store, root=None)
    assert len(table) == 4


def test_with_linkage_the_images_stand_at_their_classes(tmp_path: Path) -> None:
    """Every reconstruction of the table is that of its class: the model that was attacked is surest of it there."""
    found, store = results_of(LINKED, tmp_path)
    page = write(found, tmp_path).read_text()
    assert "10 classes." in page, "a model has some of them only, and the table of linkage says which"
    for trial in parse(LINKED).trials_on(store.content()):
        roles = trial.job.roles
        assert roles is not None
        private = roles.roles(10).private
        mine = found.per_class[found.per_class["trial"] == trial.key]
        labels = trial.attacked(5)
        assert mine["class_index"].tolist() == sorted(private[label] for label in labels.tolist())
        raw, kept = store.recons(trial.key), found.recons[trial.key]
        for row, label in enumerate(labels.tolist()):
            place = mine["class_index"].tolist().index(private[label])
            np.testing.assert_array_equal(kept[place], raw[row])


def test_keys_of_whole_studies_stay_and_others_differ() -> None:
    some, whole = parse(STUDY).trials[0], parse(WHOLE).trials[0]
    assert "classes" not in whole.settings
    assert some.settings != whole.settings
    assert some.job.settings == whole.job.settings, "the model is the same"
    assert torch.equal(whole.attacked(5), torch.arange(5))


def test_more_classes_than_the_model_has_are_refused() -> None:
    with pytest.raises(ValueError, match="classes is 11, but the model has 10"):
        prepare(parse(STUDY.replace("classes = 4", "classes = 11")))
    with pytest.raises(ValueError, match="classes is 6, but the model has 5"):
        prepare(parse(LINKED.replace("classes = 3", "classes = 6")))
