"""The lists in a table: one plug-in for each combination."""

from __future__ import annotations

from dpmi.study import parse

from .test_spec import replaced


def test_several_lists_are_a_grid() -> None:
    spec = parse(replaced("sampling_rate = 0.3", "sampling_rate = [0.2, 0.3]").replace("[0, 1]", "[0]"))
    pairs = [(j.defense.noise_multiplier, j.defense.sampling_rate) for j in spec.jobs[1:]]  # type: ignore[attr-defined]
    assert pairs == [(0.5, 0.2), (0.5, 0.3), (1.0, 0.2), (1.0, 0.3)]
