"""Similarity of a reconstruction to the most similar private image of its class: SSIM, PSNR, LPIPS.

Images are in [0, 1]; they are neither rescaled nor rounded to 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dpmi.data import Images

from .distance import Distances, check_labelled, check_shape, class_members, mia_distance

#: Maps two batches of images (n, 3, H, W) in [0, 1] to n distances, in any shape with n values.
PairDistance = Callable[[Tensor, Tensor], Tensor]

#: Number of pairs of images in one forward pass of LPIPS.
_PAIRS = 256

#: Smallest side for which the last layers of AlexNet have an input.
_SMALLEST_SIDE = 31


def best_ssim(recons: Tensor, labels: Tensor, private_images: Images, private_labels: Tensor) -> Tensor:
    """Return the largest SSIM of each reconstruction with a private image of its class, float64 (R,) in [-1, 1].

    It is 1 - :func:`dpmi.metrics.mia_distance` with ``kind="ssim"``. Arguments and errors are those of that function.

    >>> private = torch.rand(2, 1, 16, 16)
    >>> best_ssim(private[:1], torch.tensor([0]), private, torch.tensor([0, 1])).round(decimals=3)  # a copy
    tensor([1.], dtype=torch.float64)
    """
    return 1 - mia_distance(recons, labels, private_images, private_labels, kind="ssim").values


def best_psnr(recons: Tensor, labels: Tensor, private_images: Images, private_labels: Tensor) -> Tensor:
    """Return the largest peak signal-to-noise ratio with a private image of the class, float64 (R,), in dB.

    It is -10 log10 of the mean squared difference of pixels to the nearest private image, for a peak of 1, and infinite
    for a copy. Arguments and errors are those of :func:`dpmi.metrics.mia_distance`.

    >>> grey, black = torch.full((1, 1, 2, 2), 0.1), torch.zeros(1, 1, 2, 2)
    >>> best_psnr(grey, torch.tensor([0]), black, torch.tensor([0]))
    tensor([20.0000], dtype=torch.float64)
    """
    distances = mia_distance(recons, labels, private_images, private_labels).values
    return -10 * torch.log10(distances.square() / recons[0].numel())


def lpips_network() -> PairDistance:
    """Return LPIPS [Zhang et al., CVPR 2018] with AlexNet, from torchmetrics, for :func:`lpips_distance`.

    Torchmetrics contains the weights of its linear layers; those of AlexNet come from torchvision. This function
    downloads nothing.

    Raises:
        ValueError: torchvision's weights of AlexNet are not in torch's cache; the message says how to get them.

    >>> import os
    >>> from tempfile import TemporaryDirectory
    >>> from unittest.mock import patch
    >>> with TemporaryDirectory() as folder, patch.dict(os.environ, TORCH_HOME=folder):  # a cache without AlexNet
    ...     try:
    ...         lpips_network()
    ...     except ValueError as error:
    ...         print(str(error).partition(",")[0])
    LPIPS needs torchvision's weights of AlexNet
    """
    # Imported here because few runs need them; torchmetrics, which takes seconds, only if there are weights.
    from torchvision.models import AlexNet_Weights  # noqa: PLC0415

    weights = Path(torch.hub.get_dir()) / "checkpoints" / Path(AlexNet_Weights.DEFAULT.url).name
    if not weights.is_file():
        raise ValueError(
            f"LPIPS needs torchvision's weights of AlexNet, but there is no {weights}; get them with "
            "`python -c \"import torchvision; torchvision.models.alexnet(weights='DEFAULT')\"`"
        )
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity  # noqa: PLC0415

    return partial(LearnedPerceptualImagePatchSimilarity(net_type="alex").net, normalize=True)


def lpips_distance(
    recons: Tensor,
    labels: Tensor,
    private_images: Images,
    private_labels: Tensor,
    *,
    network: PairDistance,
) -> Distances:
    """Return the smallest LPIPS distance of each reconstruction to a private image of its class.

    Args:
        recons: (R, C, H, W) in [0, 1]; grey images become three equal channels.
        labels: int64 (R,), the attacked class of each.
        private_images: (N, C, H, W) in [0, 1], the target's training images.
        private_labels: int64 (N,).
        network: the result of :func:`lpips_network`, loaded once for many calls.

    Raises:
        ValueError: as for :func:`dpmi.metrics.mia_distance`; also if a side is below 31, or if the images have neither
            1 nor 3 channels.

    >>> def network(first: Tensor, second: Tensor) -> Tensor:  # in place of lpips_network(), which needs a download
    ...     return (first - second).square().flatten(1).mean(1)
    >>> private = torch.tensor([0.0, 0.5]).view(2, 1, 1, 1).expand(2, 1, 32, 32)
    >>> found = lpips_distance(
    ...     torch.full((1, 1, 32, 32), 0.6), torch.tensor([0]), private, torch.tensor([0, 0]), network=network)
    >>> found.nearest, round(found.mean, 3)
    (tensor([1]), 0.01)
    """
    check_labelled("recons", recons, labels)
    check_labelled("private_images", private_images, private_labels)
    check_shape("recons", recons, private_images)
    channels, height, width = recons.shape[1:]
    if channels not in (1, 3) or min(height, width) < _SMALLEST_SIDE:
        raise ValueError(
            f"LPIPS needs images with 1 or 3 channels and at least {_SMALLEST_SIDE}x{_SMALLEST_SIDE} pixels; "
            f"got {tuple(recons.shape[1:])}; resize them, or use best_ssim"
        )
    values = torch.full((len(recons),), torch.nan, dtype=torch.float64)
    index = torch.zeros(len(recons), dtype=torch.int64)
    for label in sorted(set(labels.tolist())):
        rows = (labels == label).nonzero()[:, 0]
        members = class_members(private_labels, label)
        pairs = torch.cartesian_prod(rows, members)
        with torch.no_grad():
            distances = torch.cat(
                [
                    network(_rgb(recons[pair[:, 0]]), _rgb(private_images[pair[:, 1]])).flatten().cpu()
                    for pair in torch.split(pairs, _PAIRS)
                ]
            )
        values[rows], where = distances.double().view(len(rows), len(members)).min(dim=1)
        index[rows] = members[where]
    return Distances(values=values, nearest=index)


def _rgb(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1)
