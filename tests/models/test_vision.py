"""Torchvision's classifiers: any number of channels and classes, and sizes that they do not take."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import get_model, list_models

from dpmi.models import build, check_name, evaluating, head, layer
from dpmi.models.vision import for_channels


def test_the_logits_are_those_of_torchvision_s_class() -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = build("torchvision/resnet18", image_shape=(3, 32, 32), num_classes=7, seed=0)
    peer = get_model("resnet18", num_classes=7)
    assert type(model) is type(peer)
    peer.load_state_dict(model.state_dict())
    torch.testing.assert_close(model.eval()(images), peer.eval()(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "image_shape"),
    [
        ("resnet50", (1, 32, 32)),
        ("vit_b_16", (1, 32, 32)),
        ("swin_v2_t", (1, 32, 32)),
        ("maxvit_t", (1, 224, 224)),
        ("googlenet", (1, 32, 40)),
    ],
)
def test_grey_images_and_other_classes(name: str, image_shape) -> None:
    model = build(f"torchvision/{name}", image_shape=image_shape, num_classes=4, seed=0)
    images = torch.rand(2, *image_shape, generator=torch.Generator().manual_seed(0))
    with evaluating(model), torch.no_grad():
        logits = model(images)
    assert logits.shape == (2, 4)
    assert model.training


def test_kernels_see_a_grey_image_as_three_equal_colours() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(4, 3, 5, 5, generator=generator)
    grey = torch.rand(2, 1, 9, 9, generator=generator)
    expected = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weight)
    for channels in (1, 2, 3, 5):
        own = for_channels(weight, channels)
        assert own.shape == (4, channels, 5, 5)
        torch.testing.assert_close(nn.functional.conv2d(grey.expand(-1, channels, -1, -1), own), expected)
    assert for_channels(weight, 3) is weight


@pytest.mark.parametrize(
    "name",
    [
        "alexnet",
        "convnext_tiny",
        "densenet121",
        "efficientnet_b0",
        "efficientnet_v2_s",
        "googlenet",
        "inception_v3",
        "maxvit_t",
        "mnasnet0_5",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "resnext50_32x4d",
        "shufflenet_v2_x0_5",
        "swin_t",
        "swin_v2_t",
        "vgg16_bn",
        "vit_b_16",
        "wide_resnet50_2",
    ],
)
def test_the_head_is_the_last_linear_layer_of_every_family(name: str) -> None:
    assert name in list_models(module=torchvision.models)
    options = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("meta"):
        model = get_model(name, num_classes=7, **options)
    found = layer(model, head(model))
    assert isinstance(found, nn.Linear)
    assert found.out_features == 7


def test_a_head_that_is_a_convolution_is_not_found() -> None:
    with pytest.raises(ValueError, match="no linear layer, and its last linear layer must be"):
        head(build("torchvision/squeezenet1_1", image_shape=(3, 32, 32), num_classes=7, seed=0))


@pytest.mark.parametrize(
    ("name", "image_shape", "message"),
    [
        (
            "vit_b_16",
            (3, 40, 40),
            r"'torchvision/vit_b_16' does not accept .* = \(3, 40, 40\): Input shape indivisible",
        ),
        ("vit_b_16", (3, 32, 48), r"\(3, 32, 48\): Wrong image width"),
        (
            "maxvit_t",
            (3, 64, 64),
            r"'torchvision/maxvit_t' does not accept images \(C, H, W\) = \(3, 64, 64\): ",
        ),
        ("vgg11", (3, 16, 16), r"'torchvision/vgg11' does not accept .* \(3, 16, 16\): "),
        (
            "resnet18",
            (16, 16),
            r"'torchvision/resnet18' needs images \(C, H, W\); got image_shape=\(16, 16\)",
        ),
    ],
)
def test_images_that_do_not_fit(name: str, image_shape, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(f"torchvision/{name}", image_shape=image_shape, num_classes=3, seed=0)


def test_unknown_names() -> None:
    with pytest.raises(
        ValueError, match="'torchvision/resnet19'; the nearest torchvision models are torchvision/resnet1"
    ):
        check_name("torchvision/resnet19")
    # Detection and segmentation are no classification.
    with pytest.raises(ValueError, match="unknown model 'torchvision/fcn_resnet50'"):
        build("torchvision/fcn_resnet50", image_shape=(3, 32, 32), num_classes=3, seed=0)
    for name in ("mcnn+groupnorm", "torchvision/vit_b_16", "torchvision/resnet18+groupnorm"):
        check_name(name)


def test_the_seed_alone_decides_the_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        model = build("torchvision/resnet18", image_shape=(1, 32, 32), num_classes=3, seed=seed)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    state = torch.get_rng_state()
    first = weights(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    assert torch.equal(weights(3), first)
    assert not torch.equal(weights(4), first)
