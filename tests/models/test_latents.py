"""The latents of every model, and of small ones whose bottlenecks are known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dpmi.models import FEATURES, build, evaluating, latents, names, observe

FACES = (3, 64, 64)


def resnet(*stages: int, width: int) -> dict[str, tuple[int, ...]]:
    maps = {f"layer{i + 1}": (channels, 16 >> i, 16 >> i) for i, channels in enumerate(stages)}
    return {"maxpool": (64, 16, 16), **maps, "features": (width,)}


@pytest.mark.parametrize(
    ("name", "image_shape", "expected"),
    [
        # BiDO's for MNIST are its layers 1 to 3; the third is the features.
        ("mcnn", (1, 32, 32), {"layer1": (64, 14, 14), "layer2": (128, 5, 5), "features": (256,)}),
        # BiDO's for VGG16 are the outputs of the first four poolings, and the features.
        (
            "vgg16",
            FACES,
            {
                "features.6": (64, 32, 32),
                "features.13": (128, 16, 16),
                "features.23": (256, 8, 8),
                "features.33": (512, 4, 4),
                "features": (2048,),
            },
        ),
        ("torchvision/resnet18", FACES, resnet(64, 128, 256, 512, width=512)),
        ("torchvision/resnet50", FACES, resnet(256, 512, 1024, 2048, width=2048)),
        ("resnet34", FACES, resnet(64, 128, 256, 512, width=512)),
        (
            "torchvision/vit_b_16",
            (3, 32, 32),
            {
                **{f"encoder.layers.encoder_layer_{i}": (5, 768) for i in (2, 5, 8, 11)},
                "features": (768,),
            },
        ),
        (
            "torchvision/swin_v2_t",
            FACES,
            {
                "features.1": (16, 16, 96),
                "features.3": (8, 8, 192),
                "features.5": (4, 4, 384),
                "permute": (768, 2, 2),
                "features": (768,),
            },
        ),
        (
            "torchvision/maxvit_t",
            (3, 224, 224),
            {
                "stem": (64, 112, 112),
                "blocks.0": (64, 56, 56),
                "blocks.1": (128, 28, 28),
                "blocks.2": (256, 14, 14),
                "blocks.3": (512, 7, 7),
                "features": (512,),
            },
        ),
        # Named "features" is here a layer too, whose output is another tensor.
        (
            "torchvision/densenet121",
            FACES,
            {
                "features.pool0": (64, 16, 16),
                "features.transition1": (128, 8, 8),
                "features.transition2": (256, 4, 4),
                "features.transition3": (512, 2, 2),
                "features.norm5": (1024, 2, 2),
                "features": (1024,),
            },
        ),
        (
            "facenet64",
            FACES,
            {
                "stem": (64, 64, 64),
                "stage1": (64, 32, 32),
                "stage2": (128, 16, 16),
                "stage3": (256, 8, 8),
                "bn": (512, 4, 4),
                "features": (512,),
            },
        ),
        ("lenet3", (1, 28, 28), {"layer1": (32, 14, 14), "layer2": (64, 7, 7), "features": (1024,)}),
        ("cnn-small", (1, 8, 8), {"4": (32, 4, 4), "features": (64,)}),
        ("mlp", (1, 8, 8), {"features": (3000,)}),
        ("softmax", (1, 8, 8), {}),
        ("softmax-normalized", (1, 8, 8), {}),
    ],
)
def test_latents(name: str, image_shape, expected: dict[str, tuple[int, ...]]) -> None:
    model = build(name, image_shape=image_shape, num_classes=3, seed=0)
    found = latents(model, image_shape)
    assert found == tuple(expected)
    with evaluating(model), torch.no_grad(), observe(model, found) as outputs:
        model(torch.zeros(1, *image_shape))
    assert {layer: tuple(output.shape[1:]) for layer, output in outputs.items()} == expected


@pytest.mark.parametrize("name", names())
def test_of_every_model_and_the_model_stays_as_it_is(name: str) -> None:
    side = 112 if name == "facenet112" else 32
    model = build(name, image_shape=(1, side, side), num_classes=3, seed=0)
    model.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = latents(model, (1, side, side))
    assert found[-1:] == (() if name.startswith(("softmax", "linear")) else (FEATURES,))
    assert len(set(found)) == len(found)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Wrapped(nn.Module):
    """A user's own: whitens the images, then runs the network of somebody else."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.backbone((x - 0.5) / 0.25)
        return out


def test_of_a_network_inside_another() -> None:
    model = build("torchvision/resnet18", image_shape=FACES, num_classes=3, seed=0)
    own = latents(model, FACES)
    assert latents(Wrapped(model), FACES) == (*(f"backbone.{name}" for name in own[:-1]), FEATURES)


class Net(nn.Module):
    """Two convolutions to half the resolution, joined in one of several ways."""

    def __init__(self, join: Callable[[nn.Module, nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.one = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.other = nn.Conv2d(4, 4, 1, stride=2)
        self.last = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 3)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.last(self.join(self.one, self.other, self.stem(x))).mean((2, 3)))
        return out


@pytest.mark.parametrize(
    ("join", "expected"),
    [
        (lambda one, other, x: one(x), ("stem", "last", FEATURES)),
        (lambda one, other, x: one(x) + other(x), ("stem", "last", FEATURES)),
        (lambda one, other, x: one(x) + x[..., ::2, ::2], ("stem", "last", FEATURES)),
    ],
)
def test_a_branch_is_no_latent(join, expected: tuple[str, ...]) -> None:
    assert latents(Net(join), (1, 8, 8)) == expected


def test_what_a_skip_connection_bypasses_is_no_latent() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 4, 3, stride=2, padding=1)
            self.down = nn.Conv2d(4, 4, 3, stride=2, padding=1)
            self.fc = nn.Linear(4 * 4 + 4 * 16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            out: Tensor = self.fc(torch.cat([x.flatten(1), self.down(x).flatten(1)], 1))
            return out

    assert latents(Skip(), (1, 8, 8)) == ("stem", FEATURES)


def test_a_model_without_a_linear_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="no linear layer"):
        latents(nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()), (1, 8, 8))
