"""Random views keep what a target takes, let the gradient of the image through, and are those of the papers."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dpmi.attacks.stages.views import NUMBERS, Augmentation, augmentation, crops


@pytest.mark.parametrize("name", ["none", "digits", "faces"])
def test_keeps_shape_and_range_and_lets_gradients_through(name: Augmentation) -> None:
    view = augmentation(name)
    for _ in range(10):
        images = torch.rand(3, 1, 8, 8, requires_grad=True)
        seen = view(images * 1, torch.rand(3, NUMBERS))
        assert seen.shape == images.shape
        assert seen.min() >= 0
        assert seen.max() <= 1
        (gradient,) = torch.autograd.grad(seen.sum(), images)
        assert (gradient != 0).double().mean() > 0.5


def _published(image: Tensor, numbers: list[float], *, mirror: bool, jitter: float) -> Tensor:
    """One image, as kornia 0.6.6 with the settings of PLG-MI: a slice, resized; factors; a flip; a rotation by hand."""
    area, top, left, light, contrast, jittered, mirrored, rotated, angle = numbers
    side = image.shape[1]
    # Areas whose square is the whole image, after rounding, are drawn again.
    pixels = round(side * math.sqrt(0.8 + area * (((side - 0.5) / side) ** 2 - 0.8)))
    y, x = math.floor(top * (side - pixels + 1)), math.floor(left * (side - pixels + 1))
    crop = image[None, :, y : y + pixels, x : x + pixels]
    view = F.interpolate(crop, (side, side), mode="bilinear", align_corners=True)[0]
    if jittered < jitter:
        view = (view * (0.8 + 0.4 * light)).clamp(0, 1)
        weights = torch.tensor([0.299, 0.587, 0.114] if len(image) == 3 else [1.0]).double()
        mean = (view.mean(dim=(1, 2)) * weights).sum()
        view = (mean + (0.8 + 0.4 * contrast) * (view - mean)).clamp(0, 1)
    if mirror and mirrored < 0.5:
        view = view.flip(2)
    if rotated >= 0.5:
        return view
    turned, centre, turn = torch.zeros_like(view), (side - 1) / 2, math.radians(10 * angle - 5)
    for row in range(side):
        for column in range(side):
            right, down = column - centre, row - centre
            from_x = centre + math.cos(turn) * right - math.sin(turn) * down
            from_y = centre + math.sin(turn) * right + math.cos(turn) * down
            for v in (math.floor(from_y), math.floor(from_y) + 1):
                for u in (math.floor(from_x), math.floor(from_x) + 1):
                    if 0 <= u < side and 0 <= v < side:
                        share = (1 - abs(u - from_x)) * (1 - abs(v - from_y))
                        turned[:, row, column] += share * view[:, v, u]
    return turned


@pytest.mark.parametrize(("name", "channels", "side"), [("faces", 3, 20), ("digits", 1, 8)])
@pytest.mark.parametrize("jitter", [0.5, 1.0])
def test_each_image_has_a_view_of_its_own_as_published(
    name: Augmentation, channels: int, side: int, jitter: float
) -> None:
    """Of one image forty times, with forty draws."""
    drawn = torch.Generator().manual_seed(0)
    image = torch.rand(channels, side, side, dtype=torch.float64, generator=drawn)
    numbers = torch.rand(40, NUMBERS, dtype=torch.float64, generator=drawn)
    views = augmentation(name, jitter=jitter)(image.expand(40, -1, -1, -1), numbers)
    for view, own in zip(views, numbers.tolist(), strict=True):
        expected = _published(image, own, mirror=name == "faces", jitter=jitter)
        torch.testing.assert_close(view, expected, atol=1e-9, rtol=0)
    assert len(views.flatten(1).unique(dim=0)) > 30


def test_only_faces_are_mirrored() -> None:
    """Of an image that is bright on the left, some views are bright on the right, if a mirror is among them."""
    image = torch.zeros(1, 1, 16, 16)
    image[..., :6] = 1
    numbers = torch.rand(40, NUMBERS, generator=torch.Generator().manual_seed(0))
    right = {}
    for name in ("digits", "faces"):
        views = augmentation(name)(image.expand(40, -1, -1, -1), numbers)  # type: ignore[arg-type]
        right[name] = int((views[..., 8:].mean((1, 2, 3)) > views[..., :8].mean((1, 2, 3))).sum())
    assert right["digits"] == 0
    assert 8 < right["faces"] < 32


def test_refuses_another_name() -> None:
    with pytest.raises(ValueError, match=r"augmentation must be one of .*got 'letters'"):
        augmentation("letters")  # type: ignore[arg-type]


def test_faces_are_mirrored_and_digits_are_not() -> None:
    torch.default_generator.manual_seed(0)
    image = torch.linspace(0, 1, 16).expand(1, 1, 16, 16)
    whole = {
        name: [crops(name, scale=(1.0, 1.0))(image) for _ in range(20)]
        for name in ("faces", "digits", "none")  # type: ignore[misc]
    }
    for name, views in whole.items():
        mirrored = sum(torch.allclose(view, image.flip(3), atol=1e-5) for view in views)
        assert mirrored + sum(torch.allclose(view, image, atol=1e-5) for view in views) == 20
        assert (mirrored > 0) == (name == "faces")


def test_crops_keep_the_shape_and_a_share_of_the_area() -> None:
    torch.default_generator.manual_seed(0)
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    spans = [float(v.max() - v.min()) for v in (crops("digits", scale=(0.25, 0.25))(ramp) for _ in range(9))]
    assert all(abs(span - 0.5) < 0.05 for span in spans), "a quarter of the area is half of each side"
