"""Official pickles: the published function in float64, written the slow way, and files that must not be obeyed."""

from __future__ import annotations

import math
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.signal import convolve2d, correlate2d
from torch import Tensor, nn

from dpmi.attacks.priors import Gan, fetch
from dpmi.attacks.priors.style.prior import StylePrior
from dpmi.attacks.priors.style.stylegan2_ada import load_generator

from .official import CHANNELS, CLAMP, FIR, LATENT, Network, official_generator, write

Array = NDArray[np.float64]
SHAPE = (3, 16, 16)


@pytest.fixture
def official() -> Iterator[Callable[..., None]]:
    """Writes pickles as the published code does."""
    yield write
    assert "torch_utils" not in sys.modules


def _leaky(x: Array, clamp: float | None = None) -> Array:
    x = np.where(x > 0, x, 0.2 * x) * math.sqrt(2)
    return x if clamp is None else x.clip(-clamp, clamp)


def _upsample(x: Array, before: int, after: int) -> Array:
    """Zeros between the pixels, zeros around, and the filter, one channel after the other."""
    out = []
    for channel in x:
        wide = np.zeros((2 * len(channel), 2 * len(channel)))
        wide[::2, ::2] = channel
        out.append(convolve2d(np.pad(wide, (before, after)), 4 * FIR, mode="valid"))
    return np.stack(out)


def _modulated(x: Array, weight: Array, style: Array, *, demodulate: bool, up: bool) -> Array:
    """One image, with a kernel of its own."""
    kernel = weight * style[None, :, None, None]
    if demodulate:
        kernel /= np.sqrt((kernel**2).sum(axis=(1, 2, 3), keepdims=True) + 1e-8)
    apply = convolve2d if up else correlate2d  # the published upsampling turns the kernel round
    pad = kernel.shape[-1] // 2
    x = _upsample(x, 3, 2) if up else np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    return np.stack([sum(apply(c, k, mode="valid") for c, k in zip(x, row, strict=True)) for row in kernel])


def _published(state: dict[str, Tensor], z: Array, psi: float, cutoff: int) -> Array:
    """The image (3, 16, 16) of one latent, about [-1, 1], as StyleGAN2-ADA's networks.py describes it."""
    s = {name: value.detach().double().numpy() for name, value in state.items()}

    def affine(name: str, w: Array) -> Array:
        return s[f"{name}.affine.weight"] @ w / math.sqrt(len(w)) + s[f"{name}.affine.bias"]

    w = z / np.sqrt((z**2).mean() + 1e-8)
    for layer in ("mapping.fc0", "mapping.fc1"):
        w = _leaky(s[f"{layer}.weight"] @ w * 0.01 / math.sqrt(len(w)) + 0.01 * s[f"{layer}.bias"])
    near = s["mapping.w_avg"] + psi * (w - s["mapping.w_avg"])
    styles = [near if number < cutoff else w for number in range(2 * len(CHANNELS))]
    x, image, position = s["synthesis.b4.const"], np.zeros(0), 0
    for side, channels in CHANNELS.items():
        block = f"synthesis.b{side}"
        for layer in [f"{block}.conv1"] if side == 4 else [f"{block}.conv0", f"{block}.conv1"]:
            up = layer.endswith("conv0")
            style = affine(layer, styles[position])
            x = _modulated(x, s[f"{layer}.weight"], style, demodulate=True, up=up)
            x = x + s[f"{layer}.noise_const"] * s[f"{layer}.noise_strength"]
            x = _leaky(x + s[f"{layer}.bias"][:, None, None], CLAMP)
            position += 1
        style = affine(f"{block}.torgb", styles[position]) / math.sqrt(channels)
        rgb = _modulated(x, s[f"{block}.torgb.weight"], style, demodulate=False, up=False)
        rgb = (rgb + s[f"{block}.torgb.bias"][:, None, None]).clip(-CLAMP, CLAMP)
        image = rgb if side == 4 else _upsample(image, 2, 1) + rgb
    return image


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("snapshot", [True, False])
def test_official_weights_give_the_published_function(
    official: Callable[..., None], tmp_path: Path, protocol: int, snapshot: bool
) -> None:
    network = official_generator()
    official(tmp_path / "g.pkl", {"G": None, "D": None, "G_ema": network} if snapshot else network, protocol)
    generator = load_generator(tmp_path / "g.pkl", SHAPE)
    z = torch.randn(2, LATENT, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = generator.synthesis(generator.mapping(z, psi=0.6, cutoff=3)).rgb
    assert found is not None
    for image, latent in zip(found, z.double().numpy(), strict=True):
        expected = _published(network.state_dict(), latent, psi=0.6, cutoff=3)
        np.testing.assert_allclose(image.numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numbers_of_either_numpy_are_read(
    official: Callable[..., None], tmp_path: Path, module: bytes
) -> None:
    """The published files were written with NumPy 1, which had another name for the module."""
    network, path = official_generator(), tmp_path / "g.pkl"
    for layer in (network.mapping.fc0, network.mapping.fc1):
        layer.bias_gain = np.float64(0.02)
    official(path, network)
    assert path.read_bytes().count(b"cnumpy._core.multiarray\n") == 1
    path.write_bytes(path.read_bytes().replace(b"cnumpy._core.multiarray\n", b"c" + module + b"\n"))
    assert load_generator(path, SHAPE).mapping.fc0.rate == 0.02


@pytest.mark.parametrize(
    "number", [np.float64(0.3), np.float32(-2.5), np.int64(2**40), np.uint8(200), np.bool_(True)]
)
def test_a_number_keeps_its_value(official: Callable[..., None], tmp_path: Path, number: np.generic) -> None:
    network = official_generator()
    network.synthesis.b4.conv1.conv_clamp = number
    official(tmp_path / "g.pkl", network)
    assert load_generator(tmp_path / "g.pkl", SHAPE).synthesis.b4.conv1.clamp == number


def test_a_number_of_the_other_byte_order_is_read(official: Callable[..., None], tmp_path: Path) -> None:
    network, path = official_generator(), tmp_path / "g.pkl"
    network.synthesis.b4.conv1.conv_clamp = np.float32(-2.5)
    official(path, network)
    whole, little = path.read_bytes(), np.float32(-2.5).tobytes()
    of_type, other = b"X\x01\x00\x00\x00<", b"X\x01\x00\x00\x00>"
    assert whole.count(b"C\x04" + little) == 1
    before, _, after = whole.replace(b"C\x04" + little, b"C\x04" + little[::-1]).rpartition(of_type)
    path.write_bytes(before + other + after)
    assert load_generator(path, SHAPE).synthesis.b4.conv1.clamp == -2.5


def test_numpy_values_that_are_no_numbers_are_refused(official: Callable[..., None], tmp_path: Path) -> None:
    network = official_generator()
    network.extra = np.datetime64("2020-01-01")
    official(tmp_path / "g.pkl", network)
    with pytest.raises(ValueError, match=r"refused.*type 'M8', which are no numbers"):
        load_generator(tmp_path / "g.pkl", SHAPE)
    network.extra = np.float64(1.0)
    official(tmp_path / "g.pkl", network)
    whole = (tmp_path / "g.pkl").read_bytes()
    # The number 1.0, cut to four bytes.
    one = b"C\x08" + np.float64(1.0).tobytes()
    assert whole.count(one) == 1
    (tmp_path / "g.pkl").write_bytes(whole.replace(one, b"C\x04" + one[-4:]))
    with pytest.raises(ValueError, match=r"refused.*4 bytes for a number of type f8"):
        load_generator(tmp_path / "g.pkl", SHAPE)


def test_state_dict_gives_what_the_pickle_gives(official: Callable[..., None], tmp_path: Path) -> None:
    """But for the bound of the activations, which is no part of it: 256 is far away, and CLAMP is not."""
    network = official_generator()
    for layer in (m for m in network.modules() if hasattr(m, "conv_clamp")):
        layer.conv_clamp = 256
    official(tmp_path / "g.pkl", network)
    torch.save(network.state_dict(), tmp_path / "g.pt")
    pickled, saved = (load_generator(tmp_path / name, SHAPE) for name in ("g.pkl", "g.pt"))
    z = torch.randn(2, LATENT)
    assert torch.equal(pickled(z), saved(z))


def test_images_are_cropped_and_resized(official: Callable[..., None], tmp_path: Path) -> None:
    official(tmp_path / "g.pkl", official_generator())
    z = torch.randn(3, LATENT)
    whole = load_generator(tmp_path / "g.pkl", SHAPE)(z)
    assert whole.min() >= 0
    assert whole.max() <= 1
    cropped = load_generator(tmp_path / "g.pkl", (3, 8, 8), crop=8)(z)
    torch.testing.assert_close(cropped, whole[:, :, 4:12, 4:12])
    assert load_generator(tmp_path / "g.pkl", (3, 10, 10))(z).shape == (3, 3, 10, 10)
    with pytest.raises(ValueError, match="crop must be at most the 16 pixels"):
        load_generator(tmp_path / "g.pkl", SHAPE, crop=20)


def test_prior_takes_the_weights_and_trains_nothing(official: Callable[..., None], tmp_path: Path) -> None:
    network = official_generator()
    official(tmp_path / "g.pkl", network)
    gan = fetch(
        StylePrior(weights=str(tmp_path / "g.pkl")),
        public=torch.rand(0, *SHAPE),
        target=None,
        image_shape=SHAPE,
        num_classes=2,
        folder=None,
        progress=lambda done, total: None,
    )
    assert isinstance(gan, Gan)
    own = gan.generator.state_dict()
    given = {name: value for name, value in network.state_dict().items() if "filter" not in name}
    assert own.keys() == given.keys()
    assert all(torch.equal(own[name], given[name]) for name in own)


class _Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def test_code_in_a_pickle_is_refused_and_not_run(official: Callable[..., None], tmp_path: Path) -> None:
    network = official_generator()
    network.extra = _Evil(tmp_path / "marker")
    official(tmp_path / "g.pkl", {"G_ema": network})
    with pytest.raises(ValueError, match=rf"refers to {os.name}\.system"):
        load_generator(tmp_path / "g.pkl", SHAPE)
    assert not (tmp_path / "marker").exists()


def test_code_in_a_tensor_of_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    """A tensor's storage is a pickle within the pickle."""
    torch.save(_Evil(tmp_path / "marker"), tmp_path / "inner", _use_new_zipfile_serialization=False)

    class Storage:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch.storage._load_from_bytes, ((tmp_path / "inner").read_bytes(),)

    (tmp_path / "g.pkl").write_bytes(pickle.dumps({"G_ema": Storage()}))
    with pytest.raises(ValueError, match=r"refused"):
        load_generator(tmp_path / "g.pkl", SHAPE)
    assert not (tmp_path / "marker").exists()


def test_refuses_what_is_no_generator(official: Callable[..., None], tmp_path: Path) -> None:
    path = tmp_path / "g.pkl"
    with pytest.raises(ValueError, match="cannot be read"):
        load_generator(path, SHAPE)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="no generator 'G_ema'"):
        load_generator(path, SHAPE)
    path.write_bytes(b"not a pickle")
    with pytest.raises(ValueError, match="refused"):
        load_generator(path, SHAPE)
    official(path, official_generator(conditional=True))
    with pytest.raises(ValueError, match="conditional generator"):
        load_generator(path, SHAPE)
    official(path, official_generator())
    with pytest.raises(ValueError, match=r"3 channels, the target takes \(1, 16, 16\)"):
        load_generator(path, (1, 16, 16))
    odd = official_generator()
    odd.synthesis.b8.skip = Network(weight=nn.Parameter(torch.zeros(2)))
    official(path, odd)
    with pytest.raises(ValueError, match=r"not those of a StyleGAN2-ADA generator.*b8\.skip"):
        load_generator(path, SHAPE)
    other = official_generator()
    other.synthesis.b8.resample_filter += 0.1
    official(path, other)
    with pytest.raises(ValueError, match=r"is another filter"):
        load_generator(path, SHAPE)
