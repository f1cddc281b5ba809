"""Skip removal: what is left of a block is its branch."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import ResNet, resnet18, resnet50
from torchvision.models.resnet import BasicBlock, Bottleneck

from dpmi.data import Split
from dpmi.defenses import Recipe, SkipRemoval, compose, get, train
from dpmi.models.faces import ImprovedResidualBlock

from .conftest import softmax


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return build()


def without_last_skips(model: ResNet, images: Tensor, stages: int) -> Tensor:
    """The forward pass of a ResNet as published, but for the additions in the last stages."""
    x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    for number, stage in enumerate((model.layer1, model.layer2, model.layer3, model.layer4), start=1):
        for block in stage:
            branch = torch.relu(block.bn1(block.conv1(x)))
            branch = block.bn2(block.conv2(branch))
            if isinstance(block, Bottleneck):
                branch = block.bn3(block.conv3(torch.relu(branch)))
            if number <= 4 - stages:
                branch = branch + (x if block.downsample is None else block.downsample(x))
            x = torch.relu(branch)
    logits: Tensor = model.fc(x.mean((2, 3)))
    return logits


@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("build", [resnet18, resnet50])
def test_the_rest_of_the_network_computes_what_it_did(build: Callable[..., ResNet], stages: int) -> None:
    model = seeded(partial(build, num_classes=5)).eval()
    assert isinstance(model, ResNet)
    images = torch.rand(2, 3, 33, 33, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = without_last_skips(model, images, stages)
        before = model(images)
        built = SkipRemoval(last_stages=stages).build(copy.deepcopy(model))
        torch.testing.assert_close(built(images), expected)
        assert not torch.allclose(before, expected, rtol=0.01)


def test_improved_residual_blocks() -> None:
    block = ImprovedResidualBlock(3, 5, stride=2).eval()
    model = SkipRemoval().build(nn.Sequential(nn.Sequential(copy.deepcopy(block))))
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(model(images), block.residual(images))
        assert not torch.allclose(model(images), block(images))


def test_layers_stay_and_projections_go() -> None:
    model = resnet18(num_classes=5)
    built = SkipRemoval(last_stages=2).build(copy.deepcopy(model))
    gone = model.state_dict().keys() - built.state_dict().keys()
    assert {key.rpartition(".downsample")[0] for key in gone} == {"layer3.0", "layer4.0"}
    assert built.state_dict().keys() < model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in built.state_dict().items())


def test_survives_copies_and_its_file() -> None:
    build = partial(resnet18, num_classes=5)
    built = SkipRemoval().build(seeded(build)).eval()
    images = torch.rand(2, 3, 32, 32)
    copied = copy.deepcopy(built)
    file = io.BytesIO()
    torch.save(built.state_dict(), file)
    file.seek(0)
    loaded = SkipRemoval().build(build()).eval()
    loaded.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        assert torch.equal(copied(images), built(images))
        assert torch.equal(loaded(images), built(images))
        assert torch.equal(SkipRemoval().build(copied)(images), built(images))


def test_no_gradient_goes_past_a_branch() -> None:
    """Through a block whose branch is closed, nothing reaches the image; a skip connection lets it through."""

    def gradient(model: nn.Module) -> Tensor:
        images = torch.ones(1, 4, 6, 6, requires_grad=True)
        model(images).sum().backward()
        assert images.grad is not None
        return images.grad

    block = BasicBlock(4, 4).eval()
    nn.init.zeros_(block.bn2.weight)
    nn.init.ones_(block.bn2.bias)
    model = nn.Sequential(nn.Sequential(block))
    assert (gradient(model) == 1).all()
    assert (gradient(SkipRemoval().build(model)) == 0).all()


def test_with_class_dp(split: Split) -> None:
    private = get("class-dp")(noise_multiplier=1.0, sampling_rate=0.5, max_grad_norm=1.0)
    groups = partial(nn.GroupNorm, 2)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.Sequential(BasicBlock(4, 4, norm_layer=groups), BasicBlock(4, 4, norm_layer=groups)),
        nn.Flatten(),
        nn.Linear(144, 10),
    )
    before = copy.deepcopy(model.state_dict())
    recipe = Recipe(steps=2, learning_rate=0.1)
    trained = train(compose(SkipRemoval(), private), model, split.train, recipe, seed=0)
    assert trained.account is not None
    assert trained.account.ledger.steps == 2
    after = trained.model.state_dict()
    assert before.keys() == after.keys()
    assert not any(torch.equal(value, before[key]) for key, value in after.items())


def test_refuses_a_model_without_skips(split: Split) -> None:
    with pytest.raises(ValueError, match="the model has none; use a residual network"):
        train(SkipRemoval(), softmax(), split.train, Recipe(steps=1, learning_rate=0.1), seed=0)


def test_refuses_more_stages_than_there_are(split: Split) -> None:
    message = (
        r"last_stages must be at most 4, the number of stages of the model \(layer1, .*, layer4\), got 5"
    )
    with pytest.raises(ValueError, match=message):
        SkipRemoval(last_stages=5).check(resnet18(), split.train, None)
