"""Where a study computes; the tests on a GPU train and attack every kind of model there, and compare with the CPU.

Modules: dpmi/study/work.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from dpmi.study import SpecError, Store, gather, parse, prepare, run

STUDY = """
name = "device"
seeds = [0]
model = "cnn-small"
data = "digits"
training = { steps = 30, learning_rate = 0.1 }
defenses = [{ name = "none" }]
attacks = [{ name = "wiener" }]
"""
#: Every way to train: plain, by Opacus, by dpmi's engine in each mode of gradients, and the losses with state.
DEFENSES = (
    '{ name = "none" }',
    '{ name = "record-dp", noise_multiplier = 1.0, sampling_rate = 0.1, max_grad_norm = 1.0 }',
    '{ name = "subclass-dp", noise_multiplier = 1.0, sampling_rate = 0.2, max_grad_norm = 1.0 }',
    '{ name = "class-dp", noise_multiplier = 1.0, sampling_rate = 0.5, max_grad_norm = 1.0, clipping = "automatic" }',
    '{ name = "mid", beta = 0.01 }',
    '{ name = "bido-hsic" }',
    '{ name = "calor", rank = 4 }',
    '{ name = "trapdoor" }',
    '{ name = "transfer", frozen_fraction = 0.5 }',
)


@pytest.mark.parametrize("device", ["cuda:97", "mps", "cuda"])
def test_a_device_that_is_not_there_is_named_before_anything(device: str) -> None:
    if device in ("mps", "cuda") and getattr(torch, device).is_available():
        pytest.skip("this machine has such a device")
    with pytest.raises(ValueError, match=rf"device is '{device}', but torch finds \d+ such devices"):
        prepare(parse(f'device = "{device}"\n{STUDY}'))


@pytest.mark.parametrize("device", ["gpu", "cuda:", "CPU", ""])
def test_a_name_that_torch_does_not_know_is_refused(device: str) -> None:
    with pytest.raises(SpecError, match=f"device is {re.escape(repr(device))}"):
        parse(f'device = "{device}"\n{STUDY}')


def test_keys_do_not_depend_on_the_device() -> None:
    plain, elsewhere = (parse(text).jobs[0] for text in (STUDY, f'device = "cuda"\n{STUDY}'))
    assert elsewhere.device == "cuda"
    assert plain.settings == elsewhere.settings


def run_on(device: str, folder: Path, text: str) -> Any:
    text = f'device = "{device}"\n{text}'
    store = Store.create(folder, text)
    assert run(parse(text), store) == []
    return gather(parse(text), store)


@pytest.mark.gpu
@pytest.mark.parametrize("defense", DEFENSES)
def test_every_defence_trains_and_is_attacked_on_a_gpu(defense: str, tmp_path: Path) -> None:
    text = STUDY.replace('{ name = "none" }', defense)
    if "transfer" in defense:
        text = text.replace('"digits"', '"mnist-half"').replace('"cnn-small"', '"cnn"')
    here, there = (run_on(device, tmp_path / device, text).trials.iloc[0] for device in ("cpu", "cuda"))
    assert "cuda (" in there["trained_by"]
    assert "cuda (" in there["attacked_by"]
    assert there["epsilon"] == here["epsilon"]
    assert there["test_accuracy"] == pytest.approx(here["test_accuracy"], abs=0.15)


@pytest.mark.gpu
def test_attacks_with_generators_and_an_evaluator_run_on_a_gpu(tmp_path: Path) -> None:
    attacks = """attacks = [
      { name = "enhanced", iterations = 50 }, { name = "label-mean" },
      { name = "gmi", iterations = 20, images_per_class = 1, restarts = 1, prior = { steps = 20 } },
      { name = "plg-mi", iterations = 10, images_per_class = 1, prior = { steps = 10 } },
      { name = "ppa", candidates = 50, images_per_class = 1, restarts = 1, prior = { steps = 10, width = 4 } },
    ]
    evaluator = { model = "cnn-small", training = { steps = 30, learning_rate = 0.1 } }
    features = "scatter"
    """
    text = STUDY.replace('attacks = [{ name = "wiener" }]', attacks).replace(
        '"cnn-small"\ndata', '"mlp"\ndata'
    )
    found = run_on("cuda", tmp_path, text).trials
    assert len(found) == 5
    assert found["attack_accuracy"].between(0, 1).all()
