"""Positions of a distributional search: one distribution of latent vectors for each class."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from dpmi.attacks.priors import Generator

from .latents import Noise
from .search import physical


class Distribution(ABC):
    """A distribution q of latents for each class, as a map of standard normal noise; a position of a search.

    Args:
        generator: makes the images.
        labels: int64 (R,), one distribution each.
        seed: seed of the samples.
        draws: images of each class per step.
        kl_weight: weight of KL(q || N(0, I)) in the cost; 0 omits this term.
        limit: the generator gets latents clamped to [-limit, limit]; None means no clamp.
    """

    def __init__(
        self,
        generator: Generator,
        labels: Tensor,
        *,
        seed: int,
        draws: int = 1,
        kl_weight: float = 0.0,
        limit: float | None = None,
    ) -> None:
        self.draws = draws
        self.generator = generator
        self.labels = labels
        self.kl_weight = kl_weight
        self._limit = limit
        self._seed = seed
        self._noise = Noise(labels, per_class=1, size=draws * generator.latent_size, seed=seed)
        self._drawn = self._next()

    @abstractmethod
    def parameters(self) -> list[Tensor]:
        """Return the parameters of the distributions, leaf tensors (R, ...)."""

    @abstractmethod
    def transform(self, noise: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Return latents and KL(q || N(0, I)).

        Args:
            noise: standard normal (len(rows), m, latent_size).
            rows: the classes.

        Returns:
            (len(rows), m, latent_size), and the divergence (len(rows),), exact or a mean over the samples.
        """

    def images(self, rows: slice) -> Tensor:
        """Return the images of this step's noise."""
        return self._render(self._drawn[rows], rows)

    def penalty(self, rows: slice) -> Tensor | float:
        """Return the weighted divergence."""
        if self.kl_weight == 0:
            return 0.0
        return self.kl_weight * self.transform(self._drawn[rows], rows)[1]

    def advance(self) -> None:
        """Draw the next step's noise."""
        self._drawn = self._next()

    def sample(self, count: int) -> Tensor:
        """Return images (R * count, C, H, W) of fresh samples of q; the images of a class are adjacent."""
        size = count * self.generator.latent_size
        # Row number 1, because the rows of the search's noise have number 0.
        noise = Noise(self.labels, per_class=1, size=size, seed=self._seed, first=1).draw()
        noise = noise.view(len(self.labels), count, -1)
        with torch.no_grad():
            return torch.cat([self._render(noise[rows], rows) for rows in physical(len(self.labels), count)])

    def _render(self, noise: Tensor, rows: slice) -> Tensor:
        latents = self.transform(noise, rows)[0].flatten(0, 1)
        if self._limit is not None:
            latents = latents.clamp(-self._limit, self._limit)
        labels = None
        if self.generator.num_classes is not None:
            labels = self.labels[rows].repeat_interleave(noise.shape[1])
        images: Tensor = self.generator(latents, labels)
        return images

    def _next(self) -> Tensor:
        return self._noise.draw().view(len(self.labels), self.draws, self.generator.latent_size)


class DiagonalGaussian(Distribution):
    """z = mu + exp(logvar / 2) * eps, from mu = 0.

    Args:
        generator, labels, seed, draws, kl_weight, limit: as for :class:`Distribution`.
        log_variance: initial logvar.
    """

    def __init__(
        self,
        generator: Generator,
        labels: Tensor,
        *,
        seed: int,
        draws: int = 1,
        kl_weight: float = 0.0,
        limit: float | None = None,
        log_variance: float = 0.0,
    ) -> None:
        super().__init__(generator, labels, seed=seed, draws=draws, kl_weight=kl_weight, limit=limit)
        shape = (len(labels), generator.latent_size)
        self._mean = torch.zeros(shape, device=labels.device, requires_grad=True)
        self._log_variance = torch.full(shape, log_variance, device=labels.device, requires_grad=True)

    def parameters(self) -> list[Tensor]:
        """Return mu and logvar, (R, d) each."""
        return [self._mean, self._log_variance]

    def transform(self, noise: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Return latents, and the exact divergence."""
        mean, log_variance = self._mean[rows], self._log_variance[rows]
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2
        return mean[:, None] + (log_variance / 2).exp()[:, None] * noise, divergence


class FullGaussian(Distribution):
    """z = mu + L eps with a lower triangular L, initially N(0, I); the diagonal of L is exp of a parameter."""

    def __init__(
        self, generator: Generator, labels: Tensor, *, seed: int, draws: int = 1, kl_weight: float = 0.0
    ) -> None:
        super().__init__(generator, labels, seed=seed, draws=draws, kl_weight=kl_weight)
        size = generator.latent_size
        self._mean = torch.zeros(len(labels), size, device=labels.device, requires_grad=True)
        self._factor = torch.zeros(len(labels), size, size, device=labels.device, requires_grad=True)

    def parameters(self) -> list[Tensor]:
        """Return mu (R, d), and L (R, d, d) with the logarithm of its diagonal."""
        return [self._mean, self._factor]

    def transform(self, noise: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Return latents, and the exact divergence."""
        mean, factor = self._mean[rows], self._factor[rows]
        log_diagonal = factor.diagonal(dim1=1, dim2=2)
        lower = factor.tril(-1) + torch.diag_embed(log_diagonal.exp())
        divergence = (mean.square() - 1 - 2 * log_diagonal).sum(dim=1) + lower.square().sum(dim=(1, 2))
        return mean[:, None] + noise @ lower.mT, divergence / 2


class Flow(Distribution):
    """z = f(eps) with an invertible f of additive couplings, one for each class [WFK21, section 3.3].

    Each of :data:`STEPS` steps scales every entry (ActNorm), permutes the entries, and adds to one half the output of a
    network with one hidden layer on the other half [Glow: D. P. Kingma, P. Dhariwal, NeurIPS 2018]. The last layers
    start at 0, so f starts as a permutation and q as N(0, I). The divergence is a mean over the samples.
    """

    STEPS = 10
    HIDDEN = 100

    def __init__(
        self, generator: Generator, labels: Tensor, *, seed: int, draws: int = 1, kl_weight: float = 0.0
    ) -> None:
        super().__init__(generator, labels, seed=seed, draws=draws, kl_weight=kl_weight)
        size, device = generator.latent_size, labels.device
        self._half = size // 2
        rest = size - self._half
        # All classes share permutations and initial first layers, so a class does not depend on the other classes.
        drawn = torch.Generator().manual_seed(seed % 2**63)
        self._order = [torch.randperm(size, generator=drawn).to(device) for _ in range(self.STEPS)]
        first = torch.randn(self.STEPS, self._half, self.HIDDEN, generator=drawn) / self._half**0.5

        def leaf(*shape: int) -> Tensor:
            return torch.zeros(len(labels), self.STEPS, *shape, device=device, requires_grad=True)

        self._log_scale, self._hidden_bias = leaf(size), leaf(self.HIDDEN)
        self._last, self._bias = leaf(self.HIDDEN, rest), leaf(rest)
        self._first = first.to(device).repeat(len(labels), 1, 1, 1).requires_grad_()

    def parameters(self) -> list[Tensor]:
        """Return the parameters of all steps, (R, STEPS, ...) each."""
        return [self._log_scale, self._first, self._hidden_bias, self._last, self._bias]

    def transform(self, noise: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Return latents, and the mean of ln q(z) - ln N(z; 0, I) over the samples."""
        values = noise
        for step, order in enumerate(self._order):
            log_scale, first, hidden_bias, last, bias = (p[rows, step] for p in self.parameters())
            values = (values * log_scale.exp()[:, None])[..., order]
            known, moved = values[..., : self._half], values[..., self._half :]
            hidden = (known @ first + hidden_bias[:, None]).relu()
            values = torch.cat([known, moved + hidden @ last + bias[:, None]], dim=-1)
        # Couplings and permutations preserve volume; ln q(z) = ln N(eps) - sum of the log scales.
        apart = (values.square() - noise.square()).sum(dim=-1).mean(dim=1) / 2
        return values, apart - self._log_scale[rows].sum(dim=(1, 2))
