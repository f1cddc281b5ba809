import pytest
import torch

from dpmi.models import REGISTRY, build, names, origins

from .test_classifiers import SMALL


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


def test_models_of_dpmi_come_from_no_other_package() -> None:
    """Also those that are made by a partial, whose own module is functools."""
    assert {name: origins(name) for name in names()} == {name: [] for name in names()}
