"""The scattering transform: against kymatio, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dpmi.models.features import Scattering, scattering

SHAPES = [((1, 28, 28), 2), ((1, 8, 8), 2), ((1, 8, 8), 1), ((2, 30, 23), 3), ((3, 17, 32), 2)]


@pytest.mark.parametrize(("shape", "scales"), SHAPES)
def test_it_equals_kymatio(shape: tuple[int, int, int], scales: int) -> None:
    # The package kymatio.torch does not import beside current versions of scipy; this module of it does.
    kymatio = pytest.importorskip(
        "kymatio.scattering2d.frontend.torch_frontend", reason="kymatio is not installed"
    )
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    expected = kymatio.ScatteringTorch2D(scales, shape[1:])(x)
    ours = Scattering(shape, scales)(x).view(expected.shape)
    # kymatio orders the second order by first wavelet, then by second; ours by the scales of both, then by the angles.
    torch.testing.assert_close(
        ours.flatten(1).sort(dim=1).values, expected.flatten(1).sort(dim=1).values, rtol=1e-4, atol=5e-5
    )
    torch.testing.assert_close(ours[:, :, 0], expected[:, :, 0], rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize(("shape", "scales"), SHAPES)
def test_number_of_coefficients(shape: tuple[int, int, int], scales: int) -> None:
    channels, height, width = shape
    maps = 1 + 8 * scales + 32 * scales * (scales - 1)
    assert scattering(shape, scales).size == channels * maps * (height // 2**scales) * (width // 2**scales)


def test_a_small_shift_changes_it_less_than_the_pixels() -> None:
    x = torch.zeros(1, 1, 28, 28)
    x[0, 0, 8:20, 12:15] = 1.0
    moved = x.roll(1, dims=3)
    transform = Scattering((1, 28, 28), 3)
    ours = (transform(moved) - transform(x)).norm() / transform(x).norm()
    assert ours < 0.35 * float((moved - x).norm() / x.norm())


def test_gradients_reach_the_image() -> None:
    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    scattering((1, 8, 8))(x).square().sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert np.isfinite(x.grad.numpy()).all()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("scales", [0, 3])
def test_an_image_smaller_than_the_window_is_refused(scales: int) -> None:
    with pytest.raises(ValueError, match=rf"scales must be from 1 to 2, .*\(1, 8, 8\).*got {scales}"):
        scattering((1, 8, 8), scales)
