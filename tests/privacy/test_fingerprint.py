"""Fingerprints of parameters: any change is seen, whoever makes it, and the same bits are the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dpmi.privacy.fingerprint import COLUMNS, SAMPLE, Fingerprint

DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))
KINDS = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
    "complex64": torch.complex64,
    "complex128": torch.complex128,
}


def values(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)


def layouts() -> dict[str, nn.Parameter]:
    """Parameters whose memory is not simply one row of values after another."""
    flat = values(20_001)
    return {
        "scalar": nn.Parameter(torch.tensor(1.5)),
        "row and a rest": nn.Parameter(values(2 * COLUMNS + 3)),
        "channels last": nn.Parameter(values(16, 32, 3, 3).to(memory_format=torch.channels_last)),
        "transposed": nn.Parameter(values(70, 60).T),
        "with gaps": nn.Parameter(values(70, 120)[:, ::2]),
        "off a word": nn.Parameter(flat[1:].view(100, 200)),
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
def test_one_changed_value_is_seen_wherever_it_is(kind: str, device: str) -> None:
    p = nn.Parameter(values(5, 2 * COLUMNS + 3, dtype=KINDS[kind]).to(device))
    other = nn.Parameter(values(7, dtype=KINDS[kind]).to(device))
    watched = Fingerprint([("p", p), ("other", other)])
    watched.take()
    assert watched.changed() == []
    for place in (0, 1, COLUMNS, p.numel() // 2, p.numel() - 1):
        flat = p.data.view(-1)
        before = flat[place].clone()
        flat[place] = -before
        assert watched.changed() == ["p"]
        flat[place] = before
        assert watched.changed() == []
    other.data[6] += 1
    assert watched.changed() == ["other"]


@pytest.mark.parametrize("layout", layouts())
def test_any_layout_is_watched_whole(layout: str) -> None:
    p = layouts()[layout]
    watched = Fingerprint([("p", p)])
    watched.take()
    original = p.detach().clone()
    for place in torch.randint(p.numel(), (20,), generator=torch.Generator().manual_seed(1)).tolist():
        index = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), p.shape))
        p.data[index] += 1
        assert watched.changed() == ["p"]
        p.data.copy_(original)
        assert watched.changed() == []


@pytest.mark.parametrize("way", ["in place", "data", "numpy", "another memory"])
def test_every_way_to_write_is_seen_and_may_be_undone(way: str) -> None:
    p = nn.Parameter(values(40, COLUMNS))
    watched = Fingerprint([("p", p)])
    watched.take()
    memory, original = p.data, p.detach().clone()
    with torch.no_grad():
        if way == "in place":
            p.mul_(1.01)
        elif way == "data":
            p.data.mul_(1.01)
        elif way == "numpy":
            p.detach().numpy()[...] *= 1.01
        else:
            p.data = original * 1.01
    assert watched.changed() == ["p"]
    p.data = original if way == "another memory" else memory.copy_(original)
    assert watched.changed() == []


def test_places_count() -> None:
    """Within a row, between rows, and between parameters of one shape."""
    one, two = (nn.Parameter(values(4, 2 * COLUMNS) + i) for i in range(2))
    watched = Fingerprint([("one", one), ("two", two)])
    original = one.detach().clone()
    for order in (original.flip(0), original.view(4, -1, 2).flip(1).view_as(original)):
        watched.take()
        with torch.no_grad():
            one.copy_(order)
        assert watched.changed() == ["one"]
        one.data.copy_(original)
    watched.take()
    one.data, two.data = two.data, one.data
    assert watched.changed() == ["one", "two"]


def test_another_shape_or_type_is_a_change() -> None:
    p, other = nn.Parameter(values(3, COLUMNS)), nn.Parameter(values(5))
    for data in (values(2, COLUMNS), values(3, COLUMNS, dtype=torch.float64)):
        watched, original = Fingerprint([("p", p), ("other", other)]), p.data
        watched.take()
        p.data = data
        assert "p" in watched.changed()
        p.data = original


@pytest.mark.parametrize("kind", KINDS)
def test_opposite_signs_are_a_change(kind: str) -> None:
    """An even number of them; in float64 the sign is the highest bit of the word that is added up."""
    p = nn.Parameter(values(4, COLUMNS, dtype=KINDS[kind]))
    watched = Fingerprint([("p", p)])
    watched.take()
    p.data.neg_()
    assert watched.changed() == ["p"]


@pytest.mark.parametrize("way", ["counted", "not counted"])
def test_a_quick_look_sees_what_is_counted_and_what_is_everywhere(way: str) -> None:
    p = nn.Parameter(values(10 * SAMPLE, 3))  # a sample of every thirtieth value
    watched = Fingerprint([("p", p)])
    watched.take()
    with torch.no_grad():
        (p if way == "counted" else p.data)[17, 1] += 1.0
    assert watched.changed(quick=True) == (["p"] if way == "counted" else [])
    assert watched.changed() == ["p"]
    watched.take()
    p.data.mul_(1.001)
    assert watched.changed(quick=True) == ["p"]


def test_it_is_small_and_empty_parameters_are_nothing() -> None:
    p = nn.Parameter(values(1000, COLUMNS, dtype=torch.float64))
    watched = Fingerprint([("p", p), ("empty", nn.Parameter(torch.empty(0, 3)))])
    watched.take()
    kept = sum(t.numel() for sums in watched._before.values() for t in sums.values())
    assert kept == 2 * (1000 + COLUMNS) + SAMPLE
    assert watched.changed() == []
