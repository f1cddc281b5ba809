"""Reads the weights of an official StyleGAN2-ADA pickle without executing any code of the pickle.

Such a file is a pickle of whole networks with their source code, which the published loader executes. This loader
accepts only tensors, numbers, containers and one stand-in class for networks, and refuses any other object.
"""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base import ImageShape
from .network import CLAMP, FILTER, MAPPING_RATE, StyleGenerator

#: Key of the generator for inference in a snapshot.
_GENERATOR = "G_ema"
_FILTER_NAME = "resample_filter"


@dataclass(frozen=True)
class Weights:
    """A generator's parameters and buffers by their official names, and two settings that are not among them.

    Args:
        state: tensors by name, e.g. ``synthesis.b4.const``.
        rate: the mapping network's share of the learning rate, which scales its weights.
        clamp: bound of activations; None means no bound.
    """

    state: Mapping[str, Tensor]
    rate: float = MAPPING_RATE
    clamp: float | None = CLAMP


def load_generator(path: str | Path, image_shape: ImageShape, *, crop: int | None = None) -> StyleGenerator:
    """Return the generator of a file.

    Args:
        path: ``.pkl``: an official pickle, a snapshot with ``G_ema`` or a generator; any other name: a state dict as
            written by ``torch.save``.
        image_shape: (C, H, W) of the generated images.
        crop: see :class:`StyleGenerator`.

    Raises:
        ValueError: the file does not exist; the pickle contains objects other than tensors, numbers, containers and
            networks; there is no generator, or it is conditional, of another architecture or of another number of
            channels.
    """
    path = Path(path)
    try:
        weights = read_pickle(path) if path.suffix == ".pkl" else _read_state(path)
    except OSError as error:
        raise ValueError(f"weights {path} cannot be read: {error.strerror or error}; name a file") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"weights {path} are refused: {str(error).partition(chr(10))[0]}") from error
    try:
        return _assemble(weights, image_shape, crop)
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"weights {path} are not those of a StyleGAN2-ADA generator: {reason}") from error


def read_pickle(path: Path) -> Weights:
    """Return the generator's weights in an official pickle.

    Raises:
        pickle.UnpicklingError: the pickle contains objects other than tensors, numbers, containers and networks.
        ValueError: it contains no generator.
    """
    with path.open("rb") as file:
        content = _Unpickler(file).load()
    network = content.get(_GENERATOR) if isinstance(content, dict) else content
    if not isinstance(network, _Network):
        raise ValueError(f"weights {path} contain no generator {_GENERATOR!r}")
    state = dict(network.tensors())
    mapping = network.part("mapping.fc0").state
    convolution = network.part(f"synthesis.b{_sides(state)[0]}.conv1").state
    return Weights(state, mapping.get("bias_gain", MAPPING_RATE), convolution.get("conv_clamp", CLAMP))


class _Network:
    """Stand-in for a network of the pickle: its attributes without its class."""

    def __init__(self, meta: Mapping[str, Any]) -> None:
        self.state: Mapping[str, Any] = meta["state"]

    def tensors(self, prefix: str = "") -> list[tuple[str, Tensor]]:
        """Return the parameters and buffers of the network and its submodules, by name."""
        own = [
            (prefix + name, value.detach())
            for kind in ("_parameters", "_buffers")
            for name, value in self.state[kind].items()
            if isinstance(value, Tensor)
        ]
        for name, part in self.state["_modules"].items():
            own += part.tensors(f"{prefix}{name}.")
        return own

    def part(self, name: str) -> _Network:
        found = self
        for step in name.split("."):
            found = found.state["_modules"][step]
        return found


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    rebuilt: Tensor = torch._utils._rebuild_tensor(storage, offset, size, stride)  # type: ignore[no-untyped-call]
    return rebuilt


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _storage(content: bytes) -> Any:
    # The original function would unpickle arbitrary objects.
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


class _NumberType:
    """Stand-in for the NumPy type of a number, whose own restoring would trust what the pickle says of it."""

    def __init__(self, name: str, *_: Any) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]", name):
            raise pickle.UnpicklingError(
                f"the pickle has NumPy values of type {name!r}, which are no numbers"
            )
        self.name = name
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _number(kind: _NumberType, content: bytes) -> bool | int | float:
    if len(content) != int(kind.name[1:]):
        raise pickle.UnpicklingError(f"the pickle has {len(content)} bytes for a number of type {kind.name}")
    value: bool | int | float = np.frombuffer(content, dtype=kind.order + kind.name)[0].item()
    return value


class _Unpickler(pickle.Unpickler):
    """Resolves the objects of an official pickle to stand-ins and refuses all others."""

    _KNOWN: Mapping[tuple[str, str], Any] = {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): _Network,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch.storage", "_load_from_bytes"): _storage,
        ("collections", "OrderedDict"): OrderedDict,
        ("dnnlib.util", "EasyDict"): dict,
        ("builtins", "set"): set,
        # Gains are NumPy numbers, because the published code takes square roots with NumPy; NumPy 2 renamed the module.
        ("numpy.core.multiarray", "scalar"): _number,
        ("numpy._core.multiarray", "scalar"): _number,
        ("numpy", "dtype"): _NumberType,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"the pickle refers to {module}.{name}, which is not part of a StyleGAN2-ADA generator"
            ) from None


def _read_state(path: Path) -> Weights:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"weights {path} must contain a state dict; got {type(content).__name__}")
    return Weights(content)


def _assemble(weights: Weights, image_shape: ImageShape, crop: int | None) -> StyleGenerator:
    state = {name: value.float() for name, value in weights.state.items()}
    if "mapping.embed.weight" in state:
        raise ValueError("weights are those of a conditional generator; use an unconditional one")
    row = torch.tensor(FILTER)
    for name in [name for name in state if name.rpartition(".")[2] == _FILTER_NAME]:
        if not torch.allclose(state.pop(name), torch.outer(row, row) / row.sum() ** 2):
            raise ValueError(f"weights must use the filter {FILTER}; {name} is another filter")
    sides = _sides(state)
    colours = len(state[f"synthesis.b{sides[-1]}.torgb.bias"])
    if colours != image_shape[0]:
        raise ValueError(f"weights make images of {colours} channels, the target takes {tuple(image_shape)}")
    with torch.random.fork_rng(
        devices=[]
    ):  # the initial weights are replaced; the caller's generator must not advance
        generator = StyleGenerator(
            image_shape,
            latent_size=state["mapping.fc0.weight"].shape[1],
            style_size=len(state["mapping.w_avg"]),
            mapping_layers=sum(re.fullmatch(r"mapping\.fc\d+\.weight", name) is not None for name in state),
            channels=[len(state[f"synthesis.b{side}.conv1.weight"]) for side in sides],
            base=sides[0],
            rate=weights.rate,
            clamp=weights.clamp,
            crop=crop,
        )
    generator.load_state_dict(state)
    return generator


def _sides(state: Mapping[str, Tensor]) -> list[int]:
    """Return the sides of the blocks, coarse to fine."""
    found = {match[1] for name in state if (match := re.match(r"synthesis\.b(\d+)\.", name))}
    if not found:
        raise KeyError("synthesis.b4")
    return sorted(map(int, found))
