"""The face recogniser as a network: what it computes, its gradients, and other graphs, which are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dpmi.models import Faceres

from .graphs import projection, write_faceres


def test_its_features_are_those_of_the_node_in_front_of_the_heads_with_gradients(tmp_path: Path) -> None:
    network = Faceres(write_faceres(tmp_path / "net.json", projection()))
    assert network.side == 8
    images = (255 * torch.rand(3, 3, 8, 8)).requires_grad_()
    kernel = torch.from_numpy(projection())
    found = network(images)
    torch.testing.assert_close(found, torch.einsum("nchw,hwcf->nf", images, kernel), rtol=1e-4, atol=1e-2)
    (gradient,) = torch.autograd.grad(found[1, 2], images)
    torch.testing.assert_close(gradient[1], kernel[..., 2].permute(2, 0, 1), rtol=1e-4, atol=1e-4)
    assert not gradient[[0, 2]].any(), "each image by itself"


@pytest.mark.parametrize("shape", [(8, 6, 3, 2), (8, 8, 1, 2)])
def test_a_network_for_other_images_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = write_faceres(tmp_path / "net.json", np.ones(shape, dtype=np.float32))
    with pytest.raises(ValueError, match=r"net\.json is not faceres: it takes images of shape"):
        Faceres(path)
