"""What a forward pass may leave behind in a module: nothing that depends on records.

Modules: dpmi/privacy/isolation/provenance.py, dpmi/privacy/isolation/watch.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dpmi.privacy.isolation.provenance import CarriedOver, Provenance
from dpmi.privacy.isolation.public import PublicTensors
from dpmi.privacy.isolation.watch import Watch


class Module(nn.Module):
    average = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("buffer", torch.ones(3))
        self.buffer: Tensor
        self.kept = torch.ones(3)
        self.number = 1.0
        self.array = np.ones(3)
        self.nested = {"list": [1.0], "deque": deque([2.0]), "object": SimpleNamespace(value=3.0)}


def watched(module: Module) -> Provenance:
    watch = Watch(module)
    return Provenance(PublicTensors(module), buffers=watch.buffers, storages=watch.storages, token=object())


WRITES: dict[str, tuple[Callable[[Module, Tensor], object], str]] = {
    "buffer": (lambda m, x: m.buffer.add_(x.mean(0)), "changed buffer 'buffer'"),
    "buffer, by a number": (lambda m, x: m.buffer.add_(x.mean().item()), "changed buffer 'buffer'"),
    "buffer, out": (lambda m, x: torch.mean(x, 0, out=m.buffer), "changed buffer 'buffer'"),
    "parameter": (lambda m, _: m.weight.mul_(0.9), "changed parameter 'weight'"),
    "attribute": (lambda m, _: m.kept.mul_(0.9), "changed attribute 'kept'"),
    "view": (
        lambda m, x: m.buffer.detach()[1:].add_(x.mean()),
        "writes into the memory of a parameter, a buffer",
    ),
    "data": (lambda m, x: m.weight.data.add_(x.mean()), "writes into the memory of a parameter, a buffer"),
    "numpy": (lambda m, _: m.buffer.numpy(), "exposes the memory of a parameter, a buffer"),
    "numpy of a view": (lambda m, _: m.buffer[1:].numpy(), "exposes the memory of a parameter, a buffer"),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_write_is_refused(name: str) -> None:
    write, match = WRITES[name]
    module, x = Module(), torch.rand(4, 3)
    provenance = watched(module)
    provenance.take_in(x)
    with provenance, torch.no_grad(), pytest.raises(CarriedOver, match=match):
        write(module, x)
    assert all(bool((t == 1).all()) for t in (module.weight, module.buffer, module.kept))


def test_a_buffer_may_follow_from_weights_alone() -> None:
    module, x = Module(), torch.rand(4, 3)
    provenance = watched(module)
    provenance.take_in(x)
    with provenance, torch.no_grad():
        x.mean(0)
        module.buffer.mul_(module.weight.sum())
    assert module.buffer.tolist() == [3.0] * 3
    assert provenance.before[module.buffer].tolist() == [1.0] * 3


CHANGES: dict[str, tuple[Callable[[Module], object], str]] = {
    "number": (lambda m: setattr(m, "number", 2.0), "'number'"),
    "of the class": (lambda _: setattr(Module, "average", 2.0), r"'Module\.average'"),
    "new": (lambda m: setattr(m, "other", 2.0), "'other'"),
    "array": (lambda m: m.array.__iadd__(1), "'array'"),
    "another array": (lambda m: setattr(m, "array", np.zeros(3)), "'array'"),
    "list": (lambda m: m.nested["list"].append(1.0), r"nested\.list"),  # type: ignore[attr-defined]
    "deque": (lambda m: m.nested["deque"].append(1.0), r"nested\.deque"),  # type: ignore[attr-defined]
    "object": (lambda m: setattr(m.nested["object"], "value", 4.0), r"'nested\.object\.value'"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_module_keeps_is_compared(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Module, "average", 0.0)  # put back afterwards
    change, match = CHANGES[name]
    module = Module()
    watch = Watch(module)
    before = watch.attributes()
    watch.check_attributes(before)
    change(module)
    with pytest.raises(CarriedOver, match=match):
        watch.check_attributes(before)


def test_a_container_that_is_the_last_may_not_grow_either() -> None:
    criterion = SimpleNamespace(seen=[1.0])
    watch = Watch(criterion)
    before = watch.attributes()
    criterion.seen.append(2.0)
    with pytest.raises(CarriedOver, match=r"changed attribute '(seen\.1|len\(seen\))'"):
        watch.check_attributes(before)


def test_a_hook_of_the_backward_pass_is_watched_too() -> None:
    module, x = Module(), torch.rand(4, 3, requires_grad=True)
    provenance = watched(module)
    provenance.take_in(x)
    with provenance:
        out = (x * module.weight).exp()
        out.register_hook(lambda g: module.buffer.add_(g.mean(0)))
    with pytest.raises(CarriedOver, match="changed buffer 'buffer'"):
        out.sum().backward()


@pytest.mark.parametrize("name", ["weight", "buffer"])
@pytest.mark.parametrize("way", ["in place", "other memory"])
def test_a_tensor_that_changed_is_named(name: str, way: str) -> None:
    module = Module()
    watch, t = Watch(module), getattr(module, name)
    before = watch.tensors()
    watch.check_tensors(before)
    if way == "in place":
        t.detach().add_(1)
    else:
        t.data = t.detach() + 1
    with pytest.raises(CarriedOver, match=f"changed (buffer|parameter) '{name}'"):
        watch.check_tensors(before)
