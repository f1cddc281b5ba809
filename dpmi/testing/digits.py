"""The test data of the conformance suites: the 8x8 digits of scikit-learn, and a classifier trained on them."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn
from torch.nn import functional as F

from dpmi import data
from dpmi.data import ImageSet, Split

SHAPE = (1, 8, 8)


@cache
def digits() -> Split:
    """Return the private images."""
    return data.load("digits")


@cache
def digits_of_users() -> ImageSet:
    """Return the private training images with 100 users as their units, each with digits of several classes."""
    train = digits().train
    return ImageSet(train.images, train.labels, torch.arange(len(train)) % 100)


@cache
def public_digits() -> ImageSet:
    """Return labelled public images of other classes: transposed digits."""
    test = digits().test
    return ImageSet(test.images[:].transpose(2, 3).contiguous(), test.labels)


@cache
def classifier(num_classes: int = 10, steps: int = 300) -> nn.Module:
    """Return an accurate convolutional classifier of the first digits, in training mode.

    It has Dropout, so that evaluation mode matters, and BatchNorm, whose buffers must not change.
    """
    few = digits().train.labels < num_classes
    images, labels = digits().train.images[few], digits().train.labels[few]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(192, num_classes),
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(steps):
            rows = torch.randint(len(images), (128,))
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(model(images[rows]), labels[rows]))
            optimizer.step()
        optimizer.zero_grad()
    return model
