"""The classifiers of the papers: published numbers of parameters, sizes of maps, and what the papers leave out."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from dpmi import models
from dpmi.models import build, evaluating, observe

FACES = (3, 64, 64)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "image_shape", "classes", "millions"),
    [
        ("mcnn", (1, 32, 32), 5, 1.03),
        # All parameters of the targets for 1,000 people, as TL-DMI's tables of results list them.
        ("vgg16", FACES, 1000, 16.8),
        ("ir152", FACES, 1000, 62.6),
        ("facenet64", FACES, 1000, 35.4),
    ],
)
def test_published_numbers_of_parameters(name: str, image_shape, classes: int, millions: float) -> None:
    digits = len(str(millions).partition(".")[2])
    model = build(name, image_shape=image_shape, num_classes=classes, seed=0)
    assert round(parameters(model) / 1e6, digits) == millions


def convolutions(*channels: int, kernels: tuple[int, ...]) -> int:
    """Weights and biases, with two parameters of BatchNorm per channel."""
    pairs = zip(itertools.pairwise(channels), kernels, strict=True)
    return sum(before * after * k * k + 3 * after for (before, after), k in pairs)


@pytest.mark.parametrize(
    ("name", "image_shape", "count"),
    [
        (
            "lenet3",
            (1, 28, 28),
            (25 * 32 + 32) + (25 * 32 * 64 + 64) + (3136 * 1024 + 1024) + (1024 * 10 + 10),
        ),
        (
            "scnn",
            (1, 32, 32),
            convolutions(1, 32, 64, 128, 256, 512, kernels=(7, 5, 5, 3, 3)) + 512 * 10 + 10,
        ),
        # FaceNet at 112 pixels has an embedding of 512 * 7 * 7 features.
        ("facenet112", (3, 112, 112), 35_437_224 - 990 * 513 + (7 * 7 - 4 * 4) * 512 * 512),
        # Of torchvision's 21,797,672, the head of 1,000 classes is replaced by BatchNorm, embedding, BatchNorm, head.
        ("resnet34", FACES, 21_797_672 - 1000 * 513 + 4 * 512 + 512 * 513 + 10 * 513),
    ],
)
def test_other_numbers_of_parameters(name: str, image_shape, count: int) -> None:
    assert parameters(build(name, image_shape=image_shape, num_classes=10, seed=0)) == count


@pytest.mark.parametrize(
    ("name", "image_shape", "shapes"),
    [
        ("mcnn", (1, 32, 32), {"layer1": (64, 14, 14), "layer2": (128, 5, 5), "layer3": (256, 1, 1)}),
        ("scnn", (1, 32, 32), {"layer2": (64, 5, 5), "layer4": (256, 3, 3), "layer5": (512, 1, 1)}),
        ("lenet3", (1, 28, 28), {"layer1": (32, 14, 14), "layer2": (64, 7, 7), "features": (1024,)}),
        ("vgg16", FACES, {"features.43": (512, 2, 2), "features": (2048,)}),
        (
            "facenet64",
            FACES,
            {"stem": (64, 64, 64), "stage1": (64, 32, 32), "stage4": (512, 4, 4), "features": (512,)},
        ),
    ],
)
def test_sizes_of_layers(name: str, image_shape, shapes: dict[str, tuple[int, ...]]) -> None:
    model = build(name, image_shape=image_shape, num_classes=3, seed=0)
    with evaluating(model), torch.no_grad(), observe(model, list(shapes)) as found:
        assert model(torch.zeros(2, *image_shape)).shape == (2, 3)
    assert {layer: tuple(output.shape[1:]) for layer, output in found.items()} == shapes


def test_features_of_vgg16_have_mean_zero_under_training() -> None:
    """Its BatchNorm has a scale and no bias, which the papers freeze at 0."""
    model = build("vgg16", image_shape=(3, 32, 32), num_classes=3, seed=0)
    assert "bn.bias" not in model.state_dict()
    with torch.no_grad(), observe(model, ["features"]) as found:
        model(torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(found["features"].mean(0), torch.zeros(512), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "side"), [("mcnn", 32), ("scnn", 32), ("vgg16", 32), ("resnet34", 16)])
def test_the_smallest_images_of_papers(name: str, side: int) -> None:
    model = build(name, image_shape=(1, side, side), num_classes=2, seed=0)
    assert model(torch.rand(2, 1, side, side)).shape == (2, 2)
    with pytest.raises(ValueError, match=f"H and W at least {side}; got image_shape="):
        build(name, image_shape=(1, side - 1, side), num_classes=2, seed=0)


@pytest.mark.parametrize("name", ["mcnn", "vgg16", "torchvision/resnet18"])
def test_groupnorm_couples_no_records(name: str) -> None:
    image_shape = (1, 32, 32)
    images = torch.rand(3, *image_shape, generator=torch.Generator().manual_seed(0))
    model = build(f"{name}+groupnorm", image_shape=image_shape, num_classes=4, seed=3)
    alone = torch.cat([model(image.unsqueeze(0)) for image in images])
    torch.testing.assert_close(model(images), alone, atol=1e-4, rtol=1e-4)
    again = build(f"{name}+groupnorm", image_shape=image_shape, num_classes=4, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert models.latents(model, image_shape) == models.latents(
        build(name, image_shape=image_shape, num_classes=4, seed=3), image_shape
    )
