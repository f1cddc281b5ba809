"""How a model is run: modes, noise from a seed, and batches."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dpmi.models import evaluating, in_batches, seeded


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * torch.randn_like(x)


def test_the_seed_decides_the_noise_and_the_global_generator_goes_on() -> None:
    model, x = Noisy(), torch.zeros(5)
    before = torch.get_rng_state()
    with seeded(model, 3):
        first = model(x)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    with seeded(model, 3):
        again = model(x)
    with seeded(model, 4):
        other = model(x)
    assert torch.equal(first, 2 * torch.randn(5, generator=torch.Generator().manual_seed(3)))
    assert torch.equal(again, first)
    assert not torch.equal(other, first)


def test_the_generator_goes_on_after_an_error_too() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="broken"), seeded(Noisy(), 3):
        torch.rand(7)
        raise RuntimeError("broken")
    assert torch.equal(torch.get_rng_state(), before)


def test_each_layer_gets_its_own_mode_back() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(3), nn.Dropout()))
    model[1].eval()
    before = [layer.training for layer in model.modules()]
    with pytest.raises(RuntimeError, match="broken"), evaluating(model):
        assert not any(layer.training for layer in model.modules())
        raise RuntimeError("broken")
    assert [layer.training for layer in model.modules()] == before == [True, True, False, False, False]


def test_many_images_are_asked_in_batches_without_a_graph() -> None:
    sizes: list[int] = []

    def ask(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return images.flatten(1).sum(dim=1)

    images = torch.rand(7, 1, 2, 2, requires_grad=True)
    found = in_batches(ask, images, size=3)
    assert sizes == [3, 3, 1]
    assert not found.requires_grad
    torch.testing.assert_close(found, images.detach().flatten(1).sum(dim=1))


BATCHES = """
import torch
from dpmi.models import in_batches

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

def ask(images):
    buffer = torch.ones(3 * 2**20)  # 12 MiB
    behind = torch.ones(2**18)
    del buffer
    return torch.ones(len(images), 2**18)  # malloc takes it from the place of the buffer

torch.empty(2**25 - 2**16, dtype=torch.uint8)  # malloc then takes buffers of this size from its heap
in_batches(ask, torch.zeros(1, 1), size=1)
before = resident()
found = in_batches(ask, torch.zeros(60, 1), size=1)
print(resident() - before, found.numel() * 4 / 2**20)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory from /proc")
def test_the_memory_of_many_batches_is_that_of_their_outputs() -> None:
    child = subprocess.run([sys.executable, "-c", BATCHES], capture_output=True, text=True, check=True)
    grown, outputs = map(float, child.stdout.split())
    assert outputs == 60
    assert grown < 1.5 * outputs, "buffers stayed, because outputs lie in their places"
