"""Positions of a search in the w-space of a style-based generator, and its starting styles."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from dpmi.attacks.priors import Gan, StyleGenerator
from dpmi.attacks.target import Target

from .search import physical
from .selection import best_rows

Projection = Callable[[Tensor], Tensor]


class Styles:
    """One style per row, the same for every layer.

    Args:
        generator: makes the images.
        start: (n, style_size).
        project: applied to the styles after each step; None means no projection.
    """

    draws = 1

    def __init__(
        self, generator: StyleGenerator, start: Tensor, *, project: Projection | None = None
    ) -> None:
        self._generator = generator
        self._project = project
        self.styles = start.clone().requires_grad_()

    def parameters(self) -> list[Tensor]:
        """Return the styles."""
        return [self.styles]

    def images(self, rows: slice) -> Tensor:
        """Return the images of the styles."""
        return self._generator.images(self._generator.repeat(self.styles[rows]))

    def penalty(self, rows: slice) -> float:
        """Return 0: limits on styles are enforced by projection."""
        return 0.0

    def advance(self) -> None:
        """Project the styles."""
        if self._project is not None:
            with torch.no_grad():
                self.styles.copy_(self._project(self.styles))


def style_generator(module: object) -> StyleGenerator:
    """Return the generator of a trained :class:`~dpmi.attacks.priors.StylePrior`."""
    assert isinstance(module, Gan)
    assert isinstance(module.generator, StyleGenerator)
    return module.generator


def best_styles(
    target: Target,
    generator: StyleGenerator,
    labels: Tensor,
    *,
    keep: int,
    candidates: int,
    psi: float,
    cutoff: int,
    mirror: bool,
    seed: int,
) -> Tensor:
    """Return the random styles (R * keep, style_size) with the target's highest confidence, best first.

    All classes share the same candidates, so a query serves all of them. The target sees each candidate with the layers
    after the cutoff not truncated, and the search starts from the style of the first layer in all layers [published
    code of SHC22]. Candidates that the budget does not cover come last.

    Args:
        target: queried once for each candidate, twice if mirrored.
        generator: maps latents to styles.
        labels: int64 (R,).
        keep: number of styles for each label, at most ``candidates``.
        candidates: number of random latents.
        psi: truncation towards the mean style.
        cutoff: number of truncated layers; 0 means no truncation.
        mirror: whether the confidence is the mean over an image and its mirror image.
        seed: seed of the latents.
    """
    drawn = torch.Generator().manual_seed(seed)
    latents = torch.randn(candidates, generator.latent_size, generator=drawn).to(labels.device)
    found = torch.zeros(len(labels), candidates, device=labels.device)
    styles = []
    with torch.no_grad():
        for rows in physical(candidates):
            ws = generator.mapping(latents[rows], psi, cutoff)
            styles.append(ws[:, 0])
            views = 1 + mirror
            if target.affords(queries=views * len(ws)):
                images = generator.images(ws)
                shown = [images, images.flip(3)][:views]
                of_views = [target.logits(view).softmax(dim=1) for view in shown]
                found[:, rows] = torch.stack(of_views).mean(dim=0).T[labels]
    chosen = best_rows(-found.flatten(), candidates=candidates, keep=keep)
    return torch.cat(styles)[chosen % candidates]


class StyleBox:
    """The projection onto likely styles, the space P of MIRROR [ATX22, section III-B].

    A leaky ReLU with the inverse slope inverts the activation of a style. The result is approximately normal, and is
    clipped to one standard deviation around its mean.

    Args:
        generator: maps latents to styles.
        seed: seed of the latents from which mean and standard deviation are estimated.
    """

    #: Slope of the mapping network's activation, below zero.
    SLOPE = 0.2
    #: Number of latents for the estimate, and half the side of the box in standard deviations.
    SAMPLES = 10_000
    DEVIATIONS = 1.0

    def __init__(self, generator: StyleGenerator, *, seed: int) -> None:
        drawn = torch.Generator().manual_seed(seed)
        latents = torch.randn(self.SAMPLES, generator.latent_size, generator=drawn)
        with torch.no_grad():
            w = generator.mapping(latents.to(generator.mapping.w_avg.device))[:, 0]
        values = self.normal(w)
        self.std = values.std(dim=0)
        self._low = values.mean(dim=0) - self.DEVIATIONS * self.std
        self._high = values.mean(dim=0) + self.DEVIATIONS * self.std

    def __call__(self, styles: Tensor) -> Tensor:
        """Return the styles (..., style_size), clipped to the box."""
        return self.style(self.normal(styles).clamp(self._low, self._high))

    def style(self, values: Tensor) -> Tensor:
        """Return the styles of the pre-activations (..., style_size), the inverse of :meth:`normal`."""
        return F.leaky_relu(values, self.SLOPE)

    def normal(self, styles: Tensor) -> Tensor:
        """Return the pre-activations, approximately normal, of styles (..., style_size)."""
        return F.leaky_relu(styles, 1 / self.SLOPE)


def onto_l1_ball(offsets: Tensor, radius: float) -> Tensor:
    """Return the projection (n, ...) of each row onto the L1 ball sum |x_i| <= radius.

    J. Duchi et al., "Efficient projections onto the l1-ball for learning in high dimensions", ICML 2008, figure 1.

    >>> onto_l1_ball(torch.tensor([[3.0, -1.0], [0.2, 0.1]]), 1.0)
    tensor([[1.0000, -0.0000],
            [0.2000, 0.1000]])
    """
    sizes = offsets.flatten(1).abs()
    descending = sizes.sort(dim=1, descending=True).values
    count = torch.arange(1, sizes.shape[1] + 1, device=sizes.device)
    excess = (descending.cumsum(dim=1) - radius) / count
    last = (descending > excess).sum(dim=1, keepdim=True) - 1
    threshold = excess.gather(1, last.clamp_min(0)).clamp_min(0)
    return ((sizes - threshold).clamp_min(0) * offsets.flatten(1).sign()).view_as(offsets)
