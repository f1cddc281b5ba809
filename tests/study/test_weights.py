"""A study whose models start from existing weights.

Modules: dpmi/models/weights.py, dpmi/study/content.py, dpmi/study/work.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dpmi import models
from dpmi.study import Machines, SpecError, Store, gather, parse, run

from .conftest import TINY, jobs_of, trials_of

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


def test_keys_change_with_the_weights_and_only_then(weights: Path, tmp_path: Path) -> None:
    """With what is in the file, not with what it is called."""
    same, other = tmp_path / "same.pt", tmp_path / "other.pt"
    same.write_bytes(weights.read_bytes())
    state = torch.load(weights)
    torch.save({**state, "1.bias": state["1.bias"] + 1}, other)
    afresh, first, copied, changed = (
        [job.key for job in jobs_of(text)] for text in (START, *map(weighted, (weights, same, other)))
    )
    assert first == copied
    assert len({*afresh, *first, *changed}) == 9


def test_training_starts_from_the_weights(weights: Path, tmp_path: Path) -> None:
    text = weighted(weights)
    spec = parse(text)
    store = Store.create(tmp_path / "study", text)
    assert run(spec, store, machines=Machines(workers=1)) == []
    keys = [trial.key for trial in trials_of(text)]
    bias = torch.load(tmp_path / "study" / "models" / jobs_of(text)[0].key / "model.pt", weights_only=True)[
        "1.bias"
    ]
    assert bias.argmax() == 7
    assert bias[7] > 990
    private = [text for trial, text in gather(spec, store).statements.items() if trial != keys[0]]
    assert len(private) == 2
    assert all(f"the records on which the initial weights {weights} were trained" in text for text in private)
    # Whether what is stored started from the file that is asked for is not known without it.
    weights.unlink()
    with pytest.raises(ValueError, match=r"weights .*weights\.pt cannot be read: No such file"):
        run(spec, store, machines=Machines(workers=1))


def test_weights_of_another_model_are_refused_before_anything_is_trained(
    weights: Path, tmp_path: Path
) -> None:
    text = weighted(weights).replace('"softmax"', '"mlp"')
    store = Store.create(tmp_path / "study", text)
    with pytest.raises(
        ValueError, match=r"do not fit model 'mlp': missing: 3.weight, 3.bias; different shape: 1.weight"
    ):
        run(parse(text), store, machines=Machines(workers=1))
    assert list((tmp_path / "study" / "models").iterdir()) == []


def test_what_the_name_tells_is_refused_at_once() -> None:
    with pytest.raises(SpecError, match="model: weights = 'torchvision' needs a torchvision model"):
        parse(weighted("torchvision"))
    with pytest.raises(SpecError, match="model: unknown model 'torchvision/resnet19'; the nearest"):
        parse(START.replace('"softmax"', '"torchvision/resnet19"'))
    parse(START.replace('"softmax"', '"torchvision/resnet18+groupnorm"\nweights = "torchvision"'))
