"""Transfer: what is frozen stays as public images made it, and private images train the rest."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18, vit_b_16

from dpmi import models
from dpmi.data import ImageSet, Split
from dpmi.defenses import ClassDP, NoDefense, Recipe, Transfer, compose, get, train
from dpmi.defenses.heads import replace_head

RECIPE = Recipe(steps=6, learning_rate=0.1)
PRIVATE = {"noise_multiplier": 1.0, "sampling_rate": 0.5, "max_grad_norm": 1.0}


def network(norm: type[nn.Module] = nn.BatchNorm2d) -> nn.Module:
    """Parameters per layer: 40, 8, 0, 148, 8, 0, 0, 0, 85 for five classes."""

    def norm_of(channels: int) -> nn.Module:
        return norm(channels) if norm is nn.BatchNorm2d else nn.GroupNorm(2, channels)

    with torch.random.fork_rng():
        torch.manual_seed(7)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3),
            norm_of(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3),
            norm_of(4),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 5),
        )


@pytest.fixture(scope="module")
def private(split: Split) -> ImageSet:
    """Digits 0 to 4."""
    return _digits(split, range(5))


@pytest.fixture(scope="module")
def public(split: Split) -> ImageSet:
    """Digits 5 to 8, as classes 0 to 3."""
    return _digits(split, range(5, 9))


def _digits(split: Split, classes: range) -> ImageSet:
    chosen = torch.isin(split.train.labels, torch.tensor(classes))
    return ImageSet(split.train.images[chosen][:200], split.train.labels[chosen][:200] - classes.start)


def _states(model: nn.Module, layers: range) -> dict[str, Tensor]:
    return {key: value for key, value in model.state_dict().items() if int(key[0]) in layers}


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[bool]:
    assert one.keys() == other.keys()
    return [torch.equal(value, other[key]) for key, value in one.items()]


@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        ({"frozen_fraction": 0.0}, 0),
        ({"frozen_fraction": 40 / 204}, 1),
        ({"frozen_fraction": 41 / 204}, 2),
        ({"frozen_fraction": 48 / 204}, 2),
        ({"frozen_fraction": 0.5}, 4),
        ({"frozen_fraction": 1.0}, 5),
        ({"frozen_parameters": 0}, 0),
        ({"frozen_parameters": 40}, 1),
        ({"frozen_parameters": 41}, 2),
        ({"frozen_parameters": 204}, 5),
        ({"frozen_through": "0"}, 1),
        ({"frozen_through": "2"}, 3),
        ({"frozen_through": "7"}, 8),
    ],
)
def test_fewest_whole_layers_that_hold_so_much(settings: dict[str, float], layers: int) -> None:
    assert Transfer(**settings).frozen(network()) == tuple(str(i) for i in range(layers))


def test_a_module_with_layers_inside_is_frozen_with_all_of_them() -> None:
    model = resnet18(num_classes=3)
    frozen = Transfer(frozen_through="layer1").frozen(model)
    expected = [
        name
        for name, module in model.named_modules()
        if name.startswith(("conv1", "bn1", "relu", "maxpool", "layer1.")) and not list(module.children())
    ]
    assert list(frozen) == expected
    assert Transfer(frozen_through="layer1.1.bn2").frozen(model) == frozen


def test_parameters_that_no_layer_holds_are_frozen_too() -> None:
    """Else a class token would send the backward pass through every frozen layer."""
    model = vit_b_16()
    frozen = Transfer(frozen_through="encoder.layers.encoder_layer_0").frozen(model)
    assert {"class_token", "encoder.pos_embedding"} <= set(frozen)
    assert "encoder.layers.encoder_layer_0.self_attention.in_proj_weight" in frozen
    assert "heads.head" not in Transfer(frozen_fraction=1.0).frozen(model)


def test_frozen_weights_and_buffers_are_those_of_the_public_training(
    private: ImageSet, public: ImageSet
) -> None:
    defense = Transfer(frozen_through="4", pretrain_steps=9)
    before = defense.pretrain(network(), public, RECIPE, seed=3, progress=None)
    after = train(defense, network(), private, RECIPE, seed=3, public=public).model
    assert any("running_var" in key for key in _states(after, range(5)))
    assert all(_equal(_states(before, range(5)), _states(after, range(5))))
    assert not any(_equal(_states(before, range(8, 9)), _states(after, range(8, 9))))
    # Without freezing, every one of them changes: the test above can fail.
    loose = train(
        Transfer(frozen_fraction=0.0, pretrain_steps=9), network(), private, RECIPE, seed=3, public=public
    )
    assert not any(_equal(_states(before, range(5)), _states(loose.model, range(5))))


@pytest.mark.parametrize("name", ["transfer", "transfer+label-smoothing"])
def test_without_pretraining_the_initial_layers_are_frozen(
    name: str, private: ImageSet, public: ImageSet
) -> None:
    """No public images are needed, and given ones change nothing."""
    more = {"alpha": -0.05} if "+" in name else {}
    defense = get(name)(frozen_through="4", pretrain_steps=0, **more)
    alone = train(defense, network(), private, RECIPE, seed=3).model
    assert all(_equal(_states(network(), range(5)), _states(alone, range(5))))
    assert not any(_equal(_states(network(), range(8, 9)), _states(alone, range(8, 9))))
    beside = train(defense, network(), private, RECIPE, seed=3, public=public).model
    assert all(_equal(_states(alone, range(9)), _states(beside, range(9))))


def test_pretraining_is_plain_training_under_another_head(public: ImageSet) -> None:
    defense = Transfer(frozen_fraction=0.5, pretrain_steps=7, pretrain_learning_rate=0.05)
    ours = defense.pretrain(network(), public, RECIPE, seed=3, progress=None)
    assert all(_equal(_states(ours, range(8, 9)), _states(network(), range(8, 9))))
    reference = network()
    replace_head(reference, lambda old: nn.Linear(16, 4))
    train(NoDefense(), reference, public, Recipe(steps=7, learning_rate=0.05), seed=3)
    assert all(_equal(_states(ours, range(8)), _states(reference, range(8))))


def test_pretraining_depends_on_nothing_else(private: ImageSet, public: ImageSet) -> None:
    defense = Transfer(frozen_through="4")

    def frozen_after(records: ImageSet, *, seed: int = 0, images: ImageSet = public) -> dict[str, Tensor]:
        trained = train(defense, network(), records, RECIPE, seed=seed, public=images)
        return _states(trained.model, range(5))

    first = frozen_after(private)
    torch.rand(3)
    assert all(_equal(first, frozen_after(ImageSet(private.images[:50], private.labels[:50]))))
    assert not all(_equal(first, frozen_after(private, seed=1)))
    others = ImageSet(public.images.flip(3), public.labels)
    assert not all(_equal(first, frozen_after(private, images=others)))


def test_backward_stops_where_the_frozen_layers_end(private: ImageSet, public: ImageSet) -> None:
    model = network()
    needs_gradient: dict[int, set[bool]] = {}
    for index, module in enumerate(model.children()):

        def look(module: nn.Module, _: object, output: Tensor, index: int = index) -> None:
            if module is list(model.children())[index] and torch.is_grad_enabled():
                needs_gradient.setdefault(index, set()).add(output.requires_grad)

        module.register_forward_hook(look)
    train(Transfer(frozen_through="4"), model, private, RECIPE, seed=0, public=public)
    assert needs_gradient == {index: {index > 7} for index in range(9)}


def test_buffers_of_a_published_model_stay() -> None:
    model = models.build("mcnn", image_shape=(1, 32, 32), num_classes=3, seed=0)
    generator = torch.Generator().manual_seed(0)
    private, public = (
        ImageSet(torch.rand(12, 1, 32, 32, generator=generator), torch.arange(12) % 3) for _ in range(2)
    )
    defense = Transfer(frozen_through="layer2")
    recipe = Recipe(steps=2, learning_rate=0.01, batch_size=6)
    start = defense.pretrain(copy.deepcopy(model), public, recipe, seed=0, progress=None).state_dict()
    after = train(defense, model, private, recipe, seed=0, public=public).model.state_dict()
    same = {key for key in start if torch.equal(start[key], after[key])}
    assert same == {key for key in start if key.startswith(("layer1.", "layer2."))}
    assert "layer1.1.running_mean" in same


@pytest.mark.parametrize("other", ["calor", "mid"])
def test_a_new_head_is_a_head(private: ImageSet, public: ImageSet, other: str) -> None:
    """All of its layers are untrained, and none is frozen."""
    settings = {"calor": {"rank": 3}, "mid": {"beta": 0.01}}[other]
    defense = get(f"transfer+{other}")(frozen_fraction=1.0, **settings)
    before = defense.build(network())
    assert defense.frozen(before) == tuple(str(i) for i in range(5))
    trained = train(defense, network(), private, RECIPE, seed=0, public=public).model
    head = {key for key in trained.state_dict() if key.startswith("8.")}
    assert not any(torch.equal(trained.state_dict()[key], before.state_dict()[key]) for key in head)


def test_with_label_smoothing_the_public_training_is_plain(private: ImageSet, public: ImageSet) -> None:
    transfer = Transfer(frozen_through="4")
    alone = train(transfer, network(), private, RECIPE, seed=0, public=public).model
    both = compose(transfer, get("label-smoothing")(alpha=-0.5, ramp_start=0.0, ramp_end=0.1))
    smoothed = train(both, network(), private, RECIPE, seed=0, public=public).model
    assert all(_equal(_states(alone, range(5)), _states(smoothed, range(5))))
    assert not any(_equal(_states(alone, range(8, 9)), _states(smoothed, range(8, 9))))


@pytest.mark.parametrize("amount", [{"frozen_fraction": 0.5}, {"frozen_through": "6"}])
def test_with_class_dp(private: ImageSet, public: ImageSet, amount: dict[str, float]) -> None:
    """The frozen layers cost no privacy, and get no noise."""
    alone = ClassDP(**PRIVATE)
    defense = compose(Transfer(**amount), alone)
    assert type(defense) is get("transfer+class-dp")
    start = Transfer(**amount).pretrain(network(nn.GroupNorm), public, RECIPE, seed=1, progress=None)
    trained = train(defense, network(nn.GroupNorm), private, RECIPE, seed=1, public=public)
    frozen = range(len(Transfer(**amount).frozen(start)))
    assert all(_equal(_states(start, frozen), _states(trained.model, frozen)))
    rest = range(len(frozen), 9)
    assert not any(_equal(_states(start, rest), _states(trained.model, rest)))
    plain = train(alone, network(nn.GroupNorm), private, RECIPE, seed=1)
    assert trained.account is not None
    assert plain.account is not None
    assert trained.account.guarantee(1e-2).epsilon == plain.account.guarantee(1e-2).epsilon


def test_with_class_dp_the_last_layers_train_as_a_model_of_their_own(
    private: ImageSet, public: ImageSet
) -> None:
    """The same draws and noise on the features, computed once, as in front of a head alone."""
    transfer = Transfer(frozen_fraction=1.0)
    whole = train(
        compose(transfer, ClassDP(**PRIVATE)), network(nn.GroupNorm), private, RECIPE, seed=1, public=public
    ).model
    start = transfer.pretrain(network(nn.GroupNorm), public, RECIPE, seed=1, progress=None).eval()
    with torch.no_grad():
        features = copy.deepcopy(start)[:8](private.images)  # type: ignore[index]
    largest = features.abs().max()
    head = nn.Sequential(nn.Flatten(), start[8])  # type: ignore[index]
    low = (features.reshape(-1, 1, 4, 4) / largest / 2 + 0.5).clamp(0, 1)
    assert low.min() >= 0

    class Rescaled(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return (images - 0.5) * 2 * largest

    alone = nn.Sequential(Rescaled(), head)
    train(ClassDP(**PRIVATE), alone, ImageSet(low, private.labels), RECIPE, seed=1)
    torch.testing.assert_close(whole[8].weight, alone[1][1].weight, rtol=1e-4, atol=1e-5)  # type: ignore[index, union-attr]


def test_reports_the_parameters_that_private_images_trained(private: ImageSet, public: ImageSet) -> None:
    trained = train(Transfer(frozen_parameters=41), network(), private, RECIPE, seed=0, public=public)
    assert trained.diagnostics == {"trained_parameters": 148 + 8 + 85}


def test_strength_and_label() -> None:
    through = Transfer(frozen_through="layer2")
    assert math.isnan(through.strength)
    assert through.label == "transfer, frozen through layer2"
    assert Transfer(frozen_parameters=3).label == "transfer, frozen parameters 3"
    assert Transfer(frozen_fraction=1.0).label == "transfer, frozen fraction 1"


@pytest.mark.parametrize(
    ("settings", "got"),
    [({}, "none"), ({"frozen_fraction": 0.5, "frozen_through": "1"}, "frozen_fraction and frozen_through")],
)
def test_exactly_one_amount(settings: dict[str, float], got: str) -> None:
    with pytest.raises(ValueError, match=rf"exactly one of frozen_fraction, .*; got {got}$"):
        Transfer(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"frozen_through": "8"},
            "frozen through 8: the head '8' is never frozen, .* 204 parameters in 8 layers",
        ),
        ({"frozen_parameters": 205}, "frozen parameters 205: the head '8' is never frozen"),
        ({"frozen_through": "80"}, re.escape("the model has no layer '80'; the nearest are '8'")),
    ],
)
def test_refuses_what_the_model_does_not_have(
    private: ImageSet, public: ImageSet, settings: dict[str, float], message: str
) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        train(Transfer(**settings), model, private, RECIPE, seed=0, public=public)
    assert all(_equal(before, model.state_dict()))


def test_refuses_a_model_of_one_layer(private: ImageSet, public: ImageSet) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    with pytest.raises(ValueError, match=r"0 parameters in 1 layers .* use a deeper model"):
        train(Transfer(frozen_fraction=0.5), model, private, RECIPE, seed=0, public=public)


def test_refuses_missing_and_foreign_public_images(private: ImageSet, public: ImageSet) -> None:
    with pytest.raises(ValueError, match="transfer trains on labelled public images first"):
        train(Transfer(frozen_fraction=0.5), network(), private, RECIPE, seed=0)
    larger = ImageSet(torch.zeros(4, 1, 9, 8), torch.arange(4))
    with pytest.raises(ValueError, match=r"shape of the private images, \(1, 8, 8\), got \(1, 9, 8\)"):
        train(Transfer(frozen_fraction=0.5), network(), private, RECIPE, seed=0, public=larger)
