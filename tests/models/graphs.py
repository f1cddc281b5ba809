"""Files of small networks, written as the converters write them; no network of others is copied."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Node = dict[str, Any]


def text(value: str) -> Node:
    return {"s": base64.b64encode(value.encode()).decode()}


def numbers(*values: int) -> Node:
    return {"list": {"i": [str(value) for value in values]}}


def placeholder(*shape: int) -> Node:
    dimensions = {"dim": [{"size": str(size)} for size in (-1, *shape)]}
    return {"name": "images", "op": "Placeholder", "attr": {"shape": {"shape": dimensions}}}


def convolution(
    name: str,
    images: str,
    kernel: str,
    *,
    op: str = "Conv2D",
    padding: str = "SAME",
    stride: int = 1,
    dilation: int = 1,
    order: str = "NHWC",
) -> Node:
    attributes = {
        "padding": text(padding),
        "data_format": text(order),
        "strides": numbers(1, stride, stride, 1),
        "dilations": numbers(1, dilation, dilation, 1),
    }
    return {"name": name, "op": op, "input": [images, kernel], "attr": attributes}


def write_graph(
    path: Path, nodes: Sequence[Node], weights: Mapping[str, np.ndarray], *, shards: int = 1
) -> Path:
    """Write a TensorFlow.js graph model, with a constant for each of the weights."""
    specs = [
        {"name": name, "shape": list(value.shape), "dtype": str(value.dtype)}
        for name, value in weights.items()
    ]
    whole = b"".join(value.tobytes() for value in weights.values())
    names = [f"{path.stem}{place}.bin" for place in range(shards)]
    for place, name in enumerate(names):
        ends = [len(whole) * each // shards for each in (place, place + 1)]
        path.with_name(name).write_bytes(whole[slice(*ends)])
    document = {
        "format": "graph-model",
        "modelTopology": {"node": [*({"name": name, "op": "Const"} for name in weights), *nodes]},
        "weightsManifest": [{"paths": names, "weights": specs}],
    }
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def projection(side: int = 8, features: int = 16, *, seed: int = 0) -> np.ndarray:
    """A random kernel (side, side, 3, features) as large as the images: one product per feature."""
    random = np.random.default_rng(seed)
    return random.standard_normal((side, side, 3, features)).astype(np.float32)


def write_faceres(path: Path, kernel: np.ndarray) -> Path:
    """Write a network in the form of faceres, whose features are the products of an image with each kernel."""
    nodes = [
        placeholder(*kernel.shape[:3]),
        convolution("products", "images", "kernel", padding="VALID"),
        {
            "name": "global_pooling/Mean",
            "op": "Mean",
            "input": ["products", "axes"],
            "attr": {"keep_dims": {"b": False}},
        },
    ]
    return write_graph(path, nodes, {"kernel": kernel, "axes": np.array([1, 2], dtype=np.int32)})


def write_sface(path: Path, kernel: np.ndarray) -> Path:
    """Write a network in the form of SFace: weights among the inputs, one of them unused, batches of one image."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    side, _, channels, features = kernel.shape
    matrix = kernel.transpose(3, 2, 0, 1).reshape(features, -1).copy()
    inputs = [
        helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, channels, side, side]),
        helper.make_tensor_value_info("matrix", TensorProto.FLOAT, matrix.shape),
        helper.make_tensor_value_info("unused", TensorProto.FLOAT, [2, 2]),
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["data"], ["flat"]),
            helper.make_node("Gemm", ["flat", "matrix"], ["fc1"], transB=1),
        ],
        "sface",
        inputs,
        [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [1, features])],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=6), str(path))
    return path
