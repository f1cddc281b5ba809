"""Means per class of values per reconstruction, and the worst class.

A mean over classes hides a class that an attack reconstructs, but the privacy of every class counts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ClassValue(NamedTuple):
    """The label of a class and its value.

    >>> worst = worst_class(torch.tensor([0.9, 0.1, 0.6]), torch.tensor([4, 4, 7]), high_is_worse=True)
    >>> worst.label, round(worst.value, 2)
    (7, 0.6)
    """

    label: int
    value: float


def class_means(values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the classes in ascending order, and the mean value of each.

    Args:
        values: (R,), of any dtype; a NaN makes the mean of its class NaN.
        labels: int64 (R,), R at least 1.

    Returns:
        int64 (C,) and float64 (C,).

    Raises:
        ValueError: there are no values, or the number of labels differs.

    >>> class_means(torch.tensor([True, False, True]), torch.tensor([7, 7, 0]))
    (tensor([0, 7]), tensor([1.0000, 0.5000], dtype=torch.float64))
    """
    if values.ndim != 1 or len(values) == 0 or labels.shape != values.shape:
        raise ValueError(
            f"values and labels must be (R,) with R at least 1; "
            f"got shapes {tuple(values.shape)} and {tuple(labels.shape)}"
        )
    classes, of = torch.unique(labels, return_inverse=True)
    sums = torch.zeros(len(classes), dtype=torch.float64).index_add_(0, of, values.double())
    return classes, sums / torch.bincount(of)


def worst_class(values: Tensor, labels: Tensor, *, high_is_worse: bool) -> ClassValue | None:
    """Return the class with the highest mean value (for attack accuracy) or the lowest (for a distance).

    Args:
        values: (R,).
        labels: int64 (R,), R at least 1.
        high_is_worse: whether a high value means a more successful attack.

    Returns:
        The first such class. Classes whose mean is NaN are omitted; None if all are.

    Raises:
        ValueError: as for :func:`class_means`.

    >>> worst_class(torch.tensor([0.5, 2.0, 1.0]), torch.tensor([0, 1, 1]), high_is_worse=False)
    ClassValue(label=0, value=0.5)
    """
    classes, means = class_means(values, labels)
    known = ~means.isnan()
    if not bool(known.any()):
        return None
    classes, means = classes[known], means[known]
    worst = int(means.argmax() if high_is_worse else means.argmin())
    return ClassValue(int(classes[worst]), float(means[worst]))
