"""Random views keep what a target takes, and let the gradient of the image through."""

import pytest
import torch

from dpmi.attacks.stages.views import Augmentation, augmentation


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
