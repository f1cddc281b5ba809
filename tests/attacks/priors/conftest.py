"""Public images and a target, small enough to train priors on in seconds."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor

from dpmi.attacks.target import Target
from dpmi.testing.digits import classifier, public_digits


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture
def public() -> Tensor:
    """float32 (300, 1, 8, 8)."""
    return public_digits().images


@pytest.fixture
def target() -> Target:
    """Ten classes."""
    return Target(deepcopy(classifier()).eval().requires_grad_(False))
