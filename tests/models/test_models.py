import pytest
import torch
from torch import nn

from dpmi.models import REGISTRY, build, names

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


@pytest.mark.parametrize("name", SMALL)
def test_the_seed_alone_decides_the_weights(name):
    def weights(seed: int) -> torch.Tensor:
        model = build(name, image_shape=(1, 28, 28), num_classes=10, seed=seed)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    torch.manual_seed(1)
    first = weights(3)
    torch.manual_seed(2)
    assert torch.equal(weights(3), first)
    assert not torch.equal(weights(4), first)


@pytest.mark.parametrize("name", SMALL)
def test_the_global_generator_is_untouched(name):
    state = torch.get_rng_state()
    build(name, image_shape=(1, 28, 28), num_classes=10, seed=3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.gpu
def test_the_generators_of_gpus_are_untouched():
    torch.cuda.manual_seed(5)
    state = torch.cuda.get_rng_state()
    build("cnn", image_shape=(1, 28, 28), num_classes=10, seed=3)
    assert torch.equal(torch.cuda.get_rng_state(), state)


def test_tanh_and_relu_share_their_weights():
    relu, tanh = (
        build(name, image_shape=(1, 28, 28), num_classes=10, seed=0) for name in ("cnn", "cnn-tanh")
    )
    assert relu.state_dict().keys() == tanh.state_dict().keys()
    assert all(torch.equal(relu.state_dict()[key], tanh.state_dict()[key]) for key in relu.state_dict())


@pytest.mark.parametrize(
    ("image_shape", "message"),
    [
        (
            (1, 8, 8),
            r"'cnn' needs .* H and W at least 14; got image_shape=\(1, 8, 8\), which fits cnn-small, cnn-compact",
        ),
        ((1, 28, 13), r"got image_shape=\(1, 28, 13\)"),
        ((28, 28), r"got image_shape=\(28, 28\), which fits no model"),
        ((0, 28, 28), "fits no model"),
    ],
)
def test_images_that_do_not_fit_are_refused(image_shape, message):
    with pytest.raises(ValueError, match=message):
        build("cnn", image_shape=image_shape, num_classes=10, seed=0)


@pytest.mark.parametrize(
    ("name", "side"),
    [("cnn", 14), ("cnn-tanh", 14), ("cnn-small", 2), ("softmax", 1), ("mlp", 1), ("lenet3", 4)],
)
def test_the_smallest_images_that_fit_do(name, side):
    model = build(name, image_shape=(1, side, side), num_classes=2, seed=0)
    assert model(torch.zeros(1, 1, side, side)).shape == (1, 2)


def test_unknown_names_and_single_classes_are_refused():
    with pytest.raises(
        ValueError, match=r"unknown model 'cn'; did you mean 'cnn'\? \(known: cnn, cnn-tanh, "
    ):
        build("cn", image_shape=(1, 8, 8), num_classes=10, seed=0)
    with pytest.raises(ValueError, match="num_classes must be at least 2; got 1"):
        build("softmax", image_shape=(1, 8, 8), num_classes=1, seed=0)


def test_every_name_has_one_line():
    lines = [REGISTRY.get(name).description for name in names()]
    assert all(line and "\n" not in line for line in lines)


def test_normalized_softmax_sees_no_brightness_and_no_contrast():
    """Up to eps, which keeps a uniform image from being divided by zero."""
    model = build("softmax-normalized", image_shape=(1, 20, 20), num_classes=3, seed=0)
    image = torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(image), model(image * 0.5 + 0.3), rtol=0.05, atol=0.05)
    assert torch.isfinite(model(torch.full((1, 1, 20, 20), 0.5))).all()
