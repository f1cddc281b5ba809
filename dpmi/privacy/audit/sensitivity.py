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

Release = Callable[[Tensor, Tensor], Tensor]
"""Trains one step on inputs and labels with a fixed seed, and returns what it released, (d,)."""


def sensitivity(release: Release, inputs: Tensor, labels: Tensor, records: Tensor, *, bound: float) -> Check:
    """Replace one bucket by extreme ones, and compare the releases.

    The bucket's records are all replaced by inputs of large size, or by zeros, so that weights, or biases, get all of
    the gradient; the two neighbours have different labels.

    Args:
        release: one step from the same model with the same seed.
        inputs: (N, ...).
        labels: (N,), at least two classes.
        records: indices of the bucket's records, (n,).
        bound: 2 S / (q K).
    """
    classes = torch.unique(labels)
    largest = 0.0
    for size in (0.0, 1e3):
        released = []
        for label in (classes[0], classes[-1]):
            changed, relabelled = inputs.clone(), labels.clone()
            changed[records] = changed[records] * size
            relabelled[records] = label
            released.append(release(changed, relabelled).double())
        largest = max(largest, float(torch.linalg.vector_norm(released[0] - released[1])) / bound)
    return Check(
        name="difference of two releases that differ in one bucket, relative to its bound",
        claimed=1.0,
        found=largest,
        p_value=1.0 if largest <= 1 + SLACK else 0.0,
    )
