"""Random views keep what a target takes, and let the gradient of the image through."""

import pytest
import torch

from dpmi.attacks.stages.views import Augmentation, augmentation, crops


@pytest.mark.parametrize("name", ["none", "digits", "faces"])
def test_keeps_shape_and_range_and_lets_gradients_through(name: Augmentation) -> None:
    view = augmentation(name)
    for _ in range(10):
        images = torch.rand(3, 1, 8, 8, requires_grad=True)
        seen = view(images * 1)
        assert seen.shape == images.shape
        assert seen.min() >= 0
        assert seen.max() <= 1
        (gradient,) = torch.autograd.grad(seen.sum(), images)
        assert (gradient != 0).double().mean() > 0.5


def test_only_faces_are_mirrored() -> None:
    """Of an image that is bright on the left, some views are bright on the right, if a mirror is among them."""
    image = torch.zeros(1, 1, 16, 16)
    image[..., :6] = 1
    right = {
        name: sum(
            bool(view[..., 8:].mean() > view[..., :8].mean())
            for view in (augmentation(name)(image) for _ in range(40))
        )
        for name in ("digits", "faces")
    }
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
