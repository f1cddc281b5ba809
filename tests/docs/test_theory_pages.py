"""The proofs below docs/theory: what they name is where they say, and their pair dominates what a step can release."""

from __future__ import annotations

import ast
import re

import numpy as np
import numpy.typing as npt
import pytest

from .repository import ROOT

PAGES = sorted(ROOT.glob("docs/theory/*.md"))
NAMED = [
    pytest.param(name, path, id=name)
    for page in PAGES
    for name, path in re.findall(r"`(\w+)` in \[([\w/.]+)\]", page.read_text(encoding="utf-8"))
]

#: The plane, fine enough for densities of standard deviation 1.
SIDE = np.arange(-9.0, 9.0, 0.06)
X, Y = np.meshgrid(SIDE, SIDE)
#: What the sum over the plane can be wrong by, where the line at which densities cross lies across the points.
GRID = 1e-3
Point = tuple[float, float]


def density(mean: Point) -> npt.NDArray[np.float64]:
    return np.exp(-((X - mean[0]) ** 2 + (Y - mean[1]) ** 2) / 2) / (2 * np.pi)


def step(q: float, contribution: Point) -> npt.NDArray[np.float64]:
    """The density of the sum, where the other buckets contribute nothing."""
    return (1 - q) * density((0.0, 0.0)) + q * density(contribution)


def hockey_stick(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64], a: float) -> float:
    return float(np.maximum(p - a * q, 0.0).sum() * 0.06**2)


@pytest.mark.parametrize(("name", "path"), NAMED)
def test_what_a_step_names_is_defined_there(name: str, path: str) -> None:
    tree = ast.parse(ROOT.joinpath(path).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def test_every_step_of_the_guarantee_names_a_file() -> None:
    assert len(NAMED) >= 15
    sections = re.split(r"^## ", PAGES[1].read_text(encoding="utf-8"), flags=re.MULTILINE)
    steps = {text.split("\n")[0]: text for text in sections}
    for each in ("Sampling", "Isolation", "Clipping", "The dominating pair", "Composition", "Rounding"):
        assert re.search(r"\]\(\.\./\.\./(?:dpmi|accountants)/[\w/]+\.py\)", steps[each]), each


@pytest.mark.parametrize("q", [0.1, 0.6, 1.0])
@pytest.mark.parametrize("a", [0.3, 0.9, 1.0, 1.5, 4.0])
def test_no_replacement_exceeds_its_pair(q: float, a: float) -> None:
    # Noise of standard deviation 1, and a norm of 1.3.
    rng = np.random.default_rng(0)
    largest = hockey_stick(step(q, (-1.3, 0.0)), step(q, (1.3, 0.0)), a)
    for _ in range(20):
        angle, other = rng.uniform(0, 2 * np.pi, 2)
        length, second = 1.3 * np.sqrt(rng.uniform(0, 1, 2))
        old = (length * np.cos(angle), length * np.sin(angle))
        new = (second * np.cos(other), second * np.sin(other))
        assert hockey_stick(step(q, old), step(q, new), a) <= largest + 1e-9
    turned = hockey_stick(step(q, (0.0, -1.3)), step(q, (0.0, 1.3)), a)
    assert turned == pytest.approx(largest, abs=1e-9)


@pytest.mark.parametrize("q", [0.1, 0.6, 1.0])
@pytest.mark.parametrize("a", [0.3, 1.0, 4.0])
def test_no_removal_or_addition_exceeds_its_pair(q: float, a: float) -> None:
    none = density((0.0, 0.0))
    removal = hockey_stick(step(q, (1.3, 0.0)), none, a)
    addition = hockey_stick(none, step(q, (1.3, 0.0)), a)
    for length, angle in ((1.3, 1.0), (1.0, 2.0), (0.4, 0.5)):
        one = step(q, (length * np.cos(angle), length * np.sin(angle)))
        assert hockey_stick(one, none, a) <= removal + GRID
        assert hockey_stick(none, one, a) <= addition + GRID
