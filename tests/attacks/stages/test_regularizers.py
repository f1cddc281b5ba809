"""The penalties and their hand-written gradients, against loops over pixels in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dpmi.attacks.stages.regularizers import bilateral_total_variation, l1


def brute_force_btv(image: Tensor) -> float:
    """Equation 5, written out for one image (C, H, W): decay 0.9, window 2."""
    channels, height, width = image.shape
    total = 0.0
    for right in range(-2, 3):
        for down in range(3):
            if right + down <= 0:
                continue
            for c in range(channels):
                for i in range(height):
                    for j in range(width):
                        if i - down >= 0 and 0 <= j - right < width:
                            difference = image[c, i, j] - image[c, i - down, j - right]
                            total += 0.9 ** (right + down) * abs(float(difference))
    return total


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 3),
    channels=st.integers(1, 3),
    height=st.integers(3, 7),
    width=st.integers(3, 7),
    seed=st.integers(0, 99),
)
def test_btv_is_equation_5(n: int, channels: int, height: int, width: int, seed: int) -> None:
    images = noise(n, channels, height, width, seed=seed)
    expected = torch.tensor([brute_force_btv(image) for image in images], dtype=torch.float64)
    torch.testing.assert_close(bilateral_total_variation(images)[0], expected)


def test_btv_does_not_join_the_borders() -> None:
    """What torch.roll would do: a ramp would then have a cliff at the border."""
    ramp = torch.arange(6.0, dtype=torch.float64).expand(1, 1, 6, 6) / 5
    assert bilateral_total_variation(ramp)[0].item() == pytest.approx(brute_force_btv(ramp[0]))
    flat = torch.full((1, 1, 5, 5), 0.7)
    value, gradient = bilateral_total_variation(flat)
    assert value.item() == 0
    assert not gradient.any()


@pytest.mark.parametrize("penalty", [l1, bilateral_total_variation])
def test_gradient_is_the_derivative(penalty: object) -> None:
    images = noise(2, 2, 5, 6)
    _, gradient = penalty(images)
    step = 1e-6
    for index in [(0, 0, 0, 0), (0, 1, 4, 5), (1, 0, 2, 3), (1, 1, 0, 5), (1, 0, 4, 0)]:
        above, below = images.clone(), images.clone()
        above[index] += step
        below[index] -= step
        slope = (penalty(above)[0] - penalty(below)[0]).sum() / (2 * step)
        assert gradient[index].item() == pytest.approx(slope.item(), rel=1e-6)


def test_l1_is_the_sum_over_pixels() -> None:
    images = noise(3, 2, 4, 4)
    value, gradient = l1(images)
    torch.testing.assert_close(value, images.abs().sum(dim=(1, 2, 3)))
    assert (gradient == 1).all()


def test_btv_refuses_images_inside_its_window() -> None:
    with pytest.raises(ValueError, match=r"sides above 2.*\(2, 9\)"):
        bilateral_total_variation(torch.zeros(1, 1, 2, 9))
