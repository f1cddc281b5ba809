"""Nothing of one bucket reaches the next: tensors of old passes, writes to what outlives a pass, attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpmi.privacy.isolation.provenance import CarriedOver, Provenance
from dpmi.privacy.isolation.public import PublicTensors
from dpmi.privacy.isolation.watch import Watch

X = torch.rand(4, 5)


class Model(nn.Module):
    """A module with something of every kind, and a forward pass that is given to it."""

    def __init__(self, body: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 5)
        self.register_buffer("mean", torch.zeros(5))
        self.constant = torch.ones(5)
        self.cached: Tensor | None = None
        self.number, self.text, self.array = 0, "a", np.zeros(3)
        self.list: list[Any] = [1]
        self.dict: dict[str, Any] = {"a": 1}
        self.members = {1}
        self.object = Holder()
        self.body = body

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


class Holder:
    def __init__(self) -> None:
        self.value = 1.0
        self.tensor = torch.ones(5)


class Passes:
    """Forward passes on one bucket after another, as the private module makes them."""

    def __init__(self, body: Callable[[Any, Tensor], Any]) -> None:
        self.module = Model(body)
        self.public, self.watch = PublicTensors(self.module), Watch(self.module)

    def run(self, token: object | None = None) -> Provenance:
        provenance = Provenance(
            self.public,
            buffers=self.watch.buffers,
            storages=self.watch.storages,
            token=token or object(),
            root=self.module,
        )
        x = X.clone()
        provenance.take_in(x)
        tensors, attributes = self.watch.tensors(), self.watch.attributes()
        with provenance:
            self.module(x)
        self.watch.check_tensors(tensors, but=provenance.before.keys())
        self.watch.check_attributes(attributes)
        return provenance


def keep(m: Any, value: Any) -> Any:
    m.cached = value
    return value


KEPT: dict[str, Callable[[Any, Tensor], Any]] = {
    "mean": lambda m, x: (x if m.cached is None else x - m.cached, keep(m, x.mean(0))),
    "derived": lambda m, x: (x if m.cached is None else m.cached.exp(), keep(m, m.inner(x))),
}


@pytest.mark.parametrize("body", KEPT.values(), ids=KEPT)
def test_what_one_bucket_left_is_not_used_for_the_next(body: Callable[[Any, Tensor], Any]) -> None:
    passes, token = Passes(body), object()
    passes.run(token)
    passes.run(token)  # the same bucket
    with pytest.raises(CarriedOver, match="computed from the records of another bucket"):
        passes.run()


def test_what_depends_on_no_record_is_used_again() -> None:
    passes = Passes(lambda m, x: x + (m.cached if m.cached is not None else keep(m, m.inner.weight.sum())))
    passes.run()
    passes.run()
    assert passes.module.cached is not None


def test_what_depends_on_a_number_of_the_records_is_not() -> None:
    def body(m: Any, x: Tensor) -> Any:
        high = x.max().item()
        return x + (m.cached if m.cached is not None else keep(m, torch.full((5,), high)))

    passes = Passes(body)
    passes.run()
    with pytest.raises(CarriedOver, match="of another bucket"):
        passes.run()


def test_a_tensor_may_be_kept_for_the_loop() -> None:
    passes = Passes(lambda m, x: keep(m, m.inner(x)))
    for _ in range(3):
        passes.run()
    assert passes.module.cached is not None


WRITES: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "parameter": (lambda m, x: m.inner.weight.data.add_(x.mean()), "memory of a parameter|parameter"),
    "parameter itself": (lambda m, x: in_place(m.inner.weight, x), "parameter 'inner.weight'"),
    "parameter, of weights": (lambda m, x: in_place(m.inner.weight, m.constant), "parameter 'inner.weight'"),
    "buffer": (lambda m, x: m.mean.add_(x.mean(0)), "buffer 'mean'"),
    "buffer by index": (lambda m, x: m.mean.__setitem__(0, x.mean()), "buffer 'mean'"),
    "buffer, out=": (lambda m, x: torch.mean(x, 0, out=m.mean), "buffer 'mean'"),
    "view": (lambda m, x: m.mean[:2].add_(x.mean()), "memory of a parameter, a buffer"),
    "data": (lambda m, x: m.mean.data.add_(x.mean()), "memory of a parameter, a buffer|buffer"),
    "constant": (lambda m, x: m.constant.add_(x.mean()), "attribute '.*constant'"),
    "given away": (lambda m, x: m.mean.numpy(), "numpy in the forward pass exposes the memory"),
    "of an object": (
        lambda m, x: m.object.tensor.add_(x.mean(0)),
        "memory of a parameter, a buffer or an attribute",
    ),
}


def in_place(p: Tensor, value: Tensor) -> Tensor:
    with torch.no_grad():
        return p.add_(value.mean())


@pytest.mark.parametrize(("body", "match"), WRITES.values(), ids=WRITES)
def test_writes_to_what_outlives_the_pass_are_refused(body: Callable[[Any, Tensor], Any], match: str) -> None:
    passes = Passes(body)
    before = {name: t.clone() for name, t in passes.module.state_dict().items()}
    with pytest.raises(CarriedOver, match=match):
        passes.run()
    for name, t in passes.module.state_dict().items():
        assert torch.equal(t, before[name]), "refused before anything was written"


def test_a_write_to_a_buffer_that_depends_on_weights_alone_is_noted() -> None:
    """As of spectral normalization."""
    passes = Passes(lambda m, x: m.mean.copy_(m.inner.weight.detach().sum(0)) + x)
    provenance = passes.run()
    (before,) = provenance.before.values()
    assert torch.equal(before, torch.zeros(5))
    assert bool(passes.module.mean.any())


def test_not_after_a_number_was_read_off_the_records() -> None:
    passes = Passes(lambda m, x: (x.max().item(), m.mean.add_(m.inner.weight.detach().sum(0))))
    with pytest.raises(CarriedOver, match="buffer 'mean'"):
        passes.run()


def test_memory_that_the_pass_made_is_its_own() -> None:
    passes = Passes(lambda m, x: m.mean.clone().add_(x.mean(0)) + torch.zeros(5).numpy()[0])
    passes.run()
    passes.run()


def test_writing_records_into_what_was_pure_makes_it_theirs() -> None:
    passes = Passes(
        lambda m, x: (x if m.cached is None else x + m.cached, keep(m, torch.zeros(5)).add_(x.mean(0)))
    )
    passes.run()
    with pytest.raises(CarriedOver, match="of another bucket"):
        passes.run()


STATISTICS: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "buffer": (lambda m, x: F.batch_norm(x, m.mean, torch.ones(5), training=True), "buffer 'mean'"),
    "constant": (lambda m, x: F.batch_norm(x, m.mean, m.constant, training=True), "buffer 'mean'|'constant'"),
    "of an object": (
        lambda m, x: F.batch_norm(x, torch.zeros(5), m.object.tensor, training=True),
        "batch_norm .* writes into the memory of a parameter, a buffer or an attribute",
    ),
    "view": (
        lambda m, x: F.batch_norm(x[:, :2], m.mean[:2], m.constant[:2], training=True),
        "batch_norm .* writes into the memory of a parameter, a buffer or an attribute",
    ),
    "torch's own": (
        lambda m, x: torch.batch_norm(x, None, None, m.mean, m.constant, True, 0.1, 1e-5, False),
        "buffer 'mean'",
    ),
    "instance": (
        lambda m, x: F.instance_norm(x[:, :, None].expand(-1, -1, 2), m.mean, m.constant),
        "buffer 'mean'|'constant'",
    ),
    "renorm": (
        lambda m, x: F.embedding(x[:, 0].long(), m.constant[:, None], max_norm=0.1),
        "memory of a parameter, a buffer or an attribute",
    ),
    "renorm of bags": (
        lambda m, x: F.embedding_bag(x.long(), m.constant[:, None], None, 0.1),
        "embedding_bag with max_norm .* writes into the memory",
    ),
    "renorm of a constant": (
        lambda m, x: F.embedding(x[:, 0].long(), m.object.tensor.view(1, 5), max_norm=0.1),
        "embedding with max_norm .* writes into the memory",
    ),
    "inplace=True": (lambda m, x: F.relu(m.constant, inplace=True), "attribute 'constant'"),
}


@pytest.mark.parametrize(("body", "match"), STATISTICS.values(), ids=STATISTICS)
def test_writes_that_no_name_tells_are_refused(body: Callable[[Any, Tensor], Any], match: str) -> None:
    """Batch normalisation does not even move the version counters of its statistics; nothing has moved afterwards."""
    passes = Passes(body)
    with pytest.raises(CarriedOver, match=f"(?s){match}"):
        passes.run()
    assert torch.equal(passes.module.mean, torch.zeros(5))
    assert torch.equal(passes.module.constant, torch.ones(5))
    assert torch.equal(passes.module.object.tensor, torch.ones(5))


def test_a_write_that_only_the_version_counter_tells_makes_the_tensor_that_of_its_bucket() -> None:
    """The name of an overload of an operator does not end as that of a function that writes in place."""
    table = torch.ones(5)  # of a closure, where no look at the module's attributes sees it
    passes = Passes(lambda m, x: x + torch.ops.aten.add_.Tensor(table, x.mean()))
    passes.run()
    with pytest.raises(CarriedOver, match="of another bucket"):
        passes.run()


def test_frozen_statistics_are_read_only() -> None:
    passes = Passes(lambda m, x: F.batch_norm(x, m.mean, m.constant, training=False))
    passes.run()
    passes.run()


ALIASES: dict[str, Callable[[Any, Tensor], Any]] = {
    "view of it": lambda t, x: t[:].copy_(x.mean(0)),
    "its data": lambda t, x: t.data.copy_(x.mean(0)),
    "statistics": lambda t, x: F.batch_norm(x, t.view(5), torch.ones(5), training=True),
    "item of a view": lambda t, x: t[1:].__setitem__(0, x.mean()),
}


@pytest.mark.parametrize("where", ["attribute", "closure"])
@pytest.mark.parametrize("write", ALIASES.values(), ids=ALIASES)
def test_what_was_written_to_under_another_name_is_not_used_for_the_next_bucket(
    write: Callable[[Any, Tensor], Any], where: str
) -> None:
    constant, seen = torch.zeros(5), []

    def body(m: Any, x: Tensor) -> Any:
        seen.append(1)
        if len(seen) > 1:
            return x + (m.cached if where == "attribute" else constant)
        write(keep(m, torch.zeros(5)) if where == "attribute" else constant, x)
        return x

    passes = Passes(body)
    passes.run()
    with pytest.raises(CarriedOver, match="of another bucket"):
        passes.run()


def test_what_depends_on_no_record_is_not_written_to_by_a_later_bucket() -> None:
    seen: list[int] = []

    def body(m: Any, x: Tensor) -> Any:
        seen.append(1)
        return keep(m, torch.zeros(5)) if len(seen) == 1 else m.cached[:].add_(x.mean(0))

    passes = Passes(body)
    passes.run()
    with pytest.raises(CarriedOver, match="writes into the memory of a parameter, a buffer or an attribute"):
        passes.run()


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (lambda m, x: unseen(m.mean), "buffer 'mean'"),
        (lambda m, x: unseen(m.inner.weight), "parameter 'inner.weight'"),
        (lambda m, x: unseen(m.constant), "attribute 'constant'"),
        (lambda m, x: unseen(m.object.tensor), "attribute 'object.tensor'"),
    ],
)
def test_writes_that_are_not_seen_as_calls_are_found_afterwards(
    body: Callable[[Any, Tensor], Any], match: str
) -> None:
    with pytest.raises(CarriedOver, match=match):
        Passes(body).run()


def unseen(t: Tensor) -> None:
    with torch._C.DisableTorchFunction(), torch.no_grad():
        t.add_(1)


class Kept(torch.autograd.Function):
    """Leaves the output, which is saved without its label, and its mean for whoever asks."""

    outputs: ClassVar[list[Tensor]] = []
    mean: ClassVar[float] = 0.0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.exp()
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        Kept.outputs[:] = ctx.saved_tensors
        return g


class KeptNumber(Kept):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        KeptNumber.mean = ctx.saved_tensors[0].mean().item()
        return g


def penalised(kind: Any) -> Callable[[Any, Tensor], Any]:
    """A forward pass with a backward pass in it."""

    def body(m: Any, x: Tensor) -> Any:
        x = m.inner(x) - (Kept.outputs[0] if Kept.outputs else 0)
        return torch.autograd.grad(kind.apply(x).sum(), x)

    return body


def test_a_function_of_the_users_own_keeps_nothing_in_a_backward_pass_within_the_forward_pass() -> None:
    passes = Passes(penalised(Kept))
    try:
        passes.run()
        with pytest.raises(CarriedOver, match="computed from the records of another bucket"):
            passes.run()
    finally:
        Kept.outputs.clear()
    with pytest.raises(CarriedOver, match="read numbers from the records"):
        Passes(penalised(KeptNumber)).run()


class KeptElsewhere(Kept):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        np.left = ctx.saved_tensors[0].mean(0)
        return g


def test_what_a_backward_pass_computes_from_what_was_saved_is_not_used_for_the_next_bucket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where it lies in a place that is not looked into, such as a library."""
    monkeypatch.setattr(np, "left", torch.zeros(5), raising=False)

    def body(m: Any, x: Tensor) -> Any:
        x = m.inner(x) - np.left
        return torch.autograd.grad(KeptElsewhere.apply(x).sum(), x)

    passes = Passes(body)
    passes.run()
    with pytest.raises(CarriedOver, match="computed from the records of another bucket"):
        passes.run()


def test_a_hook_of_the_backward_pass_keeps_nothing_for_the_next_bucket() -> None:
    kept: list[Tensor] = []

    def hook(g: Tensor) -> Tensor:
        g = g + kept[-1] if kept else g
        kept.append(g * 1)
        return g

    def body(m: Any, x: Tensor) -> Any:
        h = m.inner(x)
        h.register_hook(hook)
        m.cached = h.sum()

    passes = Passes(body)
    passes.run()
    passes.module.cached.backward()  # type: ignore[union-attr]
    passes.run()
    with pytest.raises(CarriedOver, match="of another bucket"):
        passes.module.cached.backward()  # type: ignore[union-attr]


def setting(name: str, value: Any) -> Callable[[Any, Tensor], Any]:
    return lambda m, x: setattr(m, name, value)


ATTRIBUTES: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "number": (lambda m, x: setattr(m, "number", m.number + 1), "'number'"),
    "text": (setting("text", "b"), "'text'"),
    "new": (setting("later", 1), "'later'"),
    "kind": (setting("number", 0.0), "'number'"),
    "list": (lambda m, x: m.list.append(2), "list"),
    "item": (lambda m, x: m.list.__setitem__(0, 2), "'list.0'"),
    "dict": (lambda m, x: m.dict.update(b=2), "dict"),
    "value": (lambda m, x: m.dict.update(a=2), "'dict.a'"),
    "set": (lambda m, x: m.members.add(2), "members"),
    "array": (lambda m, x: m.array.__setitem__(0, 1.0), "array"),
    "object": (lambda m, x: setattr(m.object, "value", 2.0), "'object.value'"),
    "of a layer": (lambda m, x: setattr(m.inner, "extra", 1), "'inner.extra'"),
}


@pytest.mark.parametrize(("body", "match"), ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_attributes_that_a_pass_changes_are_refused(body: Callable[[Any, Tensor], Any], match: str) -> None:
    with pytest.raises(CarriedOver, match=f"(?s)changed attribute .*{match}"):
        Passes(body).run()


@pytest.mark.parametrize(
    "body",
    [
        setting("number", 0),
        setting("text", "a"),
        lambda m, x: (m.list.append(2), m.list.pop()),
        lambda m, x: m.train(False),
    ],
)
def test_what_is_the_same_afterwards_is_no_change(body: Callable[[Any, Tensor], Any]) -> None:
    Passes(body).run()
