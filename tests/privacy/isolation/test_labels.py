"""Whose label counts: what is not known to hold records, or to depend on none, meets no records."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn

from dpmi.privacy.isolation.follow import Following
from dpmi.privacy.isolation.labels import Coupled, Records
from dpmi.privacy.isolation.public import PublicTensors

N = 4


class Module(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("buffer", torch.ones(3))
        self.buffer: Tensor
        self.kept = torch.ones(3)


def begun(module: nn.Module) -> tuple[Following, Tensor]:
    """A pass over some records, and these."""
    following, x = Following(PublicTensors(module), N), torch.rand(N, 3)
    following.take_in(x, Records(0))
    following.begin_pass([x], None)
    return following, x


def test_parameters_buffers_attributes_and_records_meet() -> None:
    module = Module()
    following, x = begun(module)
    with following:
        out = x * module.weight + module.buffer - module.kept
    following.finish([out])
    assert following.label(out) == Records(0)


def test_what_another_pass_labelled_is_unknown() -> None:
    module = Module()
    (_, before), (following, x) = begun(module), begun(module)
    with following, pytest.raises(Coupled, match="origin of a tensor"):
        x + before


def test_what_was_modified_unseen_has_lost_its_label() -> None:
    following, x = begun(Module())
    x.copy_(x.flip(0))
    with following, pytest.raises(Coupled, match="modified in place by a call that cannot be observed"):
        x + 1


def test_what_nobody_knows_is_not_public() -> None:
    following, x = begun(Module())
    constant = torch.ones(3)
    with following, pytest.raises(Coupled, match="origin of a tensor"):
        x + constant


def test_an_attribute_that_was_written_to_is_not_public_any_more() -> None:
    module = Module()
    following, x = begun(module)
    module.kept.add_(1)
    module.buffer.add_(1)  # watched on its own
    with following:
        x + module.buffer
        with pytest.raises(Coupled, match="origin of a tensor"):
            x + module.kept


REFUSED: dict[str, tuple[Callable[[Module, Tensor], object], str]] = {
    "no rule": (lambda _, x: torch.linalg.svdvals(x), "linalg_svdvals is not known to process"),
    "item of records": (lambda _, x: x.sum(1).tolist(), "tolist is not known to process"),
    "item of a draw": (lambda *_: torch.rand(1).item(), "item turns a tensor"),
    "buffer": (lambda m, _: m.buffer.add_(1), "add_ writes to 'buffer', which outlives the pass"),
    "parameter": (lambda m, _: m.weight.mul_(2), "mul_ writes to 'weight', which outlives the pass"),
    "attribute": (lambda m, _: m.kept.mul_(2), "mul_ writes to 'kept', which outlives the pass"),
    "memory": (lambda _, x: x + torch.empty(3), "add reads uninitialised memory"),
    "out": (lambda _, x: torch.add(x, 1, out=x), r"add writes into a given tensor \(out=\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_the_call_is_made(name: str) -> None:
    function, match = REFUSED[name]
    module = Module()
    following, x = begun(module)
    before = [t.detach().clone() for t in (x, module.weight, module.buffer, module.kept)]
    with following, torch.no_grad(), pytest.raises(Coupled, match=match):
        function(module, x)
    after = (x, module.weight, module.buffer, module.kept)
    assert all(torch.equal(t, b) for t, b in zip(after, before, strict=True))


def test_a_refusal_stays_whatever_the_module_makes_of_it() -> None:
    following, x = begun(Module())
    with following, suppress(Coupled):
        x.sum(0)
    with pytest.raises(Coupled, match="mixes along the dimension of the records"):
        following.finish([x])
