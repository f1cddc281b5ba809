"""Columns of the images beside which a reconstruction is read, for some of the classes."""

from __future__ import annotations

import torch

from dpmi import data, metrics
from dpmi.study.yardsticks import Yardsticks


def test_columns_are_those_of_the_asked_classes() -> None:
    split = data.load("digits")
    private = split.train.images, split.train.labels
    classes, distance = torch.tensor([2, 7]), torch.tensor([1.0, 2.0], dtype=torch.float64)
    found = Yardsticks.of(split).columns(classes, distance)
    baselines = metrics.baselines(classes, *private, split.public)
    ceilings = metrics.ceilings(classes, *private, split.test.images, split.test.labels)
    expected = {
        "distance_blank": baselines.blank,
        "distance_public_mean": baselines.public_mean,
        "distance_public_nearest": baselines.public_nearest,
        "advantage": metrics.advantage(distance, baselines),
        "advantage_over_nearest": metrics.advantage_over_nearest(distance, baselines),
        "advantage_class_mean": metrics.advantage(ceilings.class_mean, baselines),
        "advantage_unseen": metrics.advantage(ceilings.unseen, baselines),
    }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(found[name], values), name
