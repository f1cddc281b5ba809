"""The sensitivity of a release, measured: two runs with the same noise and draws on neighbouring data sets.

The noise cancels in the difference of their first releases, which is what replacing one bucket changes. It must not be
longer than 2 S / (q K). This sees clipping faults that no audit of the noise sees.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..finding import Check
from .recorder import SLACK

LARGE = 1e3
"""Factor of the extreme inputs."""

Release = Callable[[Tensor, Tensor], Tensor]
"""Trains one step on inputs and labels with a fixed seed, and returns what it released, (d,)."""


def sensitivity(release: Release, inputs: Tensor, labels: Tensor, records: Tensor, *, bound: float) -> Check:
    """Replace one bucket by extreme ones, and compare the releases.

    Three pairs of neighbours: zeros with two labels, so that biases get all of the gradient; large inputs with two
    labels; and large inputs of both signs, which also move every other bucket whose gradient they enter.

    Args:
        release: one step from the same model with the same seed.
        inputs: (N, ...).
        labels: (N,), at least two classes.
        records: indices of the bucket's records, (n,).
        bound: 2 S / (q K).
    """
    first, last = (int(label) for label in torch.unique(labels)[[0, -1]])

    def changed(size: float, label: int) -> Tensor:
        replaced, relabelled = inputs.clone(), labels.clone()
        replaced[records] *= size
        relabelled[records] = label
        return release(replaced, relabelled).double()

    pairs = (((0.0, first), (0.0, last)), ((LARGE, first), (LARGE, last)), ((LARGE, first), (-LARGE, first)))
    largest = max(float((changed(*one) - changed(*other)).norm()) for one, other in pairs) / bound
    return Check(
        name="difference of two releases that differ in one bucket, relative to its bound",
        claimed=1.0,
        found=largest,
        p_value=1.0 if largest <= 1 + SLACK else 0.0,
    )
