"""The losses of the generative priors, against the formulas of their papers.

Modules: dpmi/attacks/priors/conditional_gan.py, dpmi/attacks/priors/inversion_gan.py, dpmi/attacks/priors/wgan_gp.py.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dpmi.attacks.priors import conditional_gan, inversion_gan
from dpmi.attacks.priors.wgan_gp import gradient_penalty


def _double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_gradient_penalty_of_a_linear_critic() -> None:
    weight = _double(2, 3, 3)
    penalty = gradient_penalty(
        lambda images: (images * weight).sum((1, 2, 3)), _double(5, 2, 3, 3), _double(5, 2, 3, 3)
    )
    assert penalty.item() == pytest.approx((weight.norm().item() - 1) ** 2)


def test_gradient_penalty_between_real_and_fake() -> None:
    """D(x) = ||x||^2 / 2 has gradient x: between images of all a and all b its norm is that of a mixture."""
    real, fake = torch.full((4000, 1, 1, 1), 2.0).double(), torch.full((4000, 1, 1, 1), 5.0).double()
    penalty = gradient_penalty(lambda images: images.square().sum((1, 2, 3)) / 2, real, fake)
    # E (U - 1)^2 for U uniform on [2, 5]: the integral of t^2 / 3 over [1, 4].
    assert penalty.item() == pytest.approx((4**3 - 1) / 9, rel=0.03)


def test_gradient_penalty_reaches_the_critic() -> None:
    weight = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    gradient_penalty(
        lambda images: weight * images.sum((1, 2, 3)), _double(2, 1, 1, 1), _double(2, 1, 1, 1)
    ).backward()
    assert weight.grad is not None
    assert weight.grad.item() == pytest.approx(2 * (3 - 1))


def test_discriminator_of_the_inversion_gan() -> None:
    on_real, on_fake, soft = _double(6, 4), _double(6, 4), _double(6, 4).softmax(dim=1)
    expected = 0.0
    for row in range(6):
        real, fake = on_real[row].exp(), on_fake[row].exp()
        expected += -(soft[row] * (real / real.sum()).log()).sum() / 6
        # log D with D = Z / (Z + 1), Z the sum of exp of the logits.
        expected += 0.5 * (math.log(real.sum() + 1) - math.log(real.sum()) + math.log(fake.sum() + 1)) / 6
    found = inversion_gan.discriminator_loss(on_real, soft, on_fake)
    assert found.item() == pytest.approx(float(expected))


def test_generator_of_the_inversion_gan() -> None:
    real, fake, logits = _double(6, 5), _double(6, 5), _double(6, 4)
    matching = sum(abs(float(fake[:, d].mean() - real[:, d].mean())) for d in range(5)) / 5
    entropy = torch.distributions.Categorical(logits=logits).entropy().sum()
    found = inversion_gan.generator_loss(real, fake, logits)
    assert found.item() == pytest.approx(matching + 1e-4 * entropy.item())


def test_hinge() -> None:
    on_real, on_fake = torch.tensor([0.5, 3.0]).double(), torch.tensor([-2.0, 0.25]).double()
    assert conditional_gan.hinge(on_real, on_fake).item() == pytest.approx((0.5 + 0) / 2 + (0 + 1.25) / 2)


def test_top_rows_are_the_surest_of_each_class() -> None:
    soft = _double(20, 3).softmax(dim=1)
    rows, labels = conditional_gan.top_rows(soft, 4)
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    for label in range(3):
        chosen = set(rows[labels == label].tolist())
        assert len(chosen) == 4
        left = [float(soft[row, label]) for row in range(20) if row not in chosen]
        assert max(left) <= min(float(soft[row, label]) for row in chosen)
