"""Extractors: frozen by structure, finite, and private images are not among their training images."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from accountants import Ledger
from dpmi.data.images import digests
from dpmi.models.features import Extractor, Provenance, on_features
from dpmi.privacy import Account, NoiseMode, Partition

PARTITION = Partition.by_record(3)
ACCOUNT = Account(
    ledger=Ledger(),
    unit=PARTITION.unit,
    buckets=3,
    provenance=PARTITION.provenance,
    partition_hash=PARTITION.hash,
    max_grad_norms=(1.0,),
    noise=NoiseMode.SECURE,
)
SHAPE = (1, 8, 8)


def extractor(*layers: nn.Module, provenance: Provenance | None = None) -> Extractor:
    torch.default_generator.manual_seed(0)
    body = nn.Sequential(*(layers or (nn.Flatten(), nn.Linear(64, 5))))
    return Extractor(body, image_shape=SHAPE, provenance=provenance or Provenance())


def test_it_has_no_parameters_and_stays_in_evaluation_mode() -> None:
    found = extractor(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 5))
    assert list(found.parameters()) == []
    assert set(found.state_dict()) == {"body.2.weight", "body.2.bias"}
    outer = nn.Sequential(found, nn.Linear(5, 2)).train().requires_grad_(True)
    x = torch.rand(3, *SHAPE)
    assert torch.equal(outer[0](x), found(x)), "no dropout"
    assert not any(module.training for module in found.modules())


def test_gradients_reach_the_image_and_not_the_weights() -> None:
    x = torch.rand(3, *SHAPE, requires_grad=True)
    found = extractor()
    found(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert all(buffer.grad is None for buffer in found.buffers())


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_is_fixed(affine: bool) -> None:
    norm = nn.BatchNorm2d(3, affine=affine)
    with torch.no_grad():
        for value in (*norm.parameters(), norm.running_mean, norm.running_var):
            assert value is not None
            value.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(1))
    torch.default_generator.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3), norm, nn.Flatten()]
    expected = nn.Sequential(*copy.deepcopy(layers)).eval()
    found = extractor(*layers)
    x = torch.rand(4, *SHAPE)
    torch.testing.assert_close(found.train()(x), expected(x))
    torch.testing.assert_close(found(x[:1]), expected(x)[:1])
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in found.modules())


def test_batch_norm_without_statistics_is_refused() -> None:
    with pytest.raises(ValueError, match="BatchNorm layer of the extractor has no running statistics"):
        extractor(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten())


class Broken(nn.Module):
    """Returns what it is told to."""

    def __init__(self, result: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.result = result

    def forward(self, x: Tensor) -> object:
        return self.result(x)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda x: x, r"must map images \(n, C, H, W\) to features \(n, d\); .* to \(2, 1, 8, 8\)"),
        (lambda x: [x], "to list"),
        (lambda x: x.flatten(1).sum(0, keepdim=True), r"to \(1, 64\)"),
        (lambda x: x.flatten(1) / 0 * 0, "2 of 2 images have a feature that is NaN or infinite"),
        (lambda x: x.view(3), r"does not accept images of shape \(1, 8, 8\)"),
    ],
)
def test_what_is_no_extractor_is_refused(result: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        extractor(Broken(result))


@pytest.mark.parametrize(
    "result",
    [
        lambda x: x.flatten(1) - x.flatten(1).mean(dim=0),
        lambda x: x.flatten(1).cumsum(dim=0),
        lambda x: x.flatten(1).flip(0),
        lambda x: x.flatten(1) / float(x.max()),
        lambda x: x.flatten(1) + torch.rand(len(x), 64),
    ],
)
def test_features_that_tell_about_the_images_beside_are_refused(result: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match="other features beside another image than alone"):
        extractor(Broken(result))


def weakly_coupled(x: Tensor) -> Tensor:
    """A coupling too small for the check of two images: of two, it moves a feature by 1 % of the largest."""
    flat = x.flatten(1)
    return flat + 0.01 * (len(flat) - 1) * flat.mean(dim=0)


def untraceable(x: Tensor) -> Tensor:
    """The same, with a decision that vmap cannot trace."""
    return weakly_coupled(x) if float(x.sum()) >= 0 else x.flatten(1)


@pytest.mark.parametrize("result", [weakly_coupled, untraceable])
def test_no_image_sees_another_whatever_the_body_does(result: Callable[[Tensor], Tensor]) -> None:
    found = extractor(Broken(result))
    x = torch.rand(7, *SHAPE)
    assert not torch.allclose(found(x), x.flatten(1), atol=1e-3)
    assert torch.equal(found.extract(x), x.flatten(1))
    head = on_features(found, torch.rand(9, *SHAPE), classes=2)
    assert torch.allclose(head.inputs(x)[:2], head.inputs(x[:2]), atol=1e-6)


def test_features_by_vmap_are_those_of_the_body() -> None:
    layers = [nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    found = extractor(*layers)
    sizes: list[int] = []
    found.body.register_forward_hook(lambda _, __, output: sizes.append(len(output)))
    x = torch.rand(40, *SHAPE)
    expected = found(x)
    assert sizes == [40], "with gradients, all at once"
    torch.testing.assert_close(found.extract(x), expected)
    assert len(sizes) == 3, "a call for each batch, and none for each image"
    with torch.no_grad():
        torch.testing.assert_close(found(x), expected)
    assert sizes[3:] == [32, 8], "memory is bounded"


def test_one_image_with_nan_is_named() -> None:
    found = extractor(Broken(lambda x: x.flatten(1).log()))
    x = torch.full((5, *SHAPE), 0.5)
    x[3] = 0.0
    with pytest.raises(ValueError, match=r"1 of 5 images have a feature that is NaN or infinite"):
        found.extract(x)


def test_a_private_image_among_its_own_is_refused_without_an_account() -> None:
    images = torch.rand(6, *SHAPE)
    seen = frozenset(digests(images[:4]))
    found = extractor(provenance=Provenance("six letters", images=seen))
    found.check_private(digests(images[4:]))
    with pytest.raises(ValueError, match=r"1 of the private images trained the extractor \(six letters\)"):
        found.check_private(digests(images[3:]))
    extractor(provenance=Provenance("six letters", images=seen, account=ACCOUNT)).check_private(
        digests(images)
    )


def test_an_account_must_be_one() -> None:
    with pytest.raises(TypeError, match=r"account must be a dpmi\.privacy\.Account.* got 3"):
        Provenance("patients", account=3)


def test_provenance_says_what_was_checked() -> None:
    assert "without trained parameters" in Provenance().sentence
    assert "trained on letters; no private image is among them" in Provenance("letters").sentence
    assert "nobody checked" in Provenance("ImageNet", images=None).sentence
    assert "must be among the accounts" in Provenance("patients", account=ACCOUNT).sentence


def test_its_digest_is_that_of_its_weights() -> None:
    same, other = extractor(), extractor(nn.Flatten(), nn.Linear(64, 5), nn.Tanh())
    assert extractor().digest == same.digest
    assert other.digest != same.digest
    same.get_buffer("body.1.bias")[0] += 1
    assert extractor().digest != same.digest
