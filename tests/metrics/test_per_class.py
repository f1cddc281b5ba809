import math

import pytest
import torch

from dpmi.metrics import ClassValue, class_means, worst_class


def test_means_of_unequal_classes() -> None:
    classes, means = class_means(torch.tensor([1.0, 2.0, 6.0, 0.0]), torch.tensor([5, 0, 0, 2]))
    assert (classes.tolist(), means.tolist()) == ([0, 2, 5], [4.0, 0.0, 1.0])


def test_the_worst_class_by_either_end() -> None:
    """Class 0 can be the worst one, and what is undefined is not."""
    values, labels = torch.tensor([3.0, 1.0, math.nan, 2.0]), torch.tensor([0, 4, 7, 4])
    assert worst_class(values, labels, high_is_worse=True) == ClassValue(0, 3.0)
    assert worst_class(values, labels, high_is_worse=False) == ClassValue(4, 1.5)
    hits = torch.tensor([False, True, True, True])
    assert worst_class(hits, labels, high_is_worse=True) == ClassValue(4, 1.0)


def test_no_class_is_the_worst_of_none() -> None:
    assert worst_class(torch.tensor([math.nan]), torch.tensor([0]), high_is_worse=True) is None


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"got shapes \(0,\) and \(0,\)"):
        class_means(torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"got shapes \(2,\) and \(3,\)"):
        worst_class(torch.zeros(2), torch.arange(3), high_is_worse=True)
