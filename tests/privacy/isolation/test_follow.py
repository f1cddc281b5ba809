"""Records are followed by the version of a tensor, and a pass is that of the dry runs or refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpmi.privacy.isolation.follow import Following
from dpmi.privacy.isolation.labels import SAME, Coupled, Public, Records
from dpmi.privacy.isolation.program import Program
from dpmi.privacy.isolation.public import PublicTensors
from dpmi.privacy.isolation.step import Step

WEIGHT = torch.randn(3, 5)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", WEIGHT)


MODEL = Model()
PUBLIC = PublicTensors(MODEL)
Forward = Callable[..., Any]


def follow(forward: Forward, *inputs: Tensor, program: Program | None = None) -> Following:
    """One pass; every input holds records in its first dimension."""
    following = Following(PUBLIC, len(inputs[0]))
    for x in inputs:
        following.take_in(x, Records(0))
    following.begin_pass(inputs, program)
    with following:
        out = forward(*inputs)
    following.finish([out] if isinstance(out, Tensor) else list(out))
    return following


earlier: list[int] = []


@pytest.fixture(autouse=True, params=[(), (4,)], ids=["first", "known"])
def _earlier(request: pytest.FixtureRequest) -> None:
    """Everything holds for the first pass over so many records, and for a later one, whose calls need no rules."""
    earlier[:] = request.param


def program_of(forward: Forward, *shapes: tuple[int, ...]) -> Program:
    def trace(n: int, program: Program | None = None) -> list[Step]:
        return follow(forward, *(torch.zeros(n, *s) for s in shapes), program=program).trace

    program = Program.of(trace(2), trace(3))
    for n in earlier:
        with contextlib.suppress(Coupled):  # what the program shows to be refused
            trace(n, program)
    return program


def refused(forward: Forward, match: str, x: Tensor | None = None) -> None:
    with pytest.raises(Coupled, match=match):
        follow(forward, torch.rand(4, 5) if x is None else x)


def test_outputs_have_the_label_of_what_made_them() -> None:
    following, x = Following(PUBLIC, 4), torch.rand(4, 5)
    following.take_in(x, Records(0))
    with following:
        out = F.linear(x, MODEL.weight)
        public = MODEL.weight.exp()
        zeros = x.new_zeros(4, 3)
    assert following.label(out) == Records(0)
    assert isinstance(following.label(public), Public)
    assert following.label(zeros) == SAME
    assert isinstance(following.label(MODEL.weight), Public)


def test_a_label_is_of_one_pass() -> None:
    kept: list[Tensor] = []
    follow(lambda x: kept.append(x + 1) or x, torch.rand(4, 5))
    refused(lambda x: x + kept[0], "origin of a tensor")


def test_what_was_made_elsewhere_does_not_meet_the_records() -> None:
    elsewhere = torch.rand(4, 5)
    refused(lambda x: x + elsewhere, r"origin of a tensor of shape \(4, 5\) is unknown")
    refused(lambda x: elsewhere, "origin of a tensor")


def test_a_modification_that_is_not_seen_takes_the_label() -> None:
    def forward(x: Tensor) -> Tensor:
        h = x + 1
        with torch._C.DisableTorchFunction():
            h.add_(1)
        return h * 2

    refused(forward, "modified in place by a call that cannot be observed")


def test_a_modification_that_is_seen_keeps_it() -> None:
    def forward(x: Tensor) -> Tensor:
        h = x + 1
        h.mul_(2)
        h[:, 0] = 0.0
        h[:, 1] = x[:, 0]
        return h

    follow(forward, torch.rand(4, 5))


def test_an_assertion_about_shapes_may_name_the_number_of_records() -> None:
    """As those of torchvision's transformers do."""

    def forward(x: Tensor) -> Tensor:
        torch._assert(x.dim() == 2, f"expected a matrix, got {x.shape}")
        return x * 2

    program = program_of(forward, (5,))
    follow(forward, torch.rand(4, 5), program=program)
    with pytest.raises(AssertionError, match=r"expected a matrix, got torch.Size\(\[4, 5, 1\]\)"):
        follow(forward, torch.rand(4, 5, 1))
    refused(lambda x: torch._assert(x.sum() > 0, "positive") or x, "sum|mixes")
    refused(lambda x: torch._assert(x[:, 0] > 0, "positive") or x, "__bool__ is not known")


@pytest.mark.parametrize(
    ("forward", "match"),
    [
        (lambda x: torch.add(x, 1, out=torch.empty(4, 5)), "out="),
        (lambda x: x + torch.empty(4, 5), "uninitialised memory"),
        (lambda x: torch.empty(4, 5).copy_(x), "uninitialised memory"),
        (lambda x: MODEL.weight.add_(0) + x[:3], "'weight', which outlives the pass"),
        (lambda x: MODEL.weight.copy_(torch.ones(3, 5)), "'weight', which outlives the pass"),
        (lambda x: x + float(x.sum()), "sum|mixes"),
        (lambda x: x + x.tolist()[0][0], "tolist"),
        (lambda x: x + len(x.unique()), "unique"),
        (
            lambda x: x + float((MODEL.weight + 1).sum()),
            "turns a tensor computed in this pass into a Python value",
        ),
        (lambda x: x * (1 if (x > 0) else 2), "bool|not known"),
    ],
)
def test_what_is_not_known_to_keep_records_apart_is_refused(forward: Forward, match: str) -> None:
    before = MODEL.weight.clone()
    refused(forward, match)
    assert torch.equal(MODEL.weight, before), "refused before anything was written"


def test_memory_that_was_filled_is_public() -> None:
    follow(lambda x: x + torch.empty(4, 5).fill_(2.0), torch.rand(4, 5))


def test_a_refusal_stays_even_if_the_module_goes_on() -> None:
    def forward(x: Tensor) -> Tensor:
        try:
            return x - x.mean(0)
        except Coupled:
            return x

    refused(forward, "mean")


def test_what_the_loop_computes_apart_does_not_count_as_the_pass() -> None:
    following, x = Following(PUBLIC, 4), torch.rand(4, 5)
    following.take_in(x, Records(0))
    with following.apart():
        y = x + 1
        with pytest.raises(Coupled):
            x.mean(0)
    assert following.label(y) == Records(0)
    assert following.problem is None
    assert following.trace == []


@pytest.mark.parametrize(
    "function",
    [
        F.gumbel_softmax,
        lambda x: F.softmax(x, -1),
        lambda x: F.normalize(x, dim=-1),
        lambda x: F.cosine_similarity(x, x + 1, dim=-1),
        lambda x: F.interpolate(x[:, None], scale_factor=2),
    ],
    ids=["gumbel_softmax", "softmax", "normalize", "cosine_similarity", "interpolate"],
)
def test_functions_of_torch_are_followed_to_what_they_call(function: Forward) -> None:
    x = torch.rand(4, 5)
    follow(function, x)
    torch.default_generator.manual_seed(0)
    following = Following(PUBLIC, 4)
    following.take_in(x, Records(0))
    with following:
        found = function(x)
    torch.default_generator.manual_seed(0)
    assert torch.equal(found, function(x)), "followed or not, it is the same function"


# The program


def two_inputs(a: Tensor, b: Tensor) -> Tensor:
    return torch.tanh(a) - b


def no_gradient(a: Tensor, b: Tensor) -> Tensor:
    with torch.no_grad():
        return two_inputs(a, b)


def test_a_pass_that_is_the_program_is_accepted_for_any_number_of_records() -> None:
    program = program_of(two_inputs, (5,), (5,))
    for records in (1, 2, 7):
        follow(two_inputs, torch.rand(records, 5), torch.rand(records, 5), program=program)


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (lambda a, b: torch.tanh(b) - a, "differs from the dry runs: call 1 is tanh"),
        (lambda a, b: b - torch.tanh(a), "call 2 is sub"),
        (lambda a, b: torch.relu(a) - b, "call 1 is relu.*but in the dry runs it was tanh"),
        (no_gradient, "call 1 is _set_grad_enabled"),
        (lambda a, b: (torch.tanh(a) - b).exp(), "call 3 is exp.*there was no such call|dry run"),
        (lambda a, b: torch.tanh(a), "the end of the pass returned other shapes or tensors"),
        (lambda a, b: torch.sub(torch.tanh(a), b, alpha=2), "call 2 is sub"),
        (lambda a, b: torch.tanh(a).sub(b, alpha=2), r"call 2 is sub\(alpha=2\)"),
    ],
)
def test_a_pass_that_is_another_is_refused(other: Forward, match: str) -> None:
    program = program_of(two_inputs, (5,), (5,))
    with pytest.raises(Coupled, match=match):
        follow(other, torch.rand(4, 5), torch.rand(4, 5), program=program)


def test_a_pass_that_returns_another_tensor_is_refused() -> None:
    def several(x: Tensor, which: int = 0) -> Tensor:
        return (x + 1, x + 2)[which]

    program = program_of(several, (5,))
    with pytest.raises(Coupled, match="returned other shapes or tensors"):
        follow(lambda x: several(x, 1), torch.rand(4, 5), program=program)


def test_a_size_is_that_of_the_program() -> None:
    program = program_of(lambda x: x + 1, (5,))
    with pytest.raises(Coupled, match="returned other shapes"):
        follow(lambda x: x + 1, torch.rand(4, 6), program=program)


def test_a_size_that_is_read_off_the_records_is_refused() -> None:
    chunk = 2
    program = program_of(lambda x: x.view(len(x), 5) + torch.zeros(len(x), 5), (5,))
    follow(lambda x: x.view(len(x), 5) + torch.zeros(len(x), 5), torch.rand(4, 5), program=program)
    with pytest.raises(Coupled, match="differs from the dry runs"):
        follow(lambda x: x.view(-1, 5) + torch.zeros(chunk * 2, 5), torch.rand(4, 5), program=program)


@pytest.mark.parametrize(
    ("forward", "match"),
    [
        (lambda x: x[:, :1].expand(-1, len(x)), "a second dimension follows the number of records"),
        (
            lambda x: x + torch.linalg.matrix_norm(torch.ones(len(x), 5)),
            "whose size follows the number of records",
        ),
    ],
)
def test_what_follows_their_number_enters_as_their_dimension_only(forward: Forward, match: str) -> None:
    with pytest.raises(Coupled, match=match):
        follow(forward, torch.rand(4, 5), program=program_of(forward, (5,)))
