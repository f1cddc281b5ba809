"""The style-based generator: truncation of its styles, and its blocks one after another."""

from __future__ import annotations

import pytest
import torch

from dpmi.attacks.priors.style import network
from dpmi.attacks.priors.style.network import Features, StyleGenerator

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


@pytest.mark.parametrize("block", [None, "b8"])
def test_large_images_are_computed_in_parts(block: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same images and gradients; no part is larger than the bound, in the backward pass either."""
    generator = build(SMALL, (1, 16, 16)).generator
    assert isinstance(generator, StyleGenerator)
    parts: list[int] = []
    generator.synthesis.register_forward_pre_hook(lambda _, inputs: parts.append(len(inputs[0])))
    with torch.no_grad():
        ws = generator.mapping(torch.randn(5, 8))
        start = Features() if block is None else generator.synthesis(ws, end_block=block)
    weights = torch.randn(5, 1, 16, 16)

    def images_and_gradients() -> list[torch.Tensor]:
        own = ws.clone().requires_grad_()
        given = [x if x is None else x.clone().requires_grad_() for x in start]
        images = generator.images(own, start_block=block, features=Features(*given))
        (images * weights).sum().backward()
        return [images.detach(), *(x.grad for x in (own, *given) if x is not None and x.grad is not None)]

    whole = images_and_gradients()
    assert max(parts) == 5
    parts.clear()
    monkeypatch.setattr(network, "_PIXELS", 2 * 16**2)
    found = images_and_gradients()
    assert parts == [2, 2, 1, 1, 2, 2], "the parts of the forward pass, and again in the backward pass"
    assert len(found) == len(whole) == (2 if block is None else 4)
    for ours, expected in zip(found, whole, strict=True):
        torch.testing.assert_close(ours, expected)
    with torch.no_grad():
        torch.testing.assert_close(generator.images(ws, start_block=block, features=start), whole[0])
