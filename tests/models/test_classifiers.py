import pytest
import torch
from torch import nn

from dpmi.models import build

#: Those that take small images and have no BatchNorm, which couples records.
SMALL = [
    "cnn",
    "cnn-tanh",
    "cnn-small",
    "cnn-compact",
    "softmax",
    "softmax-normalized",
    "mlp",
    "cnn-faces",
    "lenet3",
]


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "image_shape", "classes", "count"),
    [
        ("cnn", (1, 28, 28), 10, 26_010),
        ("cnn-tanh", (1, 28, 28), 10, 26_010),
        ("cnn-small", (1, 8, 8), 10, (9 * 16 + 16) + (16 * 9 * 32 + 32) + (512 * 64 + 64) + (64 * 10 + 10)),
        (
            "cnn-compact",
            (1, 28, 28),
            10,
            (25 * 16 + 16) + (16 * 9 * 16 + 16) + (144 * 32 + 32) + (32 * 10 + 10),
        ),
        ("softmax", (1, 70, 60), 152, 4200 * 152 + 152),
        ("softmax-normalized", (1, 70, 60), 152, 4200 * 152 + 152),
        ("mlp", (1, 8, 8), 10, 64 * 3000 + 3000 + 3000 * 10 + 10),
    ],
)
def test_parameter_counts(name, image_shape, classes, count):
    assert parameters(build(name, image_shape=image_shape, num_classes=classes, seed=0)) == count


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 32, 32), (1, 70, 60), (1, 56, 46), (1, 16, 17)])
def test_every_model_returns_logits(name, image_shape):
    model = build(name, image_shape=image_shape, num_classes=7, seed=0)
    logits = model(torch.rand(5, *image_shape, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (5, 7)
    # Logits, not probabilities or their logarithms: softmax changes them, log_softmax does too.
    assert not torch.allclose(logits.logsumexp(1), torch.zeros(5))


@pytest.mark.parametrize("name", SMALL)
def test_the_last_linear_layer_is_the_head_and_nothing_couples_records(name):
    model = build(name, image_shape=(1, 28, 28), num_classes=7, seed=0)
    assert isinstance(model, nn.Sequential)
    heads = [layer for layer in model if isinstance(layer, nn.Linear)]
    assert heads[-1].out_features == 7
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([model(image.unsqueeze(0)) for image in images])
    torch.testing.assert_close(model(images), alone)


def test_tanh_and_relu_share_their_weights():
    relu, tanh = (
        build(name, image_shape=(1, 28, 28), num_classes=10, seed=0) for name in ("cnn", "cnn-tanh")
    )
    assert relu.state_dict().keys() == tanh.state_dict().keys()
    assert all(torch.equal(relu.state_dict()[key], tanh.state_dict()[key]) for key in relu.state_dict())


def test_normalized_softmax_sees_no_brightness_and_no_contrast():
    """Up to eps, which keeps a uniform image from being divided by zero."""
    model = build("softmax-normalized", image_shape=(1, 20, 20), num_classes=3, seed=0)
    image = torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(image), model(image * 0.5 + 0.3), rtol=0.05, atol=0.05)
    assert torch.isfinite(model(torch.full((1, 1, 20, 20), 0.5))).all()
