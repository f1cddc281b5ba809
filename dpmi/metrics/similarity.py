"""How similar a reconstruction is to the most similar private image of its class: SSIM, PSNR, LPIPS.

Images are compared as they are, in [0, 1]: never rescaled, never rounded to 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from .distance import Distances, check_labelled, check_shape, class_members, mia_distance

#: Of two batches of images (n, 3, H, W) in [0, 1], the n distances, in any shape of n numbers.
PairDistance = Callable[[Tensor, Tensor], Tensor]

#: Pairs of images in one forward pass of LPIPS.
_PAIRS = 256

#: Below, nothing is left for the last layers of AlexNet.
_SMALLEST_SIDE = 31


def best_ssim(recons: Tensor, labels: Tensor, private_images: Tensor, private_labels: Tensor) -> Tensor:
    """Return the largest SSIM of each reconstruction with a private image of its class, float64 (R,) in [-1, 1].

    It is 1 - :func:`dpmi.metrics.mia_distance` of ``kind="ssim"``, with its arguments and errors.
    """
    return 1 - mia_distance(recons, labels, private_images, private_labels, kind="ssim").values


def best_psnr(recons: Tensor, labels: Tensor, private_images: Tensor, private_labels: Tensor) -> Tensor:
    """Return the largest peak signal-to-noise ratio with a private image of the class, float64 (R,), in dB.

    It is -10 log10 of the mean squared difference of pixels, whose peak is 1: that of the nearest private image, and
    infinite for a copy of it. Arguments and errors are those of :func:`dpmi.metrics.mia_distance`.

    >>> grey, black = torch.full((1, 1, 2, 2), 0.1), torch.zeros(1, 1, 2, 2)
    >>> best_psnr(grey, torch.tensor([0]), black, torch.tensor([0]))
    tensor([20.0000], dtype=torch.float64)
    """
    distances = mia_distance(recons, labels, private_images, private_labels).values
    return -10 * torch.log10(distances.square() / recons[0].numel())


def lpips_network() -> PairDistance:
    """Return LPIPS [Zhang et al., CVPR 2018] with AlexNet, from torchmetrics, for :func:`lpips_distance`.

    Torchmetrics brings the weights of its linear layers, torchvision those of AlexNet. They are not downloaded here.

    Raises:
        ValueError: torchvision's weights of AlexNet are not in torch's cache; the message says how to get them.
    """
    # Imported here because hardly any run needs them.
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity  # noqa: PLC0415
    from torchvision.models import AlexNet_Weights  # noqa: PLC0415

    weights = Path(torch.hub.get_dir()) / "checkpoints" / Path(AlexNet_Weights.DEFAULT.url).name
    if not weights.is_file():
        raise ValueError(
            f"LPIPS needs torchvision's weights of AlexNet, and there is no {weights}; get them with "
            "`python -c \"import torchvision; torchvision.models.alexnet(weights='DEFAULT')\"`"
        )
    return partial(LearnedPerceptualImagePatchSimilarity(net_type="alex").net, normalize=True)


def lpips_distance(
    recons: Tensor,
    labels: Tensor,
    private_images: Tensor,
    private_labels: Tensor,
    *,
    network: PairDistance,
) -> Distances:
    """Return the LPIPS distance of each reconstruction from the private image of its class that looks most like it.

    Args:
        recons: (R, C, H, W) in [0, 1]; grey images become three equal channels.
        labels: int64 (R,), the class that each is meant to show.
        private_images: (N, C, H, W) in [0, 1], the target's training images.
        private_labels: int64 (N,).
        network: as :func:`lpips_network` returns it, loaded once for many calls.

    Raises:
        ValueError: as for :func:`dpmi.metrics.mia_distance`; images of a side below 31, or neither grey nor of three
            channels.
    """
    check_labelled("recons", recons, labels)
    check_labelled("private_images", private_images, private_labels)
    check_shape("recons", recons, private_images)
    channels, height, width = recons.shape[1:]
    if channels not in (1, 3) or min(height, width) < _SMALLEST_SIDE:
        raise ValueError(
            f"LPIPS takes images of 1 or 3 channels and at least {_SMALLEST_SIDE}x{_SMALLEST_SIDE} pixels; "
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
