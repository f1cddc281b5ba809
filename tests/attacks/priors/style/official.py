"""Pickles of StyleGAN2-ADA generators as the published code writes them, with random weights."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

LATENT, STYLE = 6, 5
CHANNELS = {4: 7, 8: 6, 16: 4}
CLAMP = 2.5  # low enough to be met

FIR = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64


def _reconstruct(meta: dict[str, Any]) -> None:
    raise AssertionError("the published loader runs the source code in the file")


class EasyDict(dict[str, Any]):
    """The class of the published dictionaries."""


_reconstruct.__module__, _reconstruct.__qualname__ = "torch_utils.persistence", "_reconstruct_persistent_obj"
EasyDict.__module__, EasyDict.__qualname__ = "dnnlib.util", "EasyDict"

_FAKES = {
    name: ModuleType(name) for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")
}
_FAKES["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct  # type: ignore[attr-defined]
_FAKES["dnnlib.util"].EasyDict = EasyDict  # type: ignore[attr-defined]


def write(path: Path, content: object, protocol: int = 3) -> None:
    """Write a pickle as the published code does; its modules are there for the writing alone."""
    with pytest.MonkeyPatch.context() as patch:
        for name, module in _FAKES.items():
            patch.setitem(sys.modules, name, module)
        path.write_bytes(pickle.dumps(content, protocol=protocol))


class Network(nn.Module):
    """A module that pickles as one of the published code does: its source, and its attributes.

    Gains among the attributes are NumPy numbers, as there.
    """

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        source = "raise SystemExit('the source in the pickle was run')"
        meta = {"type": "class", "version": 6, "module_src": source, "class_name": "Generator"}
        return _reconstruct, ({**meta, "state": dict(self.__dict__)},)


def official_generator(
    *,
    channels: Mapping[int, int] = CHANNELS,
    latent: int = LATENT,
    style: int = STYLE,
    layers: int = 2,
    clamp: float = CLAMP,
    conditional: bool = False,
) -> Network:
    """Random weights of an official generator, named as there.

    Args:
        channels: channels of the block of each side.
        latent, style: lengths of z and of w.
        layers: of the mapping network.
        clamp: bound of the activations.
        conditional: whether it has an embedding of classes.
    """
    random = torch.Generator().manual_seed(1)

    def parameter(*shape: int) -> nn.Parameter:
        return nn.Parameter(torch.randn(shape, generator=random))

    def dense(inputs: int, outputs: int, rate: float = 1.0) -> Network:
        return Network(
            weight=parameter(outputs, inputs),
            bias=parameter(outputs),
            bias_gain=rate,
            weight_gain=rate / np.sqrt(inputs),
        )

    def convolution(inputs: int, outputs: int, side: int) -> Network:
        layer = Network(
            affine=dense(style, inputs),
            weight=parameter(outputs, inputs, 3, 3),
            bias=parameter(outputs),
            noise_strength=parameter(),
            conv_clamp=clamp,
            act_gain=np.sqrt(2),
        )
        layer.register_buffer("resample_filter", torch.tensor(FIR).float())
        layer.register_buffer("noise_const", torch.randn(side, side, generator=random))
        return layer

    synthesis, previous = Network(), 0
    for side, own in channels.items():
        block = Network(
            torgb=Network(
                affine=dense(style, own),
                weight=parameter(3, own, 1, 1),
                bias=parameter(3),
                weight_gain=1 / np.sqrt(own),
            )
        )
        block.register_buffer("resample_filter", torch.tensor(FIR).float())
        if previous:
            block.conv0 = convolution(previous, own, side)
        else:
            block.const = parameter(own, side, side)
        block.conv1 = convolution(own, own, side)
        synthesis.add_module(f"b{side}", block)
        previous = own
    mapping = Network()
    for number in range(layers):
        layer = dense(style if number else latent, style, 0.01)
        layer.weight.data /= 0.01
        setattr(mapping, f"fc{number}", layer)
    if conditional:
        mapping.embed = dense(10, latent)
    mapping.register_buffer("w_avg", torch.randn(style, generator=random))
    return Network(mapping=mapping, synthesis=synthesis)
