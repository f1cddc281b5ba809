"""A number that a pass reads off its records is left nowhere that the code of a module can reach."""

from __future__ import annotations

import array
import functools
import random
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("tqdm", reason="no extra that brings tqdm is installed")

from tqdm import tqdm

from dpmi.privacy.isolation.provenance import CarriedOver, Provenance
from dpmi.privacy.isolation.public import PublicTensors
from dpmi.privacy.isolation.reach import reached

X = torch.rand(4, 5)
STATE = {"n": 0.0}
TOTAL = 0.0


class Other:
    n: ClassVar[float] = 0.0


class Base:
    n: ClassVar[float] = 0.0


class Derived(Base):
    pass


class Slots:
    __slots__ = ("__n", "m")

    def __init__(self) -> None:
        self.__n = 0.0

    def keep(self, value: float) -> None:
        self.__n = value

    def add(self, value: float) -> None:
        self.m = value + self.__n


class Model(nn.Module):
    """Holds one thing, and a forward pass of it."""

    def __init__(self, held: Any, body: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 5)
        self.held, self.body = held, body

    def forward(self, x: Tensor) -> Any:
        return self.body(self.held, x)


def run(model: Model) -> None:
    x = X.clone()
    provenance = Provenance(
        PublicTensors(model), buffers=frozenset(), storages=frozenset, token=object(), root=model
    )
    provenance.take_in(x)
    with provenance:
        model(x)
    provenance.forget_numbers()


def to_global(_: Any, x: Tensor) -> None:
    global TOTAL  # noqa: PLW0603
    TOTAL += x.mean().item()


def to_default(_: Any, x: Tensor, memo: list[float] = [0.0]) -> None:  # noqa: B006
    memo[0] += x.mean().item()


def to_keyword(_: Any, x: Tensor, *, memo: list[float] = [0.0]) -> None:  # noqa: B006
    memo[0] += x.mean().item()


def closure() -> Callable[[Any, Tensor], None]:
    n = 0.0

    def body(_: Any, x: Tensor) -> None:
        nonlocal n
        n += x.mean().item()

    return body


def inner_function(_: Any, x: Tensor) -> None:
    def write() -> None:
        STATE["n"] += x.mean().item()

    write()


class WithProperty:
    @property
    def up(self) -> Callable[[Tensor], None]:
        return lambda x: STATE.update(n=STATE["n"] + x.mean().item())

    @staticmethod
    def static(x: Tensor) -> None:
        STATE["n"] += x.mean().item()

    @classmethod
    def of_class(cls, x: Tensor) -> None:
        STATE["n"] += x.mean().item()


class Sums(dict[str, float]):
    n = 0.0


class Row(list[float]):
    n = 0.0


def count(_: Any, x: Tensor, by: Counter[str]) -> None:
    by["n"] += round(1000 * x.mean().item())


LEFT: dict[str, tuple[Callable[[], Any], Callable[[Any, Tensor], Any]]] = {
    "global": (lambda: None, to_global),
    "item of a global": (lambda: None, lambda _, x: STATE.update(n=STATE["n"] + x.mean().item())),
    "global, by an inner function": (lambda: None, inner_function),
    "global, by a property": (WithProperty, lambda o, x: o.up(x)),
    "global, by a static method": (WithProperty, lambda o, x: o.static(x)),
    "global, by a class method": (WithProperty, lambda o, x: o.of_class(x)),
    "another class": (lambda: None, lambda _, x: setattr(Other, "n", Other.n + x.mean().item())),
    "base class": (Derived, lambda o, x: setattr(Base, "n", Base.n + x.mean().item())),
    "default": (lambda: None, to_default),
    "default of a keyword": (lambda: None, to_keyword),
    "closure": (lambda: None, closure()),
    "partial": (lambda: None, functools.partial(count, by=Counter())),
    "method": (lambda: SimpleNamespace(f=Slots().keep), lambda o, x: o.f(x.mean().item())),
    "slot": (Slots, lambda o, x: o.keep(x.mean().item())),
    "slot that was not set": (Slots, lambda o, x: o.add(x.mean().item())),
    "deep": (lambda: [[{"a": (SimpleNamespace(c=[0.0]),)}]], lambda o, x: o[0][0]["a"][0].c.append(x.max().item())),
    "attribute of a dict": (Sums, lambda o, x: setattr(o, "n", x.mean().item())),
    "attribute of a list": (lambda: [Row([1])], lambda o, x: setattr(o[0], "n", x.mean().item())),
    "bytes": (lambda: bytearray(2), lambda o, x: o.__setitem__(0, int(x.mean().item() * 99))),
    "array": (lambda: array.array("d", [0.0]), lambda o, x: o.__setitem__(0, x.mean().item())),
    "numpy": (lambda: [[[[[np.zeros(2)]]]]], lambda o, x: o[0][0][0][0][0].__setitem__(0, x.mean().item())),
    "truth": (lambda: [[[[False]]]], lambda o, x: o[0][0][0].append(bool((x > 0).any()))),
    "tolist": (lambda: [[[[0.0]]]], lambda o, x: o[0][0][0].extend(x[0].tolist())),
    "its own array": (lambda: [[[[0.0]]]], lambda o, x: o[0][0][0].append(float(x.numpy().sum()))),
}  # fmt: skip


@pytest.mark.parametrize(("held", "body"), LEFT.values(), ids=LEFT)
def test_a_number_that_is_left_is_refused(
    held: Callable[[], Any], body: Callable[[Any, Tensor], Any]
) -> None:
    model = Model(held(), body)
    with pytest.raises(CarriedOver, match="read numbers from the records"):
        run(model)


def counting(_: Any, x: Tensor) -> None:
    STATE["calls"] = STATE.get("calls", 0) + len(x)


KEPT: dict[str, Callable[[Any, Tensor], Any]] = {
    "a count, where no number was read": counting,
    "a number that is used": lambda _, x: x * x.max().item(),
    "a choice": lambda _, x: x * 2 if (x > 0.5).any() else x,
    "a number of the weights": lambda m, x: STATE.update(w=torch.ones(3).sum().item()),
    "a tensor": lambda held, x: (x.max().item(), held.append(x.detach())),
    "draws": lambda _, x: (x.max().item(), torch.rand(3), np.random.default_rng().random()),
}


@pytest.mark.parametrize("body", KEPT.values(), ids=KEPT)
def test_all_else_is_let_through(body: Callable[[Any, Tensor], Any]) -> None:
    run(Model([], body))


SEEDS: dict[str, tuple[Callable[[], Any], Callable[[Any, int], object], Callable[[Any], float]]] = {
    "torch": (lambda: None, lambda _, n: torch.manual_seed(n), lambda _: torch.rand(()).item()),
    "torch's generator": (
        torch.Generator,
        lambda g, n: g.manual_seed(n),
        lambda g: torch.rand((), generator=g).item(),
    ),
    "numpy": (lambda: None, lambda _, n: np.random.seed(n), lambda _: np.random.rand()),  # noqa: NPY002
    "numpy's generator": (
        lambda: np.random.default_rng(0),
        lambda g, n: [g.random() for _ in range(n % 7)],
        lambda g: g.random(),
    ),
    "numpy's old generator": (np.random.RandomState, lambda g, n: g.seed(n), lambda g: g.rand()),
    "python": (lambda: None, lambda _, n: random.seed(n), lambda _: random.random()),
    "python's generator": (random.Random, lambda g, n: g.seed(n), lambda g: g.random()),
}


@pytest.mark.parametrize(("held", "seed", "draw"), SEEDS.values(), ids=SEEDS)
def test_no_seed_outlives_the_pass(
    held: Callable[[], Any], seed: Callable[[Any, int], object], draw: Callable[[Any], float]
) -> None:
    """What is drawn after a pass depends on what was drawn before it read a number, and differs from pass to pass."""
    found = []
    for n in (3, 4):
        generator, drawn = held(), []
        seed(generator, 12)
        for _ in range(2):
            run(Model([generator], lambda g, x, n=n: seed(g[0], n + int(x.max().item()))))
            drawn.append(draw(generator))
        found.append(drawn)
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]


def test_a_generator_without_a_state_is_left_alone() -> None:
    run(Model([random.SystemRandom()], lambda g, x: (x.max().item(), g[0].random())))


def test_a_dict_that_loads_what_it_does_not_hold_is_not_asked() -> None:
    class Lazy(dict[str, int]):
        def items(self) -> Any:
            raise AssertionError("loaded")

    assert reached(Model([Lazy(a=3)], lambda held, x: x)).numbers["held.0.a"] == 3


def test_libraries_hooks_and_circles_are_not_looked_into() -> None:
    model = Model([], lambda held, x: torch.relu(x))
    model.held.append(model.held)
    model.register_forward_hook(lambda *_: None)
    found = reached(model).numbers
    assert found["_modules.inner.in_features"] == 5
    assert len(found) < 40


def test_progress_bars_are_not_looked_into() -> None:
    """Their monitor is a thread that writes the time, whatever the records are."""

    def body(held: Any, x: Tensor) -> Tensor:
        return torch.relu(x) if tqdm.monitor_interval else x

    assert not any("monitor" in place for place in reached(Model([], body)).numbers)
