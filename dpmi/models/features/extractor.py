"""Extractors: frozen modules that map images to features, and where they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dpmi.data import Images

from ..anatomy import replace
from ..modes import in_batches

ImageShape = tuple[int, int, int]

BATCH = 32
"""Images of one pass without gradients: a large network at 224 pixels takes 10 to 20 MB for each."""

ROUNDING = 0.02
"""Largest difference, in units of the largest feature, that rounding explains; bfloat16 has steps of 0.008."""


@dataclass(frozen=True)
class Provenance:
    """What an extractor was trained on.

    Args:
        trained_on: its training images, in words that finish "an extractor trained on ..."; empty if it was not
            trained at all.
        images: digest of each training image, from :func:`dpmi.data.images.digests`; None if they are not at hand, so
            that nobody can check that no private image is among them.
        account: the privacy account of its own training (``engine.account``) if that used private records; None if it
            used none.

    Raises:
        TypeError: ``account`` is no account.

    >>> Provenance("ImageNet", images=None).sentence.partition("; ")[2]
    'its training images are not at hand, so nobody checked that no private image is among them.'
    >>> Provenance().sentence
    'The features are a fixed function of the image, without trained parameters.'
    """

    trained_on: str = ""
    images: frozenset[bytes] | None = frozenset()
    account: Any = None

    def __post_init__(self) -> None:
        if self.account is not None and not hasattr(self.account, "partition_hash"):
            raise TypeError(
                "account must be a dpmi.privacy.Account, such as engine.account after the extractor's training; got "
                f"{self.account!r}"
            )

    @property
    def sentence(self) -> str:
        """One sentence for a privacy statement."""
        if not self.trained_on:
            return "The features are a fixed function of the image, without trained parameters."
        if self.account is not None:
            return (
                f"The features come from an extractor trained on {self.trained_on}, which are private; the account of "
                "that training must be among the accounts of this statement."
            )
        checked = (
            "no private image is among them"
            if self.images is not None
            else "its training images are not at hand, so nobody checked that no private image is among them"
        )
        return f"The features come from a frozen extractor trained on {self.trained_on}; {checked}."


class Extractor(nn.Module):
    """A frozen extractor: it maps images (n, C, H, W) in [0, 1] to features (n, d), each image by itself.

    It is frozen by structure: its weights are buffers, which no optimizer trains, and it always stays in evaluation
    mode. Gradients with respect to the images pass through it, as an attacker needs.

    Args:
        body: maps images to features.
        image_shape: (C, H, W) of its images.
        provenance: what it was trained on.

    Raises:
        ValueError: the body does not accept such images, its output is not finite features (n, d), or the features of
            one image change with the images beside it.

    >>> body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten())
    >>> extractor = Extractor(body, image_shape=(1, 8, 8), provenance=Provenance("drawings of mine"))
    >>> extractor.size, extractor.extract(torch.rand(5, 1, 8, 8)).shape, list(extractor.parameters())
    (144, torch.Size([5, 144]), [])
    """

    def __init__(self, body: nn.Module, *, image_shape: ImageShape, provenance: Provenance) -> None:
        super().__init__()
        self.body = _frozen(body)
        channels, height, width = image_shape
        self.image_shape = (channels, height, width)
        self.provenance = provenance
        images = torch.rand(2, *image_shape, generator=torch.Generator().manual_seed(0))
        images[1] /= 2  # as different as two images are in what a batch may be divided by
        try:
            with torch.no_grad():
                found = self.body(images)
        except Exception as error:  # a module of the user may raise anything
            raise ValueError(
                f"the extractor does not accept images of shape {self.image_shape}: {error}; choose one for this size, "
                "or resize the images"
            ) from error
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 2:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"an extractor must map images (n, C, H, W) to features (n, d); this one maps two images to {shape}"
            )
        check_finite(found)
        self._vectorized = self._check_each(images, found)
        self.size = int(found.shape[1])

    def forward(self, images: Tensor) -> Tensor:
        """Return the features (n, d)."""
        if torch.is_grad_enabled():
            features: Tensor = self.body(images)
            return features
        return torch.cat([self.body(part) for part in torch.split(images, BATCH)])

    def each(self, images: Tensor) -> Tensor:
        """Return the features (n, d) of images none of which can see another, whatever the body does with a batch.

        The privacy of what is trained on features rests on this: features of one record that depend on others would
        carry them past the clipping. So the body gets one image, for all images at once where ``torch.func.vmap`` can
        do that, and else one after another, which is slower.
        """
        if self._vectorized:
            found: Tensor = torch.func.vmap(self._of_one, chunk_size=BATCH)(images)
            return found
        return torch.stack([self._of_one(image) for image in images])

    def _of_one(self, image: Tensor) -> Tensor:
        features: Tensor = self.body(image[None])[0]
        return features

    def _check_each(self, images: Tensor, together: Tensor) -> bool:
        """Refuse a body whose features of an image change with its neighbours; return whether vmap can run it."""
        with torch.no_grad():
            alone = torch.stack([self._of_one(image) for image in images])
            try:
                vectorized = _close(torch.func.vmap(self._of_one)(images), alone)
            except Exception:  # what vmap cannot trace raises errors of many classes
                vectorized = False
        if not _close(together, alone):
            raise ValueError(
                "the extractor gives an image other features beside another image than alone, or others in every call; "
                "its features of one record would tell about others. Take a module without statistics of the batch and "
                "without chance, such as GroupNorm in place of BatchNorm"
            )
        return vectorized

    def train(self, mode: bool = True) -> Extractor:
        """Stay in evaluation mode: statistics of BatchNorm and dropout are fixed."""
        del mode
        return super().train(False)

    @property
    def digest(self) -> str:
        """SHA-256 of architecture and weights."""
        found = hashlib.sha256(repr(self.body).encode())
        for name, value in self.body.state_dict().items():
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()

    def check_private(self, digests: Iterable[bytes]) -> None:
        """Refuse private images among the training images, unless the extractor has an account of its own.

        Args:
            digests: of the private images, from :func:`dpmi.data.images.digests`.

        Raises:
            ValueError: a private image trained the extractor.
        """
        if self.provenance.images is None or self.provenance.account is not None:
            return
        shared = sum(digest in self.provenance.images for digest in digests)
        if shared:
            raise ValueError(
                f"{shared} of the private images trained the extractor ({self.provenance.trained_on}), so its features "
                "would release them without noise; take an extractor that saw none of them, or give the account of "
                "its private training as Provenance.account, and to Statement together with that of the head"
            )

    def extract(self, images: Images) -> Tensor:
        """Return the features (n, d) of many images, each by itself (:meth:`each`), in batches, without gradients.

        Raises:
            ValueError: a feature is not finite.
        """
        found = in_batches(self.each, images)
        check_finite(found)
        return found

    def extra_repr(self) -> str:
        """Return the shapes for ``repr``."""
        return f"image_shape={self.image_shape}"


def _close(found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).abs().max()) <= ROUNDING * float(expected.abs().max())


def mirrored(extractor: Extractor) -> Extractor:
    """Return the extractor whose features are the mean of those of an image and of its mirror image.

    It is for photographs, whose mirror image shows the same: left and right are no longer two things to learn.

    >>> from dpmi.models.features import mirrored, scattering
    >>> faces = mirrored(scattering((1, 16, 12)))
    >>> image = torch.rand(1, 1, 16, 12)
    >>> torch.allclose(faces(image), faces(image.flip(-1)), atol=1e-6)
    True
    """
    return Extractor(
        _Mirrored(extractor.body), image_shape=extractor.image_shape, provenance=extractor.provenance
    )


class _Mirrored(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = (self.body(images) + self.body(images.flip(-1))) / 2
        return features


class FixedBatchNorm(nn.Module):
    """What BatchNorm computes in evaluation mode: a fixed scale and shift of each channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError(
                "a BatchNorm layer of the extractor has no running statistics, so its features of one image depend on "
                "the others; use GroupNorm, or train it with track_running_stats=True"
            )
        scale = (norm.running_var + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight.detach()
        shift = -norm.running_mean * scale
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift if norm.bias is None else shift + norm.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized (n, C, ...)."""
        shape = (1, -1, *[1] * (x.ndim - 2))
        return x * self.scale.view(shape) + self.shift.view(shape)


def _frozen(body: nn.Module) -> nn.Module:
    """Turn the parameters of a module into buffers, and BatchNorm into its fixed form, in place."""
    for name, module in list(body.named_modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if not name:
                return _frozen(nn.Sequential(FixedBatchNorm(module)))
            replace(body, name, FixedBatchNorm(module))
    for module in body.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach())
    return body.eval()


def check_finite(features: Tensor) -> None:
    """Raise a ValueError if a feature of an image is NaN or infinite.

    Args:
        features: (n, d).
    """
    wrong = ~features.isfinite().all(dim=1)
    if wrong.any():
        raise ValueError(
            f"{int(wrong.sum())} of {len(features)} images have a feature that is NaN or infinite; check the "
            "extractor's weights and the range of the images, which is [0, 1]"
        )
