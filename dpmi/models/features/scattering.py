"""The scattering transform: wavelet coefficients that barely change under small deformations; nothing is trained.

The transform is that of [BM13]; [TB21] train private linear models on it. Filters, padding and subsampling are those of
kymatio, to which the tests compare it; kymatio's torch module does not import beside current versions of scipy.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .extractor import Extractor, ImageShape, Provenance

ANGLES = 8
"""Orientations of the wavelets, L."""


class Scattering(nn.Module):
    """The scattering transform of orders 0 to 2; it maps images (n, C, H, W) to coefficients (n, d).

    Every channel gives 1 + L J + L^2 J (J - 1) / 2 maps, each averaged over 2^J x 2^J pixels.

    Args:
        image_shape: (C, H, W), H and W above 2^J.
        scales: J, at least 1.

    Raises:
        ValueError: the image is smaller than the window of the average.

    >>> Scattering((1, 28, 28), scales=2)(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 3969])
    """

    def __init__(self, image_shape: ImageShape, scales: int = 2) -> None:
        super().__init__()
        _, *sides = image_shape
        most = int(math.log2(min(sides) - 1))  # the padding by reflection is at most the side
        if not 1 <= scales <= most:
            raise ValueError(
                f"scales must be from 1 to {most}, because images {tuple(image_shape)} must be larger than the window "
                f"2^scales; got {scales}"
            )
        self.scales = scales
        window = 2**scales
        size = [((side + window) // window + 1) * window for side in sides]
        self._padding = [(padded - side) // 2 for padded, side in zip(size, sides, strict=True)]
        self._padding += [(padded - side + 1) // 2 for padded, side in zip(size, sides, strict=True)]
        averages = _spectrum(_gabor(size, 0.8 * 2 ** (scales - 1), 0.0, 0.0, 1.0))
        for level in range(scales):
            self.register_buffer(f"average{level}", _at(averages, level))
        for scale in range(scales):
            wavelets = torch.stack([_spectrum(_morlet(size, scale, k)) for k in range(ANGLES)])
            for level in range(scale + 1):
                self.register_buffer(f"wavelets{scale}_{level}", _at(wavelets, level))

    def forward(self, images: Tensor) -> Tensor:
        """Return the coefficients (n, d), map by map."""
        top, left, bottom, right = self._padding
        padded = functional.pad(images, (left, right, top, bottom), mode="reflect")
        spectrum = torch.fft.fft2(padded)
        maps = [self._averaged(spectrum, 0)[:, :, None]]
        for first in range(self.scales):
            modulus = self._moduli(spectrum, first, 0)  # (n, C, L, h, w)
            maps.append(self._averaged(modulus, first))
            for second in range(first + 1, self.scales):
                found = self._averaged(self._moduli(modulus, second, first), second)
                maps.append(found.flatten(2, 3))
        return torch.cat(maps, dim=2).flatten(1)

    def _moduli(self, spectrum: Tensor, scale: int, level: int) -> Tensor:
        """Return the spectra of the moduli of all wavelets of a scale, subsampled to it, with an axis for angles."""
        filtered = spectrum[..., None, :, :] * self.get_buffer(f"wavelets{scale}_{level}")
        moduli: Tensor = torch.fft.fft2(torch.fft.ifft2(_subsampled(filtered, scale - level)).abs())
        return moduli

    def _averaged(self, spectrum: Tensor, level: int) -> Tensor:
        """Average over the window, subsample, and cut the padding off."""
        smooth = _subsampled(spectrum * self.get_buffer(f"average{level}"), self.scales - level)
        averages: Tensor = torch.fft.ifft2(smooth).real
        return averages[..., 1:-1, 1:-1]


def scattering(image_shape: ImageShape, scales: int = 2) -> Extractor:
    """Return the scattering transform as an extractor; it needs no public images.

    Args:
        image_shape: (C, H, W) of the images.
        scales: J, at least 1; the coefficients are averages over 2^J x 2^J pixels.

    Raises:
        ValueError: the image is smaller than the window of the average.

    >>> scattering((1, 28, 28)).size  # 81 maps of 7 x 7
    3969
    """
    return Extractor(Scattering(image_shape, scales), image_shape=image_shape, provenance=Provenance())


def _subsampled(spectrum: Tensor, octaves: int) -> Tensor:
    """Return the spectrum of a signal of which every 2^octaves-th value is kept on both axes."""
    step = 2**octaves
    *batch, height, width = spectrum.shape
    folded = spectrum.reshape(*batch, step, height // step, step, width // step)
    return folded.mean(dim=(-4, -2))


def _at(spectrum: Tensor, octaves: int) -> Tensor:
    """Return real filters (..., H, W) for signals that are subsampled by 2^octaves: their low frequencies."""
    for axis in (-2, -1):
        size = spectrum.shape[axis]
        kept = torch.ones(size)
        start = int(size * 2.0 ** (-octaves - 1))
        kept[start : start + int(size * (1 - 2.0**-octaves))] = 0
        spectrum = spectrum * (kept[:, None] if axis == -2 else kept)
    step = 2**octaves
    *batch, height, width = spectrum.shape
    return spectrum.reshape(*batch, step, height // step, step, width // step).sum(dim=(-4, -2))


def _spectrum(signal: Tensor) -> Tensor:
    """Return the Fourier transform of a Hermitian signal, which is real."""
    transform: Tensor = torch.fft.fft2(signal)
    return transform.real.float()


def _morlet(size: list[int], scale: int, angle: int) -> Tensor:
    """Return a Morlet wavelet, complex128 (H, W): a Gabor function without its mean."""
    width = 0.8 * 2**scale
    turned = (ANGLES // 2 - 1 - angle) * math.pi / ANGLES
    wave = _gabor(size, width, turned, 0.75 * math.pi / 2**scale, 4.0 / ANGLES)
    envelope = _gabor(size, width, turned, 0.0, 4.0 / ANGLES)
    return wave - wave.sum() / envelope.sum() * envelope


def _gabor(size: list[int], width: float, angle: float, frequency: float, slant: float) -> Tensor:
    """Return a Gabor function, complex128 (H, W): a wave under an elliptic Gaussian, wrapped around the borders."""
    height, side = size
    y = torch.arange(-2 * height, 3 * height, dtype=torch.float64)[:, None]
    x = torch.arange(-2 * side, 3 * side, dtype=torch.float64)
    along = math.cos(angle) * y + math.sin(angle) * x
    across = -math.sin(angle) * y + math.cos(angle) * x
    exponent = -(along**2 + (slant * across) ** 2) / (2 * width**2)
    values = torch.polar(exponent.exp(), frequency * along)
    wrapped = values.reshape(5, height, 5, side).sum(dim=(0, 2))
    return wrapped * slant / (2 * math.pi * width**2)
