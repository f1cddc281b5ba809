"""The classifier that is trained, attacked, saved and released: pixels to features to logits."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dpmi.data import Images, blocks
from dpmi.whole_files import replacing

from ..anatomy import FEATURES
from ..classifiers import linear
from ..modes import device_of, in_batches
from .extractor import Extractor, check_finite
from .statistics import PublicStatistics


class FeatureClassifier(nn.Module):
    """A small trained head on the features of a frozen extractor; it maps images (n, C, H, W) to logits (n, K).

    Only the head has parameters. Train ``classifier.top`` on ``classifier.inputs(images)``, computed once, or the whole
    module on images; the results are the same.

    Args:
        extractor: images to features.
        statistics: centres and scales the features.
        top: maps features (n, d, 1, 1) to logits; its last linear layer is the classification head.
        cache: folder in which :meth:`inputs` keeps what it computed, by content; None keeps nothing.

    >>> from dpmi import data
    >>> from dpmi.models.features import scattering
    >>> digits = data.load("digits")
    >>> classifier = on_features(scattering(digits.image_shape, scales=1), digits.public, classes=10)
    >>> inputs = classifier.inputs(digits.train.images[:100])
    >>> inputs.shape, classifier.top(inputs).shape, [name for name, _ in classifier.named_parameters()]
    (torch.Size([100, 144, 1, 1]), torch.Size([100, 10]), ['top.1.weight'])
    """

    def __init__(
        self,
        extractor: Extractor,
        statistics: PublicStatistics,
        top: nn.Module,
        *,
        cache: Path | None = None,
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.statistics = statistics
        self.top = top
        self.cache = cache

    def trains(self, layer: str) -> bool:
        """Whether private images change the output of a layer: it is in the head, at or after one with parameters.

        Args:
            layer: a name as in ``named_modules()``, or ``"features"``, the input of the last linear layer.
        """
        trained = [
            name
            for name, module in self.named_modules()
            if any(True for _ in module.parameters(recurse=False))
        ]
        if layer == FEATURES:
            return len(trained) > 1
        order = [name for name, _ in self.named_modules()]
        return order.index(layer) >= order.index(trained[0])

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (n, K)."""
        logits: Tensor = self.top(self._standardized(self.extractor(images)))
        return logits

    def inputs(self, images: Images) -> Tensor:
        """Return what ``top`` takes, (n, d, 1, 1), for many images, in batches and without gradients.

        The features of an image cannot depend on other images (:meth:`Extractor.each`).

        Raises:
            ValueError: a feature is NaN or infinite.
        """
        if self.cache is None:
            return self._extract(images)
        content = hashlib.blake2b(digest_size=16)
        for block in blocks(images):
            content.update(block.detach().cpu().contiguous().numpy().data)
        for name, value in self.state_dict().items():
            if not name.startswith("top."):
                content.update(value.cpu().contiguous().numpy().data)
        path = self.cache / f"{content.hexdigest()}.npy"
        if not path.exists():
            self.cache.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, self._extract(images).cpu().numpy())
        return torch.from_numpy(np.load(path, mmap_mode="c")).to(images.device)

    def _extract(self, images: Images) -> Tensor:
        """Standardize batch by batch: the features of an extractor may be many times as large as what is kept."""
        device = device_of(self)
        found = in_batches(
            lambda some: self._standardized(self.extractor.each(some.to(device))).to(images.device), images
        )
        check_finite(found.flatten(1))  # brought to one length, an infinite feature is NaN
        return found

    def _standardized(self, features: Tensor) -> Tensor:
        inputs: Tensor = self.statistics(features)
        return inputs[:, :, None, None]


def on_features(
    extractor: Extractor,
    public: Images,
    *,
    classes: int,
    dimensions: int | None = None,
    labels: Tensor | None = None,
) -> FeatureClassifier:
    """Return a classifier with a linear head without bias, from zero, on standardized features.

    Args:
        extractor: images to features.
        public: images (M, C, H, W) for mean and scale, of which none is private.
        classes: K, at least 2.
        dimensions: as for :class:`PublicStatistics`.
        labels: classes (M,) of the public images, as for :class:`PublicStatistics`.

    Raises:
        ValueError: a feature is not finite, or there are too few public images.
    """
    statistics = PublicStatistics(extractor.extract(public), dimensions=dimensions, labels=labels)
    if classes < 2:
        raise ValueError(f"classes must be at least 2; got {classes}")
    return FeatureClassifier(extractor, statistics, linear((statistics.size, 1, 1), classes))
