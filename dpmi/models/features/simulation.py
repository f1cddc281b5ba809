"""What accuracy to expect from a private linear head: the noisy training itself, on public data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from accountants.recommender import STEPS, Recommendation, norm_for
from dpmi import data

from .scattering import scattering
from .statistics import PublicStatistics

DIMENSIONS = 16
"""Directions of the digits' scattering features that a head gets: most for 60 to 1,197 units at epsilon 1 to 3."""

RECORDS = 10
"""Digits per unit."""

MOST = 2000
"""Units that are simulated; the noise of more is scaled to as many."""

RUNS = 3

FARTHEST = 500.0
"""The distance that a head goes without noise."""


def on_digits(recommendation: Recommendation | None, *, seed: int = 0) -> float:
    """Return the accuracy on held-out digits of scikit-learn of a head that is trained with these settings.

    The units are random samples of the training digits, and so not private; only the noise is that of the settings.

    Args:
        recommendation: the settings; None trains without noise.
        seed: seed of units and noise.
    """
    features, labels, held_out, held_out_labels = _digits()
    generator = torch.Generator().manual_seed(seed)
    units = MOST if recommendation is None else min(MOST, recommendation.units)
    norm = norm_for(RECORDS)
    if recommendation is None:
        nu, rate = 0.0, FARTHEST / (STEPS * norm)
    else:  # as much noise relative to the mean, of fewer units and of ten classes
        nu = recommendation.noise
        rate = replace(recommendation, classes=10, max_grad_norm=norm).learning_rate
    found = []
    for _ in range(RUNS):
        rows = torch.randint(len(features), (units, RECORDS), generator=generator)
        (head,) = train_heads(
            features[rows],
            labels[rows],
            classes=10,
            steps=STEPS,
            max_grad_norms=[norm],
            noise_multiplier=nu * units * math.sqrt(STEPS),
            learning_rates=[rate],
            generator=generator,
        )
        found.append(float(((held_out @ head.T).argmax(dim=1) == held_out_labels).float().mean()))
    return sum(found) / len(found)


def train_heads(
    features: Tensor,
    labels: Tensor,
    *,
    classes: int,
    steps: int,
    max_grad_norms: Sequence[float],
    noise_multiplier: float,
    learning_rates: Sequence[float],
    generator: torch.Generator,
) -> Tensor:
    """Train linear heads from zero by noisy, clipped gradients of all units, without a promise: the noise is seeded.

    Each computes what :class:`dpmi.privacy.PrivacyEngine` computes for such a head with sampling rate 1, in one batch.
    The heads of several settings read the features together, and share their noise but for its size.

    Args:
        features: (K, n, d), the records of every unit.
        labels: int64 (K, n).
        classes: number of classes C.
        steps, noise_multiplier: of the training.
        max_grad_norms, learning_rates: M of each, those of every head.
        generator: draws the noise.

    Returns:
        The weights (M, C, d).
    """
    units, records, size = features.shape
    heads = len(max_grad_norms)
    bounds, rates = (torch.tensor(values)[:, None, None] for values in (max_grad_norms, learning_rates))
    weights = torch.zeros(heads, classes, size)
    flat = features.flatten(0, 1)
    # Classes lead: torch's softmax over a short last dimension takes 17 times as long as over the first.
    targets = functional.one_hot(labels.flatten(), classes).float().T.contiguous()
    # Norms from products of records where those are fewer than the coordinates: |sum_i r_i x_i|^2 is the sum over i
    # and j of (r_i . r_j) (x_i . x_j), and the second factor is the same in every step.
    products = features @ features.transpose(1, 2) if records**2 <= classes * size else None
    for _ in range(steps):
        logits = (weights.flatten(0, 1) @ flat.T).view(heads, classes, -1)
        residuals = ((logits.softmax(dim=1) - targets) / records).view(heads, classes, units, records)
        if products is None:
            gradients = torch.bmm(residuals.flatten(0, 1).transpose(0, 1), features)
            norms = gradients.view(units, heads, -1).norm(dim=2).T
        elif records == 1:
            norms = (residuals.square().sum(dim=1) * products[:, 0]).squeeze(2).sqrt()
        else:
            between = torch.einsum("mckn,mckl->mknl", residuals, residuals)
            norms = (between * products).sum(dim=(2, 3)).clamp(min=0).sqrt()
        factors = (bounds[..., 0] / norms).clamp(max=1.0)
        clipped = residuals * factors[:, None, :, None]
        total = (clipped.flatten(2).flatten(0, 1) @ flat).view_as(weights)
        noise = torch.randn(classes, size, generator=generator) * noise_multiplier * bounds
        weights -= rates / units * (total + noise)
    return weights


@lru_cache(maxsize=1)
def _digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    split = data.load("digits")
    extractor = scattering(split.image_shape)
    statistics = PublicStatistics(extractor.extract(split.public), dimensions=DIMENSIONS)
    train, test = (statistics(extractor.extract(part.images)) for part in (split.train, split.test))
    return train, split.train.labels, test, split.test.labels
