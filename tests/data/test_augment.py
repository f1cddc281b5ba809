import math

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from dpmi.data import augment as module
from dpmi.data.augment import augment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def photos() -> torch.Tensor:
    """Three smooth images, so that interpolation changes little."""
    noise = torch.rand(3, 1, 5, 4, generator=generator())
    return torch.nn.functional.interpolate(noise, size=(70, 60), mode="bicubic").clamp(0, 1)


def test_the_photographs_come_first_and_the_count_is_kept(photos):
    images = augment(photos, 11, generator())
    assert images.shape == (11, 1, 70, 60)
    torch.testing.assert_close(images[:3], photos, rtol=0, atol=0)
    assert 0 <= images.min() <= images.max() <= 1
    assert len({image.numpy().tobytes() for image in images}) == 11


def test_the_generator_decides_and_the_global_one_is_left_alone(photos):
    state = torch.get_rng_state()
    images = augment(photos, 9, generator(1))
    torch.testing.assert_close(images, augment(photos, 9, generator(1)), rtol=0, atol=0)
    assert not torch.equal(images, augment(photos, 9, generator(2)))
    assert torch.equal(torch.get_rng_state(), state)


def test_fewer_images_than_photographs_are_refused(photos):
    with pytest.raises(ValueError, match="at least 3, the number of photographs; got 2"):
        augment(photos, 2, generator())


def test_each_variant_resembles_its_own_photograph_most(photos):
    variants = augment(photos, 63, generator())[3:]
    either_way = torch.stack([photos, photos.flip(-1)], dim=1).flatten(2)
    centred = either_way - either_way.mean(-1, keepdim=True)
    own = variants.flatten(1) - variants.flatten(1).mean(-1, keepdim=True)
    likeness = torch.einsum("vp,shp->vsh", own, centred / centred.norm(dim=-1, keepdim=True)).amax(-1)
    assert likeness.argmax(1).tolist() == [0, 1, 2] * 20


@pytest.mark.parametrize(
    ("bound", "degrees", "zoom"),
    [("MAX_ROTATION", math.degrees(module.MAX_ROTATION), 1.0), ("MAX_ZOOM", 0.0, 1 + module.MAX_ZOOM)],
)
def test_rotation_and_zoom_are_torchvisions(photos, monkeypatch, bound, degrees, zoom):
    # One movement at a time, at its bound, on images that are not square: a matrix that forgot the aspect
    # ratio would shear them.
    for other in ("MAX_ROTATION", "MAX_ZOOM", "MAX_SHIFT", "MAX_CONTRAST", "MAX_BRIGHTNESS", "NOISE_STD"):
        if other != bound:
            monkeypatch.setattr(module, other, 0.0)
    monkeypatch.setattr(module, "uniform", lambda count, limit, _: torch.full((count,), limit))
    variant = augment(photos[:1], 2, generator())[1]
    theirs = [
        functional.affine(
            image, degrees * sign, [0, 0], zoom, [0, 0], interpolation=InterpolationMode.BILINEAR
        )
        for image in (photos[0], photos[0].flip(-1))
        for sign in (1, -1)
    ]
    # Away from the border, which they fill with black.
    inside = (..., slice(12, -12), slice(12, -12))
    assert min((variant[inside] - image[inside]).abs().max() for image in theirs) < 1e-4
