"""Outputs of layers, also inside a wrapper; and what would be missing from Opacus's gradients."""

from __future__ import annotations

import pytest
import torch
from opacus.grad_sample import GradSampleModule
from torch import nn

from dpmi.models import observe
from dpmi.privacy import BucketGradSampleModule


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def test_outputs_and_features_by_name() -> None:
    model, x = network(), torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    with observe(model, ["0", "features"]) as found:
        assert found == {}
        out = model(x)
    assert torch.equal(found["0"], model[0](x))
    assert torch.equal(model[2](found["features"]), out)
    model(x + 1)
    assert torch.equal(found["0"], model[0](x)), "nothing is observed after the block"


def test_unknown_layer() -> None:
    with (
        pytest.raises(ValueError, match="no layer 'tanh'; the nearest are '0', '1', '2'"),
        observe(network(), ["tanh"]),
    ):
        pass


@pytest.mark.parametrize("name", ["1", "features"])
def test_a_penalty_reaches_the_gradients_of_opacus(name: str) -> None:
    """Of a layer without parameters, and of what the head gets."""
    model, x = network(), torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.autograd.grad(model[:2](x).square().sum(), model[0].weight)[0]
    wrapped = GradSampleModule(model, loss_reduction="sum")
    with observe(wrapped, [name]) as found:
        wrapped(x)
    found[name].square().sum().backward()
    torch.testing.assert_close(model[0].weight.grad_sample.sum(0), expected)


def test_a_penalty_that_opacus_would_miss_is_refused() -> None:
    wrapped = GradSampleModule(network())
    with pytest.raises(ValueError, match="layer '0' has parameters"), observe(wrapped, ["0"]):
        pass


def test_buckets_miss_nothing() -> None:
    with observe(BucketGradSampleModule(network()), ["0"]) as found:
        assert found == {}
