"""Public values that repeat in the part of every record, such as the masks of shifted windows.

Modules: dpmi/privacy/isolation/labels.py, dpmi/privacy/isolation/operands.py, dpmi/privacy/isolation/shapes.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpmi.privacy.isolation.follow import Following
from dpmi.privacy.isolation.labels import Coupled, Public, Records
from dpmi.privacy.isolation.public import PublicTensors

N, WINDOWS, HEADS = 3, 4, 2


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("mask", torch.rand(WINDOWS, 5))
        self.register_buffer("bias", torch.rand(1, 5))


MODEL = Model()
PUBLIC = PublicTensors(MODEL)
Chain = Callable[[Tensor, int], Tensor]


def tiled(mask: Tensor, n: int) -> Tensor:
    """A copy for each of n records, one after another."""
    return mask.unsqueeze(0).expand(n, -1, -1).reshape(n * WINDOWS, 5)


def followed(chain: Chain, records: int = N) -> tuple[Tensor, Public]:
    following = Following(PUBLIC, records)
    with following:
        out = chain(MODEL.mask, records)
    label = following.label(out)
    assert isinstance(label, Public)
    return out, label


REPEATING: dict[str, tuple[Chain, tuple[int, int]]] = {
    "tiled": (tiled, (0, WINDOWS)),
    "repeated": (lambda mask, n: mask.repeat(n, 1), (0, WINDOWS)),
    "repeated in another dimension": (lambda mask, n: mask.repeat(1, n), (1, 5)),
    "repeated in front": (lambda mask, n: mask.repeat(2, n, 1), (1, WINDOWS)),
    "tiled twice": (
        lambda mask, n: tiled(mask, n).expand(2, -1, -1).reshape(2 * n * WINDOWS, 5),
        (0, WINDOWS),
    ),
    "with a bias": (lambda mask, n: tiled(mask, n) + MODEL.bias, (0, WINDOWS)),
    "with another of its kind": (lambda mask, n: tiled(mask, n) * mask.repeat(n, 1), (0, WINDOWS)),
    "with a number": (lambda mask, n: tiled(mask, n).masked_fill(tiled(mask, n) > 0.5, -1.0), (0, WINDOWS)),
    "turned": (lambda mask, n: tiled(mask, n).T, (1, WINDOWS)),
    "with a dimension of heads": (
        lambda mask, n: tiled(mask, n).unsqueeze(1).expand(-1, HEADS, -1),
        (0, WINDOWS),
    ),
    "expanded in front": (lambda mask, n: tiled(mask, n).expand(2, -1, -1), (1, WINDOWS)),
    "in another shape": (lambda mask, n: tiled(mask, n).view(n * WINDOWS, 1, 5), (0, WINDOWS)),
    "summed elsewhere": (lambda mask, n: tiled(mask, n).sum(1), (0, WINDOWS)),
    "cumulated elsewhere": (lambda mask, n: tiled(mask, n).cumsum(1), (0, WINDOWS)),
}
LOST: dict[str, Chain] = {
    "cumulated": lambda mask, n: tiled(mask, n).cumsum(0),
    "flipped": lambda mask, n: tiled(mask, n).flip(0),
    "rolled": lambda mask, n: tiled(mask, n).roll(1, 0),
    "sliced": lambda mask, n: tiled(mask, n)[1:],
    "longer": lambda mask, n: torch.cat([MODEL.bias, tiled(mask, n)]),
    "stacked halves": lambda mask, n: torch.cat(tiled(mask, n).split(5)),
    "merged with the rest": lambda mask, n: tiled(mask, n).T.reshape(-1),
    "with others": lambda mask, n: tiled(mask, n) + torch.arange(n * WINDOWS).unsqueeze(1),
    "with noise": lambda mask, n: tiled(mask, n) + torch.rand(n * WINDOWS, 1),
    "dropped out": lambda mask, n: F.dropout(tiled(mask, n), 0.5),
    "interleaved": lambda mask, n: mask.repeat_interleave(n, 0),
    "written to": lambda mask, n: _written(tiled(mask, n)),
    "two dimensions repeated": lambda mask, n: mask.repeat(n, 2),
    "sorted": lambda mask, n: tiled(mask, n).sort(0).values,
    "a draw for every record": lambda mask, n: torch.rand(n, 1).expand(n, WINDOWS).reshape(-1, 1),
}


def _written(t: Tensor) -> Tensor:
    t[0] = 5.0
    return t


def repeats(t: Tensor, dim: int, period: int) -> bool:
    """The definition."""
    parts = t.split(period, dim)
    return all(torch.equal(part, parts[0]) for part in parts)


@pytest.mark.parametrize("name", REPEATING)
def test_what_repeats_is_known_to(name: str) -> None:
    chain, expected = REPEATING[name]
    out, label = followed(chain)
    assert label.repeats == expected
    assert repeats(out, *expected)


@pytest.mark.parametrize("chain", LOST.values(), ids=LOST)
def test_what_may_not_repeat_is_not(chain: Chain) -> None:
    _, label = followed(chain)
    assert label.repeats is None


def test_one_value_each_is_constant() -> None:
    out, label = followed(lambda mask, n: mask[:1].repeat(n, 1))
    assert label == Public(frozenset({0}), same=True)
    assert repeats(out, 0, 1)


def meets(chain: Chain, place: Records) -> None:
    following = Following(PUBLIC, N)
    x = torch.rand(place.before * N * place.within, 5)
    following.take_in(x, place)
    with following:
        x + chain(MODEL.mask, N)


@pytest.mark.parametrize(
    ("chain", "place"),
    [
        (tiled, Records(0, within=WINDOWS)),
        (lambda mask, n: mask.repeat(2 * n, 1), Records(0, within=2 * WINDOWS)),
        (lambda mask, n: mask.repeat(HEADS * n, 1), Records(0, before=HEADS, within=WINDOWS)),
    ],
)
def test_it_meets_records_whose_parts_are_whole_copies(chain: Chain, place: Records) -> None:
    meets(chain, place)


@pytest.mark.parametrize(
    ("chain", "place"),
    [
        (tiled, Records(0, before=WINDOWS)),
        (lambda mask, n: mask.repeat(n, 1), Records(0, before=2, within=2)),
        (lambda mask, n: mask.repeat(n, 1).T.repeat(1, 1).T.roll(1, 0), Records(0, within=WINDOWS)),
    ],
)
def test_other_records_see_different_values(chain: Chain, place: Records) -> None:
    with pytest.raises(Coupled, match="differ between records"):
        meets(chain, place)


def test_a_copy_in_another_dimension_says_nothing_of_the_records() -> None:
    x, following = torch.rand(N * WINDOWS, 5), Following(PUBLIC, N)
    following.take_in(x, Records(0, within=WINDOWS))
    square = torch.rand(N * WINDOWS, 5)
    following.take_in(square, Public(same=True, repeats=(1, 1)))
    with following, pytest.raises(Coupled, match="differ between records"):
        x * square
