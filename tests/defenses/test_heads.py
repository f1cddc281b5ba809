"""Another head in the place of a model's own: where it goes, and what its weights depend on."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from dpmi.defenses.heads import NewHead, replace_head, whole_head

FEATURES = torch.rand(5, 6, generator=torch.Generator().manual_seed(0))


def model(seed: int = 0) -> nn.Sequential:
    torch.default_generator.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def make(old: nn.Linear) -> nn.Module:
    return NewHead(nn.Linear(old.in_features, 2), nn.Tanh(), nn.Linear(2, old.out_features))


def logits(changed: nn.Sequential) -> Tensor:
    replace_head(changed, make)
    return changed[2](FEATURES)


def test_the_last_linear_layer_is_replaced_and_nothing_else() -> None:
    changed = model()
    before = deepcopy(changed[0].state_dict())
    assert whole_head(changed) == "2"
    assert logits(changed).shape == (5, 3)
    assert [type(layer) for layer in changed] == [nn.Linear, nn.ReLU, NewHead]
    assert all(torch.equal(value, before[key]) for key, value in changed[0].state_dict().items())


def test_all_layers_of_a_new_head_are_the_head() -> None:
    changed = model()
    replace_head(changed, make)
    assert whole_head(changed) == "2"


def test_new_weights_depend_on_the_old_head_alone() -> None:
    torch.default_generator.manual_seed(1)
    first = logits(model())
    torch.rand(7)
    state = torch.get_rng_state()
    again = model()
    torch.set_rng_state(state)
    assert torch.equal(logits(again), first)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
    assert not torch.equal(logits(model(seed=1)), first)


def test_a_new_head_is_of_the_type_of_the_old_one() -> None:
    changed = model().double()
    replace_head(changed, make)
    assert {p.dtype for p in changed.parameters()} == {torch.float64}
