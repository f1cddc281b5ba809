"""The features that enter a block are moved within a ball."""

from __future__ import annotations

import torch

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
    torch.testing.assert_close(following.images(ALL), images)
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
    torch.testing.assert_close(last.images(ALL), following.images(ALL))
    assert last.parameters()[1].shape == (3, 5, 8, 8)
