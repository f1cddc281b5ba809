"""The whole classifier: its head on known features equals the whole on pixels, and features are kept by content."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dpmi.models import build
from dpmi.models.features import FeatureClassifier, PublicStatistics, on_features, scattering

SHAPE = (1, 8, 8)


def images(n: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def classifier(top: nn.Module | None = None, cache: Path | None = None) -> FeatureClassifier:
    extractor = scattering(SHAPE)
    statistics = PublicStatistics(extractor.extract(images(200, seed=9)), dimensions=12)
    top = top or build("softmax", image_shape=(12, 1, 1), num_classes=3, seed=0)
    return FeatureClassifier(extractor, statistics, top, cache=cache)


def test_the_head_on_inputs_is_the_whole_on_images() -> None:
    found = classifier()
    assert found.inputs(images()).shape == (40, 12, 1, 1)
    torch.testing.assert_close(found.top(found.inputs(images())), found(images()))
    assert [name for name, _ in found.named_parameters()] == ["top.1.weight", "top.1.bias"]


def test_features_are_kept_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = classifier(cache=tmp_path / "features")
    first = found.inputs(images()).clone()
    torch.testing.assert_close(first, classifier().inputs(images()), rtol=0, atol=0)
    monkeypatch.setattr(found.extractor, "forward", None)  # not needed again
    assert torch.equal(found.inputs(images()), first)
    monkeypatch.undo()
    assert not torch.equal(found.inputs(images(seed=1)), first)
    found.statistics.mean += 0.01
    assert not torch.equal(found.inputs(images()), first), "of other statistics"
    assert len(list((tmp_path / "features").iterdir())) == 3


def test_a_change_of_what_was_kept_does_not_change_the_file(tmp_path: Path) -> None:
    found = classifier(cache=tmp_path)
    before = found.inputs(images()).clone()
    found.inputs(images()).zero_()
    assert torch.equal(found.inputs(images()), before)


def test_the_head_does_not_count_as_what_is_kept(tmp_path: Path) -> None:
    found = classifier(cache=tmp_path)
    found.inputs(images())
    nn.init.zeros_(found.get_parameter("top.1.weight"))
    found.inputs(images())
    assert len(list(tmp_path.iterdir())) == 1


def test_which_layers_private_images_train() -> None:
    deep = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.Tanh(), nn.Linear(7, 3))
    found = classifier(deep)
    assert [
        found.trains(name) for name in ("extractor", "statistics", "top.0", "top.1", "top.2", "features")
    ] == [
        False,
        False,
        False,
        True,
        True,
        True,
    ]
    assert not classifier().trains("features"), "the input of the only trained layer"


def test_a_linear_head_from_zero_on_public_features() -> None:
    found = on_features(scattering(SHAPE), images(200), classes=4, dimensions=7)
    assert found(images(3)).tolist() == [[0.0] * 4] * 3
    assert [tuple(p.shape) for p in found.parameters()] == [(4, 7)]
    with pytest.raises(ValueError, match="classes must be at least 2; got 1"):
        on_features(scattering(SHAPE), images(200), classes=1)
