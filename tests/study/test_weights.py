"""A study whose models start from existing weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dpmi import models
from dpmi.study import SpecError, Store, gather, parse, run

from .conftest import TINY

START = TINY.replace("seeds = [0, 1]", "seeds = [0]").replace("steps = 20", "steps = 1")


def weighted(path: Path | str) -> str:
    return START.replace('model = "softmax"', f'model = "softmax"\nweights = "{path}"')


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Of 1,000 in one class: after one step of training, still that class."""
    model = models.build("softmax", image_shape=(1, 8, 8), num_classes=10, seed=0)
    state = {"1.weight": torch.zeros(10, 64), "1.bias": 1000 * torch.eye(10)[7]}
    model.load_state_dict(state)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def test_keys_change_with_the_weights_and_only_then() -> None:
    keys = [[job.key for job in parse(text).jobs] for text in (START, weighted("a.pt"), weighted("b.pt"))]
    assert len({key for of_one in keys for key in of_one}) == 9
    # Of the softmax regression without a defence, as stored before studies had weights.
    assert keys[0][0] == "7fcc37dd5e80ea4e"


def test_training_starts_from_the_weights(weights: Path, tmp_path: Path) -> None:
    text = weighted(weights)
    spec = parse(text)
    store = Store.create(tmp_path / "study", text)
    assert run(spec, store, workers=1) == []
    bias = torch.load(tmp_path / "study" / "models" / spec.jobs[0].key / "model.pt", weights_only=True)[
        "1.bias"
    ]
    assert bias.argmax() == 7
    assert bias[7] > 990
    private = [text for trial, text in gather(spec, store).statements.items() if trial != spec.trials[0].key]
    assert len(private) == 2
    assert all(f"the records that the weights {weights} had seen" in text for text in private)
    # What is stored is complete: the file is not needed again.
    weights.unlink()
    assert run(parse(weighted(weights).replace("iterations = 5", "iterations = 6")), store, workers=1) == []


def test_weights_of_another_model_are_refused_before_anything_is_trained(
    weights: Path, tmp_path: Path
) -> None:
    text = weighted(weights).replace('"softmax"', '"mlp"')
    store = Store.create(tmp_path / "study", text)
    with pytest.raises(
        ValueError, match=r"are not of model 'mlp': missing: 3.weight, 3.bias; of another shape: 1.weight"
    ):
        run(parse(text), store, workers=1)
    assert list((tmp_path / "study" / "models").iterdir()) == []


def test_what_the_name_tells_is_refused_at_once() -> None:
    with pytest.raises(SpecError, match="model: weights = 'torchvision' needs a model of torchvision's"):
        parse(weighted("torchvision"))
    with pytest.raises(SpecError, match="model: unknown model 'torchvision/resnet19'; the nearest"):
        parse(START.replace('"softmax"', '"torchvision/resnet19"'))
    parse(START.replace('"softmax"', '"torchvision/resnet18+groupnorm"\nweights = "torchvision"'))
