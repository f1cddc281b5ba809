"""The style-based discriminator."""

from __future__ import annotations

import torch

from dpmi.attacks.priors.style.discriminator import StyleDiscriminator


def test_spread_is_the_mean_standard_deviation() -> None:
    x = torch.randn(8, 3, 2, 2)
    spread = StyleDiscriminator._spread(x)
    torch.testing.assert_close(spread, x.std(dim=0, unbiased=False).mean().expand(8, 1, 2, 2))
