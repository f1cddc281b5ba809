"""The layers that generator and discriminator share, against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from dpmi.attacks.priors.style.connected import FullyConnected, activation


def test_activation_keeps_the_scale() -> None:
    x = torch.tensor([-3.0, 0.0, 2.0])
    torch.testing.assert_close(activation(x), math.sqrt(2) * torch.tensor([-0.6, 0.0, 2.0]))


@pytest.mark.parametrize("activate", [False, True])
@pytest.mark.parametrize("rate", [1.0, 0.01])
def test_weights_are_scaled_when_they_are_used(rate: float, activate: bool) -> None:
    layer = FullyConnected(16, 3, bias=2.0, rate=rate, activate=activate)
    x = torch.randn(5, 16)
    expected = x @ layer.weight.T * (rate / 4) + 2 * rate
    torch.testing.assert_close(layer(x), activation(expected) if activate else expected)


def test_at_the_start_the_scale_of_the_input_is_kept_at_every_rate() -> None:
    x = torch.randn(200, 400)
    for rate in (1.0, 0.01):
        assert float(FullyConnected(400, 300, rate=rate)(x).std()) == pytest.approx(1, rel=0.02)
