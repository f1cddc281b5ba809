"""Baselines: the MIA distances of images that an attacker obtains without the model.

A reconstruction that is not closer than these baselines reveals nothing about the model. A small distance alone means
little: a black image is close to a class of thin strokes, a grey image is close to any face in 1 - SSIM, and a pale
mean of other people's digits is closer to most digits than an unseen digit of their own class.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpmi.data.lazy import Images, at_once, blocks, mean_image, shape_of, taken

from .distance import Kind, check_images, check_kind, check_labelled, check_shape, class_members, mia_distance
from .ssim import C2, LocalMoments, ssim_pairs

#: Grey levels of blank images. Attacks start from these images, so an unchanged start must not have an advantage.
BLANK_LEVELS = (0.0, 0.5)

#: Factors on the mean public image; the attacker selects one with public images alone. On MNIST, the factor 0.5 brings
#: the mean of the digits 5 to 9 closest to one of them, and closer to the private 0 to 4 than an unseen 2, 3 or 4.
BRIGHTNESSES = tuple(tenths / 10 for tenths in range(1, 21))

#: Maximum number of public images for the selection of the factor, evenly spaced.
_CHOSEN_BY = 2000

#: Number of best-ranked pairs of a public and a private image whose distance is computed exactly.
CANDIDATES = 64

#: Maximum number of public images times pixels, and of private images, in memory: about 100 MiB.
_CHUNK = 2**22
_PRIVATE_CHUNK = 4096

#: Number of values of private images that are ranked at once: 64 MiB.
_RANKED = 2**24


@dataclass(frozen=True, eq=False)
class Baselines:
    """MIA distances of three images that need no model; float64 (R,), one per class.

    Args:
        blank: distance of a black or a mid-grey image, whichever is closer to the class.
        public_mean: distance of the mean public image, unchanged or scaled by the one of the :data:`BRIGHTNESSES` that
            brings it closest to a public image, whichever is closer to the class; NaN without public images.
        public_nearest: distance of the public image that is closest to a private image of the class. The selection
            needs the private images, so this is an ORACLE that no attacker has: a lower bound for any public image.
            NaN without public images.
    """

    blank: Tensor
    public_mean: Tensor
    public_nearest: Tensor


def baselines(
    labels: Tensor,
    private_images: Images,
    private_labels: Tensor,
    public_images: Images,
    *,
    kind: Kind = "euclidean",
) -> Baselines:
    """Return the baselines for each class of ``labels``.

    ``public_nearest`` ranks all pairs of a public and a private image by one matrix product, and computes the exact
    distance of the :data:`CANDIDATES` best pairs. For ``euclidean`` the ranking is that of the distance. For ``ssim``
    it uses contrast and structure without luminance; the result is the distance of an actual pair and an upper bound of
    the oracle's distance.

    Args:
        labels: int64 (R,), the classes.
        private_images: (N, C, H, W) in [0, 1], the target's training images.
        private_labels: int64 (N,).
        public_images: (M, C, H, W) in [0, 1], the attacker's public images; M may be 0.
        kind: as for :func:`dpmi.metrics.mia_distance`.

    Raises:
        ValueError: as for :func:`dpmi.metrics.mia_distance`.
    """
    check_labelled("private_images", private_images, private_labels)
    check_shape("public_images", public_images, private_images)
    check_kind(kind)

    def nearest_of(*images: Tensor) -> Tensor:
        """Return, for each class, the smallest distance of these images (C, H, W)."""
        each = []
        for image in images:
            handed_in = image.expand(len(labels), *image.shape)
            each.append(mia_distance(handed_in, labels, private_images, private_labels, kind=kind).values)
        return torch.stack(each).amin(dim=0)

    blank = nearest_of(*(torch.full(shape_of(private_images), level) for level in BLANK_LEVELS))

    if len(public_images) == 0:
        unknown = torch.full((len(labels),), torch.nan, dtype=torch.float64)
        return Baselines(blank=blank, public_mean=unknown, public_nearest=unknown.clone())
    check_images("public_images", public_images)
    mean = mean_image(public_images).to(private_images.dtype).clamp(0, 1)
    return Baselines(
        blank=blank,
        public_mean=nearest_of(mean, at_best_brightness(mean, public_images, kind=kind)),
        public_nearest=_nearest_public(labels, private_images, private_labels, public_images, kind),
    )


def at_best_brightness(image: Tensor, public_images: Images, *, kind: Kind = "euclidean") -> Tensor:
    """Return the multiple of an image (C, H, W) that is closest to one of the public images.

    Args:
        image: in [0, 1].
        public_images: (M, C, H, W) in [0, 1], M at least 1; at most 2,000 of them are used.
        kind: as for :func:`dpmi.metrics.mia_distance`.
    """
    factors = image.new_tensor(BRIGHTNESSES).view(-1, 1, 1, 1)
    candidates = (factors * image).clamp(0, 1)
    some = taken(public_images, torch.arange(0, len(public_images), -(-len(public_images) // _CHOSEN_BY)))
    one_class = torch.zeros(max(len(candidates), len(some)), dtype=torch.int64)
    found = mia_distance(candidates, one_class[: len(candidates)], some, one_class[: len(some)], kind=kind)
    return candidates[found.values.argmin()]


def _nearest_public(
    labels: Tensor, private_images: Images, private_labels: Tensor, public_images: Images, kind: Kind
) -> Tensor:
    rank, measure = (_structure, _ssim) if kind == "ssim" else (_euclidean_rank, _euclidean)
    best = dict.fromkeys(labels.tolist(), float("inf"))
    members = {label: class_members(private_labels, label) for label in best}
    for public in blocks(public_images, at_once(public_images, _CHUNK)):
        ranked = rank(public)
        for label, of_class in members.items():
            for rows in torch.split(of_class, _PRIVATE_CHUNK):
                private = taken(private_images, rows)
                parts = (rank(part) for part in blocks(private, at_once(private, _RANKED)))
                scores = torch.cat([_scores(*ranked, *part) for part in parts], dim=1)
                pairs = scores.flatten().topk(min(CANDIDATES, scores.numel())).indices
                distance = measure(public[pairs // len(private)], private[pairs % len(private)])
                best[label] = min(best[label], float(distance.min()))
    return torch.tensor([best[label] for label in labels.tolist()], dtype=torch.float64)


def _scores(features: Tensor, offset: Tensor, private_features: Tensor, private_offset: Tensor) -> Tensor:
    return torch.addmm(private_offset, features, private_features.T) + offset[:, None]


def _euclidean_rank(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return features and offsets with a . b + offset_a + offset_b = -||a - b||^2 / 2."""
    flat = images.flatten(1).float()
    return flat, -(flat * flat).sum(dim=1) / 2


def _euclidean(first: Tensor, second: Tensor) -> Tensor:
    return (first.double() - second.double()).square().sum(dim=(1, 2, 3)).sqrt()


def _structure(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return features whose product approximates SSIM's second factor: no blur, a geometric mean as denominator."""
    moments = LocalMoments.of(images)
    deviation = (moments.variance + C2 / 2).sqrt()
    features = torch.stack([(images.float() - moments.mean) / deviation, (C2 / 2) ** 0.5 / deviation], dim=1)
    return features.flatten(1), images.new_zeros(len(images))


def _ssim(first: Tensor, second: Tensor) -> Tensor:
    return 1 - ssim_pairs(first, second)
