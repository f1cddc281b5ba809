"""Bilateral dependency optimization: hidden layers are trained to depend on the labels and not on the images.

[BiDO] X. Peng, F. Liu, J. Zhang, L. Lan, J. Ye, T. Liu, B. Han, "Bilateral Dependency Optimization: Defending Against
Model-inversion Attacks", KDD 2022.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from accountants import checks
from dpmi import models
from dpmi.data import ImageSet

from .base import Defense
from .dependence import MEASURES, SIGMA, gaussian_kernel, label_kernel
from .objective import Batch

MeasureName = Literal["nocco", "hsic", "cka", "coco_fro", "coco_spec"]

#: Number of records on which the dependence of a trained model is measured.
DIAGNOSED = 256


@dataclass(frozen=True, kw_only=True)
class BiDO(Defense, ABC):
    """Adds w * sum over layers z of (lambda_x dep(x, z) - lambda_y dep(z, y)) to the cross-entropy.

    Suitable lambdas depend on the measure: their magnitudes differ by a factor of up to a million. Published pairs
    differ between data sets, too. A larger value of either lambda costs accuracy. A study varies w, the common factor.

    >>> from dpmi.defenses import BiDOHSIC
    >>> defense = BiDOHSIC(lambda_x=0.05, lambda_y=0.5, measure="hsic")
    >>> model = models.build("cnn-small", image_shape=(1, 8, 8), num_classes=10, seed=0)
    >>> defense.observed(model, (1, 8, 8)), defense.loss_scope
    (('4', 'features'), 'batch_coupled')

    Args:
        dependence_weight: w, at least 0.
        measure: measure of dependence; see :mod:`dpmi.defenses.dependence`.
        lambda_x: weight of the dependence between layers and images, at least 0.
        lambda_y: weight of the dependence between layers and labels, at least 0.
        sigma: width of the Gaussian kernel of images and layers, above 0.
        latent_layers: names of the layers, in a study file ``[["layer1", "layer2"]]``; by default those of
            :func:`dpmi.models.latents`.
    """

    strength_field: ClassVar[str | None] = "dependence_weight"
    loss_scope: ClassVar[Literal["per_sample", "batch_coupled"]] = "batch_coupled"

    dependence_weight: float = 1.0
    measure: MeasureName
    lambda_x: float
    lambda_y: float
    sigma: float = SIGMA
    latent_layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in ("dependence_weight", "lambda_x", "lambda_y"):
            if checks.real(field, getattr(self, field)) < 0:
                raise ValueError(f"{field} must be at least 0, got {getattr(self, field)}")
        if checks.real("sigma", self.sigma) <= 0:
            raise ValueError(f"sigma must be above 0, got {self.sigma}")
        if self.measure not in MEASURES:
            raise ValueError(f"measure must be one of {', '.join(MEASURES)}, got {self.measure!r}")
        names = self.latent_layers
        if not isinstance(names, tuple) or len(set(names)) < len(names):
            raise ValueError(f"latent_layers must be a tuple of names, each once, got {names!r}")

    def check(self, model: nn.Module, data: ImageSet, public: ImageSet | None) -> None:
        """Refuse a model without hidden layers."""
        if not self.observed(model, _image_shape(data)):
            raise ValueError(
                f"{self.name} needs the outputs of hidden layers, but no hidden layers of {type(model).__name__} are "
                "known; set latent_layers, or use a model with convolutions, such as cnn-small"
            )

    def observed(self, model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[str, ...]:
        """Return the hidden layers."""
        return self.latent_layers or models.latents(model, image_shape)

    def penalty(self, batch: Batch) -> Tensor:
        """Return the sum of both terms over all layers; the kernels of images and labels are computed once."""
        latents = [batch.latents[name] for name in self.latent_layers or batch.latents]
        x, y, z = self._prepared(batch.images, batch.labels, latents)
        compare = MEASURES[self.measure].compare
        bilateral = self.lambda_x * compare(x, z) - self.lambda_y * compare(z, y)
        return self.dependence_weight * bilateral.sum().to(batch.logits.dtype)

    def diagnose(self, model: nn.Module, data: ImageSet, *, seed: int) -> dict[str, float]:
        """Return every term on one batch, and on the same batch with shuffled pairs.

        If both values are similar, the measure is saturated or the layer is independent, and the term had no effect.
        """
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(data), generator=generator)[:DIAGNOSED]
        shuffled = torch.randperm(len(chosen), generator=generator)
        images, labels = data.rows(chosen, models.device_of(model))
        with torch.no_grad(), models.observe(model, self.observed(model, _image_shape(data))) as latents:
            model(images)
            x, y, z = self._prepared(images, labels, list(latents.values()))
        found = dict(self._terms(tuple(latents), x, y, z))
        # The records of the layers are shuffled against those of images and labels.
        apart = self._terms(tuple(latents), x, y, z[:, shuffled][:, :, shuffled])
        return found | {f"{term}, shuffled": value for term, value in apart}

    def _prepared(
        self, images: Tensor, labels: Tensor, latents: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the inputs of :attr:`measure`: images (m, m), labels (m, m) and latents (layers, m, m)."""
        kernels = [gaussian_kernel(values, self.sigma) for values in (images, *latents)]
        prepared = MEASURES[self.measure].prepare(torch.stack([label_kernel(labels), *kernels]))
        return prepared[1], prepared[0], prepared[2:]

    def _terms(self, layers: tuple[str, ...], x: Tensor, y: Tensor, z: Tensor) -> Iterator[tuple[str, float]]:
        compare = MEASURES[self.measure].compare
        for layer, to_images, to_labels in zip(layers, compare(x, z), compare(z, y), strict=True):
            yield f"{self.measure}(x, {layer})", float(to_images)
            yield f"{self.measure}({layer}, y)", float(to_labels)


@dataclass(frozen=True, kw_only=True)
class BiDOHSIC(BiDO):
    """BiDO with HSIC in the form of the published code, with normalized operators (NOCCO).

    >>> from dpmi import data
    >>> from dpmi.defenses import Recipe, train
    >>> digits = data.load("digits")
    >>> model = models.build("mlp", image_shape=digits.image_shape, num_classes=10, seed=0)
    >>> trained = train(BiDOHSIC(), model, digits.train, Recipe(steps=2, learning_rate=0.05), seed=0)
    >>> list(trained.diagnostics)[:2]  # the dependence of the hidden layer on images, and on labels
    ['nocco(x, features)', 'nocco(features, y)']
    """

    name: ClassVar[str] = "bido-hsic"

    measure: MeasureName = "nocco"
    lambda_x: float = 2.0  # [BiDO] Table 8, for MNIST
    lambda_y: float = 20.0  # [BiDO] Table 8, for MNIST


@dataclass(frozen=True, kw_only=True)
class BiDOCOCO(BiDO):
    """BiDO with constrained covariance in the form of the published code, with the Frobenius norm.

    >>> from dpmi.defenses import Batch
    >>> random = torch.Generator().manual_seed(0)
    >>> images, latent = (torch.rand(8, 1, 4, 4, generator=random) for _ in range(2))
    >>> batch = Batch(images, torch.arange(8) % 2, torch.zeros(8, 2), {"hidden": latent}, done=0.0)
    >>> weak, strong = (BiDOCOCO(dependence_weight=weight).penalty(batch) for weight in (0.1, 1.0))
    >>> round(float(strong / weak), 3)
    10.0
    """

    name: ClassVar[str] = "bido-coco"

    measure: MeasureName = "coco_fro"
    lambda_x: float = 1.0  # [BiDO] Table 8, for MNIST
    lambda_y: float = 50.0  # [BiDO] Table 8, for MNIST


def _image_shape(data: ImageSet) -> tuple[int, int, int]:
    channels, height, width = data.images.shape[1:]
    return channels, height, width
