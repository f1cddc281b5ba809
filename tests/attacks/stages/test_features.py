"""The features that enter a block are moved within a ball, and the image begins at that block."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dpmi.attacks.priors import StyleGenerator
from dpmi.attacks.stages.features import LayerFeatures

ALL = slice(None)


def test_features_stay_in_balls_around_where_each_search_began(generator: StyleGenerator) -> None:
    start = generator.mapping(torch.randn(3, 4))[:, 0] + 10
    position = LayerFeatures(generator, start, radius=0.5)
    assert [p.shape for p in position.parameters()] == [(3, 5)]
    images = position.images(ALL)
    torch.testing.assert_close(images, generator.images(generator.repeat(start)))
    following = position.at_next_block(radius=2.0)
    torch.testing.assert_close(following.images(ALL), _published(generator, start, rgb_from=1))
    styles, hidden = following.parameters()
    began = hidden.detach().clone()
    with torch.no_grad():
        styles += 3
        hidden += 3
    following.advance()
    torch.testing.assert_close((styles - start).abs().flatten(1).sum(1), torch.full((3,), 2.0))
    torch.testing.assert_close(
        (hidden - began).abs().flatten(1).sum(1), torch.full((3,), 2.0), atol=1e-3, rtol=0
    )
    last = following.at_next_block(radius=1.0)
    expected = _published(generator, styles.detach(), rgb_from=2, block=1, hidden=hidden.detach())
    torch.testing.assert_close(last.images(ALL), expected)
    assert last.parameters()[1].shape == (3, 5, 8, 8)


def _published(
    generator: StyleGenerator, styles: Tensor, *, rgb_from: int, block: int = 0, hidden: Tensor | None = None
) -> Tensor:
    """The image of a search at block ``rgb_from``, for the features that enter ``block``.

    SynthesisNetwork.forward in networks.py of IF-GMI: the image is None where it starts, and every block adds its own.
    """
    image: Tensor | None = None
    for number, name in list(enumerate(generator.synthesis.blocks))[block:]:
        module = generator.synthesis.get_submodule(name)
        hidden = module.const.expand(len(styles), -1, -1, -1) if number == 0 else module.conv0(hidden, styles)
        hidden = module.conv1(hidden, styles)
        if number >= rgb_from:
            own = module.torgb(hidden, styles)
            image = own if image is None else _upsampled(image) + own
    assert image is not None
    return (image / 2 + 0.5).clamp(0, 1)


def _upsampled(image: Tensor) -> Tensor:
    """upsample2d of the official code: zeros between the pixels, and the filter [1, 3, 3, 1]."""
    n, channels, side, _ = image.shape
    wide = image.new_zeros(n, channels, 2 * side, 2 * side)
    wide[:, :, ::2, ::2] = image
    row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = (4 * torch.outer(row, row)).expand(channels, 1, 4, 4)
    return F.conv2d(F.pad(wide, (2, 1, 2, 1)), kernel, groups=channels)
