"""Fisher information per layer: the importance of each layer for a task ([TL-DMI] section 4.2).

Equation 2 of [TL-DMI] is the expected second derivative of a loss by the parameters. This module uses the squares of
first derivatives instead, record by record, at the records' own labels, like the works that [TL-DMI] follows. For a
log-likelihood both agree in expectation under the model; squares are never negative and need one backward pass. The
information of a layer is the mean over its parameters (weights and biases) and over the records.

[TL-DMI] S.-T. Ho, K. J. Hao, K. Chandrasegaran, N.-B. Nguyen, N.-M. Cheung, "Model Inversion Robustness: Can
Transfer Learning Help?", CVPR 2024.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from dpmi.data import blocks
from dpmi.data.lazy import Images, taken
from dpmi.models import FEATURES, evaluating, observe, seeded
from dpmi.progress import Progress

#: Maximum number of gradient entries that are computed at a time: 256 MiB.
_CHUNK = 2**26

#: Records per forward pass without gradients.
_RECORDS = 1024

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps logits (1, K), features (1, ...) and the record's target to a loss."""


def layers(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the layers with their own parameters, and the names of these parameters, in order of registration.

    >>> layers(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2, bias=False)))
    {'0': ('0.weight', '0.bias'), '2': ('2.weight',)}
    """
    found: dict[str, tuple[str, ...]] = {}
    for name, _ in model.named_parameters():
        owner = name.rpartition(".")[0] or name
        found[owner] = (*found.get(owner, ()), name)
    return found


def classification_information(
    model: nn.Module, images: Tensor, labels: Tensor, *, seed: int = 0, progress: Progress | None = None
) -> dict[str, float]:
    """Return the Fisher information of each layer for classification: the loss is cross-entropy.

    The model runs in evaluation mode; its mode is restored afterwards.

    Args:
        model: maps images (n, C, H, W) to logits (n, K); its last linear layer is its head.
        images: (N, C, H, W), N at least 1: held-out private images in the paper.
        labels: int64 (N,).
        seed: seed of a model that draws noise.
        progress: called with (records done, N).

    Returns:
        Layer -> information, in the order of :func:`layers`.

    Raises:
        ValueError: the numbers of labels and images differ, or there are no images.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> found = classification_information(model, torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 0, 1, 0]))
    >>> list(found), all(value >= 0 for value in found.values())
    (['1', '3'], True)
    """

    def loss(logits: Tensor, _: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(logits[0], label)

    return _information(model, images, labels, loss, seed=seed, progress=progress)


def inversion_information(
    model: nn.Module,
    recons: Tensor,
    recon_labels: Tensor,
    private_images: Images,
    private_labels: Tensor,
    *,
    seed: int = 0,
) -> dict[str, float]:
    """Return the Fisher information of each layer for inversion: the loss is the distance to the class in features.

    Equation 3 of [TL-DMI]: the Euclidean distance from the features of a reconstruction, at the end of an attack, to
    the mean features of the private images of its class. Features are the input of the head, so the information of the
    head is 0. The mean features are constants, not functions of the parameters, because the information refers to the
    reconstructions and not to the private images.

    Args:
        model: as for :func:`classification_information`.
        recons: (R, C, H, W), R at least 1.
        recon_labels: int64 (R,).
        private_images: (N, C, H, W); at least one of each class of ``recon_labels``.
        private_labels: int64 (N,).
        seed: seed of a model that draws noise.

    Returns:
        As :func:`classification_information`.

    Raises:
        ValueError: a reconstructed class has no private image, or as for :func:`classification_information`.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> images, labels = torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 0, 1, 0])
    >>> found = inversion_information(model, torch.rand(2, 1, 2, 2), torch.tensor([0, 1]), images, labels)
    >>> found["3"]  # of the head
    0.0
    """
    centroids = _centroids(model, private_images, private_labels, recon_labels, seed)

    def loss(_: Tensor, features: Tensor, centroid: Tensor) -> Tensor:
        distance: Tensor = torch.linalg.vector_norm(features.flatten() - centroid)
        return distance

    return _information(model, recons, centroids, loss, seed=seed)


def _information(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    loss: Loss,
    *,
    seed: int,
    progress: Progress | None = None,
) -> dict[str, float]:
    if len(images) == 0 or len(targets) != len(images):
        raise ValueError(
            f"labels must have one entry for each of at least 1 image; got {len(images)} images and "
            f"{len(targets)} labels"
        )
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())
    owned = layers(model)
    device = next(iter(parameters.values())).device

    def record_loss(parameters: dict[str, Tensor], image: Tensor, target: Tensor) -> Tensor:
        with observe(model, (FEATURES,)) as found:
            logits = functional_call(model, (parameters, buffers), (image[None],))
        return loss(logits, found[FEATURES], target)

    def mean_squares(image: Tensor, target: Tensor) -> Tensor:
        gradient = grad(record_loss)(parameters, image, target)
        return torch.stack(
            [torch.cat([gradient[p].flatten() for p in names]).square().mean() for names in owned.values()]
        )

    together = max(1, _CHUNK // sum(p.numel() for p in parameters.values()))
    total = torch.zeros(len(owned), dtype=torch.float64)
    done = 0
    with evaluating(model), seeded(model, seed), warnings.catch_warnings():
        # Torch warns about layers that it computes record by record, which is slower but correct.
        warnings.filterwarnings("ignore", message="There is a performance drop")
        for chunk, aims in zip(torch.split(images, together), torch.split(targets, together), strict=True):
            squares = vmap(mean_squares, randomness="different")(chunk.to(device), aims.to(device))
            total += squares.double().sum(dim=0).cpu()
            done += len(chunk)
            if progress is not None:
                progress(done, len(images))
    return dict(zip(owned, (total / len(images)).tolist(), strict=True))


def _centroids(model: nn.Module, images: Images, labels: Tensor, wanted: Tensor, seed: int) -> Tensor:
    """Return the mean features of each class of ``wanted``, (R, d)."""
    device = next(model.parameters()).device
    means = {}
    with evaluating(model), seeded(model, seed), torch.no_grad():
        for label in sorted(set(wanted.tolist())):
            members = taken(images, labels == label)
            if len(members) == 0:
                raise ValueError(
                    f"private_labels must contain every class of recon_labels; there is no image of class {label}"
                )
            parts = []
            for chunk in blocks(members, _RECORDS):
                with observe(model, (FEATURES,)) as found:
                    model(chunk.to(device))
                parts.append(found[FEATURES].flatten(1))
            means[label] = torch.cat(parts).mean(dim=0)
    return torch.stack([means[label] for label in wanted.tolist()])
