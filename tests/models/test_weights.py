"""Weights to start from: files of this and of another architecture, and torchvision's, without its download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import ResNet18_Weights, get_model

pytest.importorskip("safetensors", reason="the extra `safetensors` is not installed")

from safetensors.torch import save_file

from dpmi.models import build, load_weights

SHAPE = (1, 8, 8)


@pytest.fixture
def model() -> nn.Module:
    return build("cnn-small", image_shape=SHAPE, num_classes=4, seed=0)


def saved(content: Any, folder: Path) -> Path:
    torch.save(content, folder / "weights.pt")
    return folder / "weights.pt"


def state(classes: int = 4, seed: int = 1) -> dict[str, torch.Tensor]:
    return dict(build("cnn-small", image_shape=SHAPE, num_classes=classes, seed=seed).state_dict())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda own: own,
        lambda own: {"state_dict": own, "epoch": 3},
        lambda own: {f"module.{key}": value for key, value in own.items()},
        lambda own: {"model": {f"_orig_mod.{key}": value for key, value in own.items()}, "epoch": 3},
        lambda own: {"model": {"state_dict": own}},
        lambda own: {
            "module_state_dict": {f"_module.module.{key}": value for key, value in own.items()},
            "privacy_accountant_state_dict": {"history": [], "mechanism": "rdp"},
        },
    ],
    ids=["state dict", "wrapped", "DataParallel", "compiled", "twice", "Opacus"],
)
def test_all_weights_of_the_same_architecture(model: nn.Module, tmp_path: Path, wrap) -> None:
    assert load_weights(model, saved(wrap(state()), tmp_path), name="cnn-small") == ()
    assert all(torch.equal(value, state()[key]) for key, value in model.state_dict().items())


def test_the_head_for_other_classes_stays_fresh(model: nn.Module, tmp_path: Path) -> None:
    path = saved(state(classes=9), tmp_path)
    fresh = ("8.weight", "8.bias")
    assert load_weights(model, path, name="cnn-small") == fresh
    for key, value in model.state_dict().items():
        assert torch.equal(value, state(seed=0)[key] if key in fresh else state(classes=9)[key])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"9.weight": torch.zeros(2)}, r"do not fit model 'cnn-small': unexpected: 9.weight$"),
        ({"0.bias": None}, r"missing: 0.bias$"),
        (
            {"0.weight": torch.zeros(16, 3, 3, 3)},
            r"different shape: 0.weight \(16, 3, 3, 3\) instead of \(16, 1, 3, 3\)$",
        ),
        # A head of other features is another architecture, whatever the number of classes.
        ({"8.weight": torch.zeros(9, 32)}, r"different shape: 8.weight \(9, 32\) instead of \(4, 64\)$"),
        (
            {"0.weight": None, "0.bias": None, "2.weight": None, "2.bias": None, "a": torch.zeros(1)},
            r"missing: 0.weight, 0.bias, 2.weight and 1 more; unexpected: a$",
        ),
    ],
)
def test_another_architecture(model: nn.Module, tmp_path: Path, other: dict[str, Any], message: str) -> None:
    content = {key: value for key, value in (state() | other).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        load_weights(model, saved(content, tmp_path), name="cnn-small")
    assert all(torch.equal(value, state(seed=0)[key]) for key, value in model.state_dict().items())


def test_what_is_no_state_dict(model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.pt cannot be read: No such file or directory; name a file"):
        load_weights(model, tmp_path / "none.pt", name="cnn-small")
    with pytest.raises(
        ValueError, match=r"weights\.pt must contain a state dict, alone or under .*; got list"
    ):
        load_weights(model, saved([1, 2], tmp_path), name="cnn-small")
    # A whole pickled module could run any code.
    with pytest.raises(ValueError, match=r"weights\.pt is not a file with tensors only: "):
        load_weights(model, saved(model, tmp_path), name="cnn-small")
    (tmp_path / "text.pt").write_text("weights")
    with pytest.raises(ValueError, match=r"text\.pt is not a file with tensors only"):
        load_weights(model, tmp_path / "text.pt", name="cnn-small")


def test_safetensors(model: nn.Module, tmp_path: Path) -> None:
    save_file({key: value.contiguous() for key, value in state().items()}, tmp_path / "weights.safetensors")
    assert load_weights(model, tmp_path / "weights.safetensors", name="cnn-small") == ()
    assert all(torch.equal(value, state()[key]) for key, value in model.state_dict().items())
    (tmp_path / "text.safetensors").write_text("weights")
    with pytest.raises(ValueError, match=r"text\.safetensors is not a file with tensors only"):
        load_weights(model, tmp_path / "text.safetensors", name="cnn-small")
    with pytest.raises(ValueError, match=r"none\.safetensors cannot be read"):
        load_weights(model, tmp_path / "none.safetensors", name="cnn-small")


def test_a_prefix_that_is_the_models_own_stays(tmp_path: Path) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(3, 4)

    ours, theirs = Wrapped(), Wrapped()
    load_weights(ours, saved(theirs.state_dict(), tmp_path), name="mine:Wrapped")
    assert torch.equal(ours.module.weight, theirs.module.weight)


@pytest.fixture
def pretrained(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """What torchvision would download."""
    torch.manual_seed(5)
    peer: nn.Module = get_model("resnet18", num_classes=1000).eval()
    monkeypatch.setattr(
        ResNet18_Weights.DEFAULT, "get_state_dict", lambda *_, **__: dict(peer.state_dict()), False
    )
    return peer


def test_torchvision_s_weights_on_grey_images(pretrained: nn.Module) -> None:
    name = "torchvision/resnet18"
    model = build(name, image_shape=(1, 32, 32), num_classes=4, seed=0).eval()
    assert load_weights(model, "torchvision", name=name) == ("fc.weight", "fc.bias")
    model.fc = pretrained.fc = nn.Identity()
    grey = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(grey), pretrained(grey.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4)


def test_torchvision_s_weights_with_groupnorm(pretrained: nn.Module) -> None:
    name = "torchvision/resnet18+groupnorm"
    model = build(name, image_shape=(3, 32, 32), num_classes=1000, seed=0)
    assert load_weights(model, "torchvision", name=name) == ()
    expected = dict(pretrained.named_parameters())
    assert all(torch.equal(p, expected[key]) for key, p in model.named_parameters())


def test_torchvision_has_no_weights_of_others(model: nn.Module) -> None:
    with pytest.raises(
        ValueError, match=r"weights = 'torchvision' needs a torchvision model, .* got 'cnn-small'"
    ):
        load_weights(model, "torchvision", name="cnn-small")
