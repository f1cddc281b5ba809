"""TensorFlow.js graph models in torch, with gradients: the operations of a convolutional network, and no others.

The format is that of the TensorFlow.js converter: a JSON file with nodes (``modelTopology``) and a list of weights
(``weightsManifest``), whose values are in binary files beside it. Activations have TensorFlow's axes (n, H, W, C).
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Node = dict[str, Any]

_DTYPES = {"float32": "<f4", "int32": "<i4"}


class GraphModel(nn.Module):
    """One output of a TensorFlow.js graph model, and the part of the graph that it depends on.

    Args:
        path: the JSON file; its binary files are in the same folder.
        output: name of the node whose value :meth:`forward` returns.

    Attributes:
        input_shape: (H, W, C) of the only input.

    Raises:
        ValueError: a file is missing, damaged or no such model, the graph has no such node, or the output needs an
            operation, an attribute or a type that is not supported; the message names it.

    >>> from tempfile import TemporaryDirectory
    >>> size = [{"size": "-1"}, {"size": "2"}, {"size": "2"}, {"size": "1"}]
    >>> nodes = [
    ...     {"name": "images", "op": "Placeholder", "attr": {"shape": {"shape": {"dim": size}}}},
    ...     {"name": "two", "op": "Const"},
    ...     {"name": "product", "op": "Mul", "input": ["images", "two"]},
    ... ]
    >>> weights = [{"paths": ["w.bin"], "weights": [{"name": "two", "shape": [1], "dtype": "float32"}]}]
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "graph.json")
    ...     _ = path.with_name("w.bin").write_bytes(np.array([2.0], dtype="<f4").tobytes())
    ...     document = {"format": "graph-model", "modelTopology": {"node": nodes}, "weightsManifest": weights}
    ...     _ = path.write_text(json.dumps(document), encoding="utf-8")
    ...     model = GraphModel(path, "product")
    >>> model.input_shape, model(torch.ones(1, 2, 2, 1)).flatten().tolist()
    ((2, 2, 1), [2.0, 2.0, 2.0, 2.0])
    """

    def __init__(self, path: Path, output: str) -> None:
        super().__init__()
        document = _document(path)
        self._path = path
        self._weights = {name: f"weight_{place}" for place, name in enumerate(_specs(document, path))}
        for name, value in _values(document, path).items():
            self.register_buffer(self._weights[name], value)
        nodes = {node["name"]: node for node in document["modelTopology"]["node"]}
        self._steps = [nodes[name] for name in self._order(nodes, output)]
        last_use = {name: step for step, node in enumerate(self._steps) for name in _inputs(node)}
        self._freed: list[list[str]] = [[] for _ in self._steps]
        for name, step in last_use.items():
            self._freed[step].append(name)
        self.input_shape = self._check()
        try:
            with torch.no_grad():
                self(torch.zeros(1, *self.input_shape))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path} cannot be computed: {type(error).__name__}: {error}") from error

    def forward(self, images: Tensor) -> Tensor:
        """Return the output for images (n, H, W, C)."""
        found: dict[str, Tensor] = {}
        for node, freed in zip(self._steps, self._freed, strict=True):
            name, operation = node["name"], node["op"]
            if operation == "Placeholder":
                found[name] = images
            elif operation == "Const":
                found[name] = self.get_buffer(self._weights[name])
            else:
                found[name] = _OPERATIONS[operation](node, *(found[each] for each in _inputs(node)))
            for each in freed:  # without gradients, a value that nobody reads again is memory
                del found[each]
        return found[self._steps[-1]["name"]]

    def extra_repr(self) -> str:
        """Return a digest of the graph for ``repr``, since the weights do not tell what is computed with them."""
        steps = json.dumps(self._steps, sort_keys=True)
        return f"{len(self._steps)} nodes, sha256={hashlib.sha256(steps.encode()).hexdigest()}"

    def _order(self, nodes: Mapping[str, Node], output: str) -> Iterable[str]:
        """Names of the nodes that the output depends on, each after its inputs; the output is last."""
        needed: dict[str, list[str]] = {}
        left = [output]
        while left:
            name = left.pop()
            if name in needed:
                continue
            if name not in nodes:
                raise ValueError(
                    f"{self._path} has no node {name!r}; give the file of the network that is asked for"
                )
            needed[name] = _inputs(nodes[name])
            left += needed[name]
        try:
            return list(TopologicalSorter(needed).static_order())
        except CycleError as error:
            raise ValueError(f"{self._path} has a cycle through node {error.args[1][0]!r}") from error

    def _check(self) -> tuple[int, int, int]:
        """Check that every step is supported, and return the shape of the input."""
        shapes = []
        for node in self._steps:
            name, operation = node["name"], node["op"]
            if operation == "Placeholder":
                dimensions = node.get("attr", {}).get("shape", {}).get("shape", {}).get("dim", [])
                shapes.append(tuple(int(each["size"]) for each in dimensions))
            elif operation == "Const":
                if name not in self._weights:
                    raise ValueError(f"{self._path}: weightsManifest has no values of node {name!r}")
            elif operation not in _OPERATIONS:
                raise ValueError(
                    f"{self._path}: node {name!r} has the operation {operation!r}, which is not supported (supported: "
                    f"{', '.join(_OPERATIONS)})"
                )
        if len(shapes) != 1 or len(shapes[0]) != 4 or min(shapes[0][1:]) < 1:
            raise ValueError(
                f"{self._path} must have one input, images (n, H, W, C); its inputs have shapes {shapes}"
            )
        return shapes[0][1:]


def _document(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read: {error.strerror}; paths begin at the current folder"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is no TensorFlow.js graph model: {error}") from error
    try:
        nodes, manifest = document["modelTopology"]["node"], document["weightsManifest"]
        complete = all({"name", "op"} <= node.keys() for node in nodes) and all(
            {"name", "shape", "dtype"} <= spec.keys() for group in manifest for spec in group["weights"]
        )
    except (KeyError, TypeError, AttributeError):
        complete = False
    if not complete:
        raise ValueError(
            f"{path} is no TensorFlow.js graph model: it has no whole modelTopology and weightsManifest"
        )
    return document


def _specs(document: Mapping[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    specs = {spec["name"]: spec for group in document["weightsManifest"] for spec in group["weights"]}
    for name, spec in specs.items():
        kind = "quantized" if "quantization" in spec else spec["dtype"]
        if kind not in _DTYPES:
            raise ValueError(
                f"{path}: the weights {name!r} are {kind}; only {' and '.join(_DTYPES)} are supported"
            )
    return specs


def files(path: Path) -> list[Path]:
    """Return the binary files of a graph model.

    Raises:
        ValueError: the model is no graph model, or one of its files is not in its folder.
    """
    names = [name for group in _document(path)["weightsManifest"] for name in group["paths"]]
    for name in names:
        if Path(name).name != name:
            raise ValueError(f"{path}: the file of weights {name!r} must be in the same folder")
    return [path.parent / name for name in names]


def _values(document: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights by name, read from all binary files, whose total length must be that of the weights."""
    whole = b"".join(_bytes(each, path) for each in files(path))
    specs = _specs(document, path)
    counts = {name: math.prod(spec["shape"]) for name, spec in specs.items()}
    length = 4 * sum(counts.values())
    if len(whole) != length:
        raise ValueError(
            f"{path}: its weights have {len(whole)} bytes instead of {length}; get the files again"
        )
    found, start = {}, 0
    for name, spec in specs.items():
        flat = np.frombuffer(whole, _DTYPES[spec["dtype"]], counts[name], offset=start)
        if not np.isfinite(flat).all():
            raise ValueError(f"{path}: the weights {name!r} are not finite; get the files again")
        found[name] = torch.from_numpy(flat.reshape(spec["shape"]).copy())
        start += 4 * counts[name]
    return found


def _bytes(weights: Path, path: Path) -> bytes:
    try:
        return weights.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} needs {weights}, which cannot be read: {error.strerror}") from error


def _inputs(node: Node) -> list[str]:
    return [name.removesuffix(":0") for name in node.get("input", [])]


def _text(node: Node, name: str) -> str:
    return base64.b64decode(node["attr"][name]["s"]).decode()


def _window(node: Node) -> tuple[str, list[int], list[int]]:
    """Padding, strides and dilations of a convolution, the two latter of height and width."""
    padding, order = _text(node, "padding"), _text(node, "data_format")
    strides, dilations = (
        [int(i) for i in node["attr"][name]["list"]["i"]] for name in ("strides", "dilations")
    )
    if padding not in ("SAME", "VALID") or order != "NHWC":
        raise ValueError(
            f"node {node['name']!r} has padding {padding} and order {order}; supported are SAME or VALID, and NHWC"
        )
    return padding, strides[1:3], dilations[1:3]


def _convolution(node: Node, images: Tensor, kernel: Tensor, groups: int) -> Tensor:
    """Convolve images (n, H, W, C) with a kernel (O, C / groups, h, w), padded as TensorFlow does.

    "SAME" gives ceil(size / stride) outputs. An odd number of padded pixels puts one more after the image than before.
    """
    padding, strides, dilations = _window(node)
    moved = images.permute(0, 3, 1, 2)
    if padding == "SAME":
        ends: list[int] = []
        for size, side, stride, dilation in zip(
            moved.shape[2:], kernel.shape[2:], strides, dilations, strict=True
        ):
            needed = (math.ceil(size / stride) - 1) * stride + (side - 1) * dilation + 1 - size
            ends = [max(needed, 0) // 2, max(needed, 0) - max(needed, 0) // 2, *ends]
        moved = F.pad(moved, ends)
    found = F.conv2d(moved, kernel, stride=strides, dilation=dilations, groups=groups)
    return found.permute(0, 2, 3, 1)


def _conv(node: Node, images: Tensor, kernel: Tensor) -> Tensor:
    return _convolution(node, images, kernel.permute(3, 2, 0, 1), groups=1)


def _depthwise(node: Node, images: Tensor, kernel: Tensor) -> Tensor:
    height, width, channels, multiplier = kernel.shape
    moved = kernel.permute(2, 3, 0, 1).reshape(channels * multiplier, 1, height, width)
    return _convolution(node, images, moved, groups=channels)


def _mean(node: Node, values: Tensor, axes: Tensor) -> Tensor:
    keep = bool(node["attr"].get("keep_dims", {}).get("b", False))
    return values.mean(dim=axes.flatten().tolist(), keepdim=keep)


_OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "Conv2D": _conv,
    "DepthwiseConv2dNative": _depthwise,
    "Add": lambda _, first, second: first + second,
    "Mul": lambda _, first, second: first * second,
    "Relu": lambda _, values: values.relu(),
    "Minimum": lambda _, first, second: torch.minimum(first, second),
    "Maximum": lambda _, first, second: torch.maximum(first, second),
    "Mean": _mean,
}
"""The operations by TensorFlow's names; each takes its node and the values of its inputs."""
