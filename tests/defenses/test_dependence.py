"""Every measure against its formula as it is printed, in float64 numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from dpmi.data import Split
from dpmi.defenses.dependence import MEASURES, gaussian_kernel, label_kernel

RECORDS = 64


def published_gaussian(values: np.ndarray) -> np.ndarray:
    flat = values.reshape(len(values), -1).astype(np.float64)
    squares = ((flat[:, None] - flat[None]) ** 2).sum(axis=2)
    return np.exp(-squares / (2 * 5.0**2 * flat.shape[1]))


def nocco(k: np.ndarray, ell: np.ndarray) -> float:
    """As the code writes it: centred from one side, and solved by a matrix that is not symmetric."""
    m = len(k)
    h = np.eye(m) - 1 / m
    r_k, r_l = ((c @ np.linalg.inv(c + 1e-5 * m * np.eye(m))) for c in (k @ h, ell @ h))
    return float((r_k * r_l.T).sum())


def hsic(k: np.ndarray, ell: np.ndarray) -> float:
    m = len(k)
    h = np.eye(m) - 1 / m
    return float(np.trace(k @ h @ ell @ h)) / (m - 1) ** 2


def cka(k: np.ndarray, ell: np.ndarray) -> float:
    return hsic(k, ell) / np.sqrt(hsic(k, k) * hsic(ell, ell))


def coco(order: str | int) -> Callable[[np.ndarray, np.ndarray], float]:
    def value(k: np.ndarray, ell: np.ndarray) -> float:
        h = np.eye(len(k)) - 1 / len(k)
        return float(np.sqrt(np.linalg.norm(h @ k @ h @ h @ ell @ h, order))) / len(k)

    return value


PUBLISHED = {"nocco": nocco, "hsic": hsic, "cka": cka, "coco_fro": coco("fro"), "coco_spec": coco(2)}


@pytest.fixture(params=sorted(MEASURES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def images(split: Split) -> Tensor:
    return split.train.images[:RECORDS]


@pytest.fixture(scope="module")
def labels(split: Split) -> Tensor:
    return split.train.labels[:RECORDS]


@pytest.fixture(scope="module")
def hidden(images: Tensor) -> Tensor:
    """Values of the size of a layer's, that depend on the images."""
    mixed = torch.randn(64, 300, generator=torch.Generator().manual_seed(0))
    return (images.flatten(1) @ mixed / 8).relu().view(RECORDS, 3, 10, 10)


@pytest.mark.parametrize("partner", ["images", "labels"])
def test_values(name: str, partner: str, images: Tensor, labels: Tensor, hidden: Tensor) -> None:
    if partner == "images":
        ours, theirs = gaussian_kernel(images), published_gaussian(images.numpy())
    else:
        one_hot = np.eye(10)[labels.numpy()]
        ours, theirs = label_kernel(labels), one_hot @ one_hot.T
    found = MEASURES[name](gaussian_kernel(hidden), ours)
    assert float(found) == pytest.approx(
        PUBLISHED[name](published_gaussian(hidden.numpy()), theirs), rel=2e-4
    )


def test_kernels_are_those_of_float64(images: Tensor, hidden: Tensor) -> None:
    """Bright images, and values far from 0: what they share must not drown what tells them apart."""
    for values in (images, hidden, 1000 + 3 * hidden):
        exact = published_gaussian(values.numpy())
        found = gaussian_kernel(values).numpy()
        assert found.dtype == np.float64
        # What is left after centring is of the size of 1 - k.
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-4 * (1 - exact).max())


def test_gradients_are_those_of_finite_differences(name: str, images: Tensor) -> None:
    other = gaussian_kernel(images[:7])
    values = 3 * torch.randn(7, 5, generator=torch.Generator().manual_seed(1)).double()
    values.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: MEASURES[name](other, gaussian_kernel(v)), (values,))


def test_many_at_once_are_each_by_itself(name: str, images: Tensor, hidden: Tensor, labels: Tensor) -> None:
    kernels = torch.stack([gaussian_kernel(images), gaussian_kernel(hidden), label_kernel(labels)])
    prepared = MEASURES[name].prepare(kernels)
    together = MEASURES[name].compare(prepared, prepared[2])
    alone = torch.stack([MEASURES[name](kernel, kernels[2]) for kernel in kernels])
    torch.testing.assert_close(together, alone)


def test_order_of_the_records_does_not_matter_but_who_belongs_to_whom(
    name: str, images: Tensor, hidden: Tensor
) -> None:
    measure = MEASURES[name]
    order = torch.randperm(RECORDS, generator=torch.Generator().manual_seed(2))
    real = measure(gaussian_kernel(images), gaussian_kernel(hidden))
    both = measure(gaussian_kernel(images[order]), gaussian_kernel(hidden[order]))
    torch.testing.assert_close(both, real, rtol=1e-4, atol=0)
    shuffled = measure(gaussian_kernel(images), gaussian_kernel(hidden[order]))
    assert float(shuffled) < 0.9 * float(real)


@pytest.mark.parametrize("told_apart", [2, 10, RECORDS])
def test_nocco_counts_what_can_be_told_apart(told_apart: int) -> None:
    """K - 1 for K classes, m - 1 where every record is a class, up to the e of the formula."""
    kernel = label_kernel(torch.arange(RECORDS) % told_apart)
    found = float(MEASURES["nocco"](kernel, kernel))
    # Every class of n records has an eigenvalue n, smoothed by 1e-5 m = 1e-5 n K.
    assert found == pytest.approx((told_apart - 1) / (1 + 1e-5 * told_apart) ** 2, rel=0.02)
    images = gaussian_kernel(torch.rand(RECORDS, 3, generator=torch.Generator().manual_seed(0)))
    assert float(MEASURES["nocco"](images, kernel)) <= told_apart - 1


def test_nocco_saturates(images: Tensor) -> None:
    """Trap 17: images and noise that tells all records apart are a third of the way to m - 1 for no reason."""
    noise = torch.randn(RECORDS, 1024, generator=torch.Generator().manual_seed(0))
    assert float(MEASURES["nocco"](gaussian_kernel(images), gaussian_kernel(noise))) > (RECORDS - 1) / 3


def test_hsic_of_independent_values_shrinks_with_their_number() -> None:
    """Its bias is O(1/m); values that are each other's copies keep theirs."""

    def mean(records: int, independent: bool) -> float:
        generator = torch.Generator().manual_seed(records)
        found = []
        for _ in range(20):
            first = torch.randn(records, 4, generator=generator)
            second = torch.randn(records, 4, generator=generator) if independent else first
            found.append(float(MEASURES["hsic"](gaussian_kernel(first), gaussian_kernel(second))))
        return float(np.mean(found))

    assert mean(320, True) == pytest.approx(mean(40, True) / 8, rel=0.2)
    assert mean(320, False) == pytest.approx(mean(40, False), rel=0.2)
    assert mean(320, True) < 0.02 * mean(320, False)


def test_cka_of_a_thing_with_itself_is_1(images: Tensor, labels: Tensor) -> None:
    for kernel in (gaussian_kernel(images), label_kernel(labels)):
        assert float(MEASURES["cka"](kernel, kernel)) == pytest.approx(1)


@pytest.mark.parametrize("records", [1, 5])
def test_nothing_to_depend_on_is_0_with_a_gradient_of_0(name: str, records: int, images: Tensor) -> None:
    """One class, and one record: the other side may be anything."""
    values = images[:records].clone().requires_grad_()
    found = MEASURES[name](gaussian_kernel(values), label_kernel(torch.zeros(records, dtype=torch.int64)))
    found.backward()
    assert float(found.detach()) == 0
    assert values.grad is not None
    assert bool((values.grad == 0).all())
