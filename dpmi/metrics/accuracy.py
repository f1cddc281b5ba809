"""Accuracy and confidence of a classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpmi.data import Images, blocks
from dpmi.models import evaluating, seeded
from dpmi.models.modes import Gathered

BATCH_SIZE = 1024

_SEED = 0


def accuracy(model: nn.Module, images: Images, labels: Tensor, *, batch_size: int = BATCH_SIZE) -> float:
    """Return the fraction of images whose largest logit is that of their label, in [0, 1].

    The model runs in evaluation mode; its mode is restored afterwards. A model that draws noise draws it once per
    image, always from the same seed.

    Args:
        model: maps images (n, C, H, W) to logits (n, K).
        images: float32 (N, C, H, W), N at least 1.
        labels: int64 (N,), each in [0, K).
        batch_size: images per forward pass.

    Raises:
        ValueError: there are no images, the number of labels differs, or the logits are not finite.
    """
    logits = _logits(model, images, labels, batch_size)
    return float((logits.argmax(dim=1) == labels.cpu()).double().mean())


def confidence(model: nn.Module, images: Images, labels: Tensor, *, batch_size: int = BATCH_SIZE) -> Tensor:
    """Return the softmax probability of each image's label, float32 (N,) in [0, 1].

    Arguments and errors as for :func:`accuracy`.

    >>> images = torch.tensor([[0.0, 0.0], [0.0, 9.0]]).view(2, 2, 1, 1)
    >>> confidence(nn.Flatten(), images, torch.tensor([0, 1])).round(decimals=3)
    tensor([0.5000, 1.0000])
    """
    probabilities = _logits(model, images, labels, batch_size).softmax(dim=1)
    return probabilities.gather(1, labels.cpu()[:, None])[:, 0]


def _logits(model: nn.Module, images: Images, labels: Tensor, batch_size: int) -> Tensor:
    if len(images) == 0 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels must have one entry for each of at least 1 image; "
            f"got {len(images)} images and labels of shape {tuple(labels.shape)}"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    device = next((p.device for p in model.parameters()), images.device)
    found = Gathered(len(images))
    with evaluating(model), seeded(model, _SEED), torch.no_grad():
        for batch in blocks(images, batch_size):
            found.add(model(batch.to(device)).cpu())
    logits = found.whole
    # argmax of NaN raises no error, and a broken model would get an accuracy.
    if not bool(logits.isfinite().all()):
        raise ValueError("model returns logits that are not finite; check that its training converged")
    if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise ValueError(
            f"labels must be in [0, {logits.shape[1]}), the model's outputs; "
            f"got {int(labels.min())} to {int(labels.max())}"
        )
    return logits
