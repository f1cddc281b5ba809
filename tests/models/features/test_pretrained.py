"""Extractors that others trained: torchvision's classifiers, EfficientNet-Lite0 and faceres."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from dpmi.models.features import efficientnet_lite0, faceres_features, torchvision_features
from dpmi.models.features.pretrained import IMAGENET, Photographs

from ..graphs import projection, write_faceres


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as torchvision's users save it, with running statistics that were trained."""
    torch.default_generator.manual_seed(0)
    model = resnet18()
    with torch.no_grad():
        for name, value in model.named_buffers():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pt"
    torch.save(model.state_dict(), path)
    return path


def test_it_is_the_input_of_the_last_layer(weights: Path) -> None:
    found = torchvision_features("resnet18", weights, (3, 64, 48), side=64)
    assert found.size == 512
    model = resnet18()
    model.load_state_dict(torch.load(weights, weights_only=True))
    seen: list[Tensor] = []
    model.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.rand(3, 3, 64, 48)
    with torch.no_grad():
        model.eval()(Photographs(IMAGENET, 64)(x))
    torch.testing.assert_close(found(x), seen[0], rtol=1e-4, atol=1e-5)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in found.modules())
    assert "resnet18.pt" in found.provenance.sentence
    assert "nobody checked" in found.provenance.sentence


def test_grey_is_a_colour(weights: Path) -> None:
    grey = torchvision_features("resnet18", weights, (1, 40, 40), side=40)
    colour = torchvision_features("torchvision/resnet18", weights, (3, 40, 40), side=40)
    x = torch.rand(2, 1, 40, 40)
    torch.testing.assert_close(grey(x), colour(x.expand(-1, 3, -1, -1)))


def test_photographs_are_normalized_and_resized() -> None:
    mean, std = (torch.tensor(values) for values in IMAGENET)
    found = Photographs(IMAGENET, 20)(torch.full((2, 1, 8, 8), 0.25))
    assert found.shape == (2, 3, 20, 20)
    torch.testing.assert_close(found[0, :, 3, 5], (0.25 - mean) / std)


def test_what_cannot_be_is_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown model 'torchvision/resnet19'"):
        torchvision_features("resnet19", weights, (3, 64, 64))
    with pytest.raises(ValueError, match="do not fit model 'torchvision/resnet34'"):
        torchvision_features("resnet34", weights, (3, 64, 64))
    with pytest.raises(ValueError, match=r"nothing\.pt cannot be read"):
        torchvision_features("resnet18", tmp_path / "nothing.pt", (3, 64, 64))
    for make in (efficientnet_lite0, lambda shape: torchvision_features("resnet18", weights, shape)):
        with pytest.raises(ValueError, match="1 or 3 channels; got 2"):
            make((2, 64, 64))


def test_efficientnet_lite0_knows_imagenet() -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra 'features' is not installed")
    found = efficientnet_lite0((1, 28, 28), side=96)
    assert found.size == 1280
    assert "ImageNet" in found.provenance.sentence
    x = torch.rand(4, 1, 28, 28)
    torch.testing.assert_close(found(x)[:1], found(x[:1]), rtol=1e-3, atol=1e-4)
    assert float(found(x).std(dim=0).mean()) > 0.01


def test_faceres_sees_faces_as_bytes_in_its_own_size(tmp_path: Path) -> None:
    path = write_faceres(tmp_path / "faceres.json", projection())
    found = faceres_features(path, (1, 4, 4))
    assert found.size == 16
    assert "VGGFace2" in found.provenance.sentence
    assert "nobody checked" in found.provenance.sentence
    images = torch.rand(3, 1, 4, 4)
    large = torch.nn.functional.interpolate(images, size=(8, 8), mode="bilinear", antialias=True)
    kernel = torch.from_numpy(projection())
    expected = torch.einsum("nchw,hwcf->nf", 255 * large.expand(-1, 3, -1, -1), kernel)
    torch.testing.assert_close(found(images), expected, rtol=1e-4, atol=1e-2)
    with pytest.raises(ValueError, match="1 or 3 channels; got 2"):
        faceres_features(path, (2, 4, 4))
    other = faceres_features(write_faceres(tmp_path / "b.json", projection(seed=1)), (1, 4, 4))
    assert found.digest != other.digest
