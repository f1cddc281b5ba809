"""What PPA, MIRROR and IF-GMI share: the generator as published, and the choice of the starts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpmi.attacks.priors import Gan, StyleGenerator, StylePrior

from .common import CLASSES, SIZE, seed_of_run

PRIOR = StylePrior(steps=60, batch_size=16, latent_size=SIZE, width=3, learning_rate=0.015)
CANDIDATES, CUTOFF = 40, 3


def style_generator(gan: nn.Module) -> StyleGenerator:
    assert isinstance(gan, Gan)
    assert isinstance(gan.generator, StyleGenerator)
    return gan.generator


def shown(generator: StyleGenerator, w: Tensor) -> Tensor:
    """Images in [0, 1] of one style for all layers (n, size), or of a style for each, (n, layers, size)."""
    if w.ndim == 2:
        w = w.unsqueeze(1).repeat_interleave(generator.synthesis.num_ws, dim=1)
    return (generator.synthesis(w).rgb / 2 + 0.5).clamp(0, 1)


def truncated(generator: StyleGenerator, psi: float) -> Tensor:
    """Random styles (CANDIDATES, layers, size), the first layers drawn towards the mean style.

    The published codes draw latents by NumPy, or read them from files.
    """
    drawn = torch.Generator().manual_seed(seed_of_run())
    whole = generator.mapping(torch.randn(CANDIDATES, SIZE, generator=drawn))
    some = generator.mapping.w_avg + psi * (whole - generator.mapping.w_avg)
    return torch.cat([some[:, :CUTOFF], whole[:, CUTOFF:]], dim=1)


def initial_styles(
    generator: StyleGenerator, model: nn.Module, *, per_class: int, psi: float, mirror: bool
) -> Tensor:
    """find_initial_w of PPA: for each target in turn the candidate of most confidence that it has not yet."""
    candidates = truncated(generator, psi)
    images = shown(generator, candidates)
    confidences = model(images).softmax(dim=1)
    if mirror:
        confidences = (confidences + model(images.flip(dims=[3])).softmax(dim=1)) / 2
    found = []
    for label in CLASSES.repeat_interleave(per_class).tolist():
        best = int(confidences[:, label].sort(descending=True).indices[0])
        found.append(candidates[best, 0])
        confidences[best, label] = -1.0
    return torch.stack(found)


def poincare(logits: Tensor, labels: Tensor) -> Tensor:
    """poincare_loss of the published losses: the distance of l / ||l||_1 from the one-hot label less 1e-4."""
    u = logits / logits.abs().sum(dim=1, keepdim=True)
    v = (torch.eye(logits.shape[1])[labels] - 1e-4).clip(0, 1)
    delta = 2 * ((u - v) ** 2).sum(1) / ((1 - (u**2).sum(1)) * (1 - (v**2).sum(1)))
    return torch.arccosh(1 + delta)
