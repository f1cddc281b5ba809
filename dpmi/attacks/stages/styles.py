"""Where a search is in the w-space of a style-based generator, and which styles it starts from."""

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
        project: is applied to the styles after each step; None leaves them.
    """

    draws = 1

    def __init__(
        self, generator: StyleGenerator, start: Tensor, *, project: Projection | None = None
    ) -> None:
        """Start from there."""
        self._generator = generator
        self._project = project
        self.styles = start.clone().requires_grad_()

    def parameters(self) -> list[Tensor]:
        """Return the styles."""
        return [self.styles]

    def images(self, rows: slice) -> Tensor:
        """Return their images."""
        return self._generator.images(self._generator.repeat(self.styles[rows]))

    def penalty(self, rows: slice) -> float:
        """Return nothing: where a style may be is up to the projection."""
        return 0.0

    def advance(self) -> None:
        """Project."""
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
    """Return the styles (R * keep, style_size) of random latents of which the target is surest, best first.

    All classes choose among the same candidates, so a query serves all of them. Candidates that the budget does not
    pay for come last.

    Args:
        target: is asked once about each candidate, twice if mirrored.
        generator: maps latents to styles; of a style that is truncated in some layers only, that of the first.
        labels: int64 (R,).
        keep: styles for each label, at most ``candidates``.
        candidates: random latents.
        psi: truncation.
        cutoff: layers that are truncated; 0 truncates nothing.
        mirror: whether the confidence is the mean over an image and its mirror image.
        seed: of the latents.
    """
    drawn = torch.Generator().manual_seed(seed)
    latents = torch.randn(candidates, generator.latent_size, generator=drawn).to(labels.device)
    found = torch.zeros(len(labels), candidates, device=labels.device)
    styles = []
    with torch.no_grad():
        for rows in physical(candidates):
            styles.append(generator.mapping(latents[rows], psi, cutoff)[:, 0])
            views = 1 + mirror
            if target.affords(queries=views * len(styles[-1])):
                images = generator.images(generator.repeat(styles[-1]))
                shown = [images, images.flip(3)][:views]
                of_views = [target.logits(view).softmax(dim=1) for view in shown]
                found[:, rows] = torch.stack(of_views).mean(dim=0).T[labels]
    chosen = best_rows(-found.flatten(), candidates=candidates, keep=keep)
    return torch.cat(styles)[chosen % candidates]


class StyleBox:
    """The styles whose every entry, made normal, is near its mean: the space P of MIRROR [section III-B].

    A style's activation is undone by a leaky ReLU of the inverse slope; what is left is about normal, and is clipped
    to one standard deviation around its mean.

    Args:
        generator: maps latents to styles.
        seed: of the latents whose styles are measured.
    """

    #: Slope of the mapping network's activation, below zero.
    SLOPE = 0.2
    #: Latents that are measured, and half the side of the box.
    SAMPLES = 10_000
    DEVIATIONS = 1.0

    def __init__(self, generator: StyleGenerator, *, seed: int) -> None:
        """Measure."""
        drawn = torch.Generator().manual_seed(seed)
        latents = torch.randn(self.SAMPLES, generator.latent_size, generator=drawn)
        with torch.no_grad():
            w = generator.mapping(latents.to(generator.mapping.w_avg.device))[:, 0]
        values = self.normal(w)
        self.std = values.std(dim=0)
        self._low = values.mean(dim=0) - self.DEVIATIONS * self.std
        self._high = values.mean(dim=0) + self.DEVIATIONS * self.std

    def __call__(self, styles: Tensor) -> Tensor:
        """Return the styles (..., style_size), clipped."""
        return self.style(self.normal(styles).clamp(self._low, self._high))

    def style(self, values: Tensor) -> Tensor:
        """Return the style of what :meth:`normal` returned."""
        return F.leaky_relu(values, self.SLOPE)

    def normal(self, styles: Tensor) -> Tensor:
        """Return what is about normal, of styles (..., style_size)."""
        return F.leaky_relu(styles, 1 / self.SLOPE)


def onto_l1_ball(offsets: Tensor, radius: float) -> Tensor:
    """Return the nearest points (n, ...) of sum |x_i| <= radius, row by row.

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
