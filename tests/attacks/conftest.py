"""One classifier, really trained, that every attack is tried on."""

from collections.abc import Iterator
from copy import deepcopy

import pytest
import torch
from torch import nn

from dpmi.testing.digits import SHAPE, classifier

__all__ = ["SHAPE"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def trained() -> nn.Module:
    """In training mode."""
    return deepcopy(classifier())
