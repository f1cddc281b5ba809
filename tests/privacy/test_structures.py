"""Nested outputs and targets, split by bucket and put together again."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree

from dpmi.privacy.gradients.segments import Segments
from dpmi.privacy.structures import constants, copies_of_one, split

SIZES = [2, 1, 3]
X, TOKENS, PUBLIC = torch.arange(12.0).view(6, 2), torch.arange(24.0).view(24), torch.arange(3.0)


class ModelOutput(OrderedDict[str, Any]):
    """Written as transformers.utils.ModelOutput is: keys and attributes are one, None has no key."""

    def __post_init__(self) -> None:
        if not len(fields(self)):  # type: ignore[arg-type]
            raise ValueError("no fields")
        for f in fields(self):  # type: ignore[arg-type]
            if (value := getattr(self, f.name)) is not None:
                self[f.name] = value

    def __delitem__(self, *args: object, **kwargs: object) -> None:
        raise Exception("You cannot use ``__delitem__``")

    def update(self, *args: object, **kwargs: object) -> None:
        raise Exception("You cannot use ``update``")

    def __getitem__(self, k: Any) -> Any:
        return dict(self.items())[k] if isinstance(k, str) else self.to_tuple()[k]

    def __setattr__(self, name: str, value: object) -> None:
        if name in self.keys() and value is not None:
            super().__setitem__(name, value)
        super().__setattr__(name, value)

    def __setitem__(self, key: str, value: object) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def __reduce__(self) -> Any:
        callable_, _args, *remaining = super().__reduce__()
        return (callable_, tuple(getattr(self, f.name) for f in fields(self)), *remaining)  # type: ignore[arg-type]

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(self[k] for k in self)


@dataclass
class CausalLMOutput(ModelOutput):
    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class RegisteredOutput(CausalLMOutput):
    """As transformers registers every model output."""


_pytree.register_pytree_node(
    RegisteredOutput,
    lambda x: (list(x.values()), list(x.keys())),
    lambda values, keys: RegisteredOutput(**dict(zip(keys, values, strict=True))),
    serialized_type_name="tests.RegisteredOutput",
)


@dataclass(frozen=True)
class Derived:
    """Frozen, with a field that __init__ does not take, and one that is derived later."""

    logits: Tensor
    scale: float = 2.0
    doubled: Tensor = field(init=False)

    def __post_init__(self) -> None:
        if len(self.logits) != 6:
            raise ValueError("six records")
        object.__setattr__(self, "doubled", self.logits * 2)

    @cached_property
    def halved(self) -> Tensor:
        return self.logits / 2


@dataclass
class Slotted:
    __slots__ = ("__hidden", "features", "logits")
    logits: Tensor
    features: list[Tensor]

    def __post_init__(self) -> None:
        self.__hidden = self.logits * 2

    def hidden(self) -> Tensor:
        return self.__hidden


class Tagged(dict[str, Tensor]):
    """A dict with an attribute."""

    extra: Tensor


Pair = namedtuple("Pair", ["logits", "features"])


class Mode(Enum):
    TRAIN = "train"


def rows(tensor: Tensor) -> int | None:
    if tensor is PUBLIC:
        return None
    return len(tensor) // 6


def parts(value: object) -> list[Any]:
    """``value`` for each bucket."""
    return [args[0] for args, _ in split((value,), {}, Segments(SIZES), rows)]


def expected(tensor: Tensor, within: int = 1) -> list[list[Any]]:
    return [part.tolist() for part in tensor.split([within * n for n in SIZES])]


def test_every_tensor_is_cut_where_its_records_end() -> None:
    calls = split((X, {"t": TOKENS}), {"public": PUBLIC}, Segments(SIZES), rows)
    assert [args[0].tolist() for args, _ in calls] == expected(X)
    assert [args[1]["t"].tolist() for args, _ in calls] == expected(TOKENS, 4)
    assert all(kwargs["public"] is PUBLIC for _, kwargs in calls)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 4))
def test_parts_together_are_the_whole(sizes: list[int], within: int) -> None:
    x = torch.arange(sum(sizes) * within)
    calls = split((x,), {}, Segments(sizes), lambda _: within)
    assert [len(args[0]) for args, _ in calls] == [within * n for n in sizes]
    assert torch.cat([args[0] for args, _ in calls]).equal(x)


@pytest.mark.parametrize(
    "value",
    [
        [X, (TOKENS, None)],
        (X, [TOKENS, None]),
        {"a": X, "b": (TOKENS,)},
        OrderedDict(b=X, a=TOKENS),
        defaultdict(list, a=X, b=TOKENS),
        Pair(X, TOKENS),
        UserDict({"a": X, "b": TOKENS}),
        SimpleNamespace(a=X, b=[TOKENS]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_containers_keep_type_order_and_keys(value: Any) -> None:
    for found, x, tokens in zip(parts(value), X.split(SIZES), TOKENS.split([8, 4, 12]), strict=True):
        assert type(found) is type(value)
        assert str(found) == str(value).replace(str(X), str(x)).replace(str(TOKENS), str(tokens))


@pytest.mark.parametrize("cls", [CausalLMOutput, RegisteredOutput])
def test_model_outputs_keep_keys_attributes_and_none(cls: type[CausalLMOutput]) -> None:
    for found, x in zip(parts(cls(logits=X, hidden_states=(X * 2, X * 3))), X.split(SIZES), strict=True):
        assert type(found) is cls
        assert found.loss is None
        assert list(found) == ["logits", "hidden_states"]
        assert found.logits.equal(x)
        assert found["logits"] is found.logits
        assert found[0] is found.logits
        assert [h.tolist() for h in found.hidden_states] == [(x * 2).tolist(), (x * 3).tolist()]
        assert found.to_tuple()[1] is found["hidden_states"]


def test_what_a_dataclass_derived_is_split_too() -> None:
    whole = Derived(X)
    assert whole.halved is whole.halved
    found = parts(whole)
    assert [part.logits.tolist() for part in found] == expected(X)
    assert [part.doubled.tolist() for part in found] == expected(X * 2)
    assert [part.halved.tolist() for part in found] == expected(X / 2)
    assert [part.scale for part in found] == [2.0] * 3
    assert whole.logits is X  # it is not changed itself


def test_slots_and_attributes_of_dicts() -> None:
    found = parts(Slotted(X, [TOKENS]))
    assert [part.features[0].tolist() for part in found] == expected(TOKENS, 4)
    assert [part.hidden().tolist() for part in found] == expected(X * 2)
    tagged = Tagged(a=X)
    tagged.extra = TOKENS
    found = parts(tagged)
    assert [part["a"].tolist() for part in found] == expected(X)
    assert [part.extra.tolist() for part in found] == expected(TOKENS, 4)
    assert tagged["a"] is X


def test_gradients_flow_through_the_parts() -> None:
    x = X.clone().requires_grad_()
    found = parts({"x": x})
    (found[1]["x"].sum() * 5).backward()
    assert x.grad is not None
    assert x.grad[:, 0].tolist() == [0, 0, 5, 0, 0, 0]


class Outputs:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Locked(dict[str, Tensor]):
    def __copy__(self) -> Locked:
        raise RuntimeError("locked")


class Single(dict[str, Tensor]):
    def __copy__(self) -> Single:
        return self


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Outputs(X), "argument 0 of the criterion is a Outputs, which cannot be rebuilt"),
        ({"a": [X, {X}]}, r"argument 0\['a'\]\[1\] of the criterion is a set"),
        (np.zeros(6), "is a ndarray"),
        (Locked(a=X), "is a Locked, which copy.copy cannot copy"),
        (Single(a=X), "is a Single, which copy.copy cannot copy"),
        (["a", "b", "c"], "argument 0 of the criterion is a list that holds 'a'.*pass a tensor"),
        (Pair(X, (1, 2)), r"argument 0\['features'\] of the criterion is a tuple that holds 1"),
    ],
)
def test_what_cannot_be_split_is_named(value: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        parts(value)


@pytest.mark.parametrize(
    ("tensor", "shape"),
    [(torch.zeros(7), r"\(7,\)"), (torch.tensor(1.0), r"\(\)"), (torch.zeros(0), r"\(0,\)")],
)
def test_a_tensor_without_the_records_is_refused_by_its_shape(tensor: Tensor, shape: str) -> None:
    message = rf"argument 'y' of the criterion has shape {shape}, which does not hold 6 records"
    with pytest.raises(ValueError, match=message):
        split((X,), {"y": tensor}, Segments(SIZES), lambda t: 1 if t.numel() else 0)


def test_constants_by_their_place() -> None:
    model = nn.Linear(1, 1)
    found = constants(
        (X, {"n": 6, "none": None}, Pair(X, "text")),
        {"mode": Mode.TRAIN, "model": model, "size": X.shape, "f": F.relu, "dtype": torch.float32},
    )
    assert found == {
        "argument 1['n']": 6,
        "argument 1['none']": None,
        "argument 2['features']": "text",
        "argument 'mode'": Mode.TRAIN,
        "argument 'model'": model,
        "argument 'size'": torch.Size([6, 2]),
        "argument 'f'": F.relu,
        "argument 'dtype'": torch.float32,
    }
    (args, kwargs), *_ = split((1.5, X), {"model": model}, Segments(SIZES), rows)
    assert (args[0], kwargs["model"]) == (1.5, model)


def test_a_call_without_tensors_is_every_bucket_s() -> None:
    assert split((3,), {"a": "b"}, Segments(SIZES), rows) == [((3,), {"a": "b"})] * 3


def test_copies_of_the_first_record() -> None:
    x = TOKENS.clone().requires_grad_()
    two, three = copies_of_one((x * 2, X), {"p": PUBLIC}, (2, 3), records=6, rows_per_record=rows)
    assert two[0][0].tolist() == [0, 2, 4, 6] * 2
    assert three[0][1].tolist() == [[0, 1]] * 3
    assert two[1]["p"] is PUBLIC
    assert (two[0][0].requires_grad, two[0][0].is_leaf, two[0][1].requires_grad) == (True, True, False)
