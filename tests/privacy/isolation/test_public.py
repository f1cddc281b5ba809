"""Public are the tensors that a module had before training, and no other."""

from __future__ import annotations

import torch
from torch import nn

from dpmi.privacy.isolation.public import PublicTensors


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.register_buffer("mean", torch.zeros(2))
        self.inner.anchor = torch.ones(2)
        self.tables = {"a": [torch.ones(1), (torch.ones(2),)]}


def test_parameters_buffers_and_attributes_are_public_by_name() -> None:
    module = Holder()
    public = PublicTensors(module)
    assert public.reference(module.inner.weight) == public.name(module.inner.weight) == "inner.weight"
    assert public.reference(module.mean) == "mean"
    assert public.reference(module.inner.anchor) == "inner.anchor"
    assert module.tables["a"][0] in public
    assert module.tables["a"][1][0] in public


def test_what_comes_later_is_not() -> None:
    module = Holder()
    public = PublicTensors(module)
    module.later = torch.ones(2)
    assert module.later not in public
    assert public.reference(module.later) is None
    assert public.reference(module.mean.clone()) is None
    assert public.reference(module.inner.weight[0]) is None


def test_an_attribute_that_is_written_to_is_public_no_more() -> None:
    module = Holder()
    public = PublicTensors(module)
    module.inner.anchor.add_(1)
    assert public.reference(module.inner.anchor) is None
    with torch.no_grad():  # the optimizer's move
        module.inner.weight.add_(1)
    module.mean.add_(1)  # watched on its own
    assert public.reference(module.inner.weight) == "inner.weight"
    assert public.reference(module.mean) == "mean"


def test_a_constant_that_is_added_is_public_until_it_is_written_to() -> None:
    public, constant = PublicTensors(nn.Identity()), torch.ones(2)
    public.add(constant, "a constant")
    assert public.reference(constant) == "a constant"
    constant.mul_(2)
    public.add(constant, "again")  # which does not make it one
    assert public.reference(constant) is None


def test_tensors_of_a_criterion_that_is_no_module() -> None:
    class Weighted:
        def __init__(self) -> None:
            self.weights = [torch.ones(3)]

    criterion = Weighted()
    assert criterion.weights[0] in PublicTensors(criterion)
    assert torch.ones(3) not in PublicTensors(torch.nn.functional.cross_entropy)
