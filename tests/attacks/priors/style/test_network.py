"""The style-based generator: truncation of its styles, and its blocks one after another."""

from __future__ import annotations

import pytest
import torch

from dpmi.attacks.priors.style.network import StyleGenerator

from .test_prior import SMALL, build


def test_truncation_goes_towards_the_mean_style_in_the_first_layers() -> None:
    generator = build(SMALL).generator
    assert isinstance(generator, StyleGenerator)
    generator.mapping.w_avg.copy_(torch.randn(8))
    z = torch.randn(3, 8)
    w, half = generator.mapping(z), generator.mapping(z, psi=0.5, cutoff=1)
    assert torch.equal(w[:, :1].expand_as(w), w)
    torch.testing.assert_close(half[:, 0], (w[:, 0] + generator.mapping.w_avg) / 2)
    assert torch.equal(half[:, 1:], w[:, 1:])
    assert torch.equal(generator.mapping(z, psi=0.0)[0], generator.mapping.w_avg.expand(4, -1))


@pytest.mark.parametrize("block", ["b4", "b8", "b16"])
def test_goes_on_from_any_block(block: str) -> None:
    generator = build(SMALL, (1, 16, 16)).generator
    assert isinstance(generator, StyleGenerator)
    ws = generator.mapping(torch.randn(2, 8))
    features = generator.synthesis(ws, end_block=block)
    assert torch.equal(generator.images(ws, start_block=block, features=features), generator.images(ws))
