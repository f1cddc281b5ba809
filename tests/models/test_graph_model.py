"""TensorFlow.js graph models against plain loops in float64."""

from __future__ import annotations

import json
import math
import os
import weakref
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dpmi.models import GraphModel

from .graphs import Node, convolution, numbers, placeholder, write_faceres, write_graph

RANDOM = np.random.default_rng(0)


def padding_before(size: int, side: int, stride: int, dilation: int) -> int:
    """Rows in front of an image, by trying: TensorFlow adds as few as give ceil(size / stride), the odd one behind."""
    total = 0
    while (size + total - (side - 1) * dilation - 1) // stride + 1 < math.ceil(size / stride):
        total += 1
    return total // 2


def looped(
    images: np.ndarray, kernel: np.ndarray, *, stride: int, dilation: int, padding: str, depthwise: bool
) -> np.ndarray:
    """One output after another, in float64."""
    n, height, width, channels = images.shape
    side, across, _, outputs = kernel.shape
    if padding == "SAME":
        shape = (math.ceil(height / stride), math.ceil(width / stride))
        above = padding_before(height, side, stride, dilation)
        left = padding_before(width, across, stride, dilation)
    else:
        shape = tuple(
            (size - (each - 1) * dilation - 1) // stride + 1
            for size, each in ((height, side), (width, across))
        )
        above = left = 0
    found = np.zeros((n, *shape, channels * outputs if depthwise else outputs))
    for row, column in np.ndindex(*shape):
        for i, j in np.ndindex(side, across):
            y, x = row * stride + i * dilation - above, column * stride + j * dilation - left
            if not (0 <= y < height and 0 <= x < width):
                continue
            pixel = images[:, y, x].astype(np.float64)
            if depthwise:
                found[:, row, column] += (pixel[:, :, None] * kernel[i, j]).reshape(n, -1)
            else:
                found[:, row, column] += pixel @ kernel[i, j].astype(np.float64)
    return found


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 10), (6, 5)])
@pytest.mark.parametrize(
    ("side", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (2, 2, 1), (4, 3, 1), (3, 1, 2), (1, 2, 1)]
)
@pytest.mark.parametrize("op", ["Conv2D", "DepthwiseConv2dNative"])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_convolutions_are_those_of_a_loop(
    tmp_path: Path, height: int, width: int, side: int, stride: int, dilation: int, op: str, padding: str
) -> None:
    settings: dict[str, Any] = {"stride": stride, "dilation": dilation, "padding": padding}
    kernel = RANDOM.standard_normal((side, side, 3, 2)).astype(np.float32)
    nodes = [placeholder(height, width, 3), convolution("out", "images", "kernel", op=op, **settings)]
    model = GraphModel(write_graph(tmp_path / "g.json", nodes, {"kernel": kernel}), "out")
    images = RANDOM.standard_normal((2, height, width, 3)).astype(np.float32)
    expected = looped(images, kernel, depthwise=op != "Conv2D", **settings)
    found = model(torch.from_numpy(images)).numpy()
    assert found.shape == expected.shape
    assert found == pytest.approx(expected, abs=1e-5)


def test_an_even_image_at_stride_2_is_padded_behind_only(tmp_path: Path) -> None:
    """Keras's MobileNet has this padding as a layer of its own: nothing in front, one row and column behind."""
    corner = np.zeros((3, 3, 1, 1), dtype=np.float32)
    corner[0, 0] = 1
    nodes = [placeholder(4, 4, 1), convolution("out", "images", "kernel", stride=2)]
    model = GraphModel(write_graph(tmp_path / "g.json", nodes, {"kernel": corner}), "out")
    found = model(torch.arange(16.0).view(1, 4, 4, 1))
    assert found.flatten().tolist() == [0.0, 2.0, 8.0, 10.0]


def chain() -> tuple[list[Node], dict[str, np.ndarray]]:
    """Every operation once."""
    weights = {
        "kernel": RANDOM.standard_normal((3, 3, 3, 4)).astype(np.float32),
        "depthwise": RANDOM.standard_normal((3, 3, 4, 1)).astype(np.float32),
        "scale": RANDOM.standard_normal(4).astype(np.float32),
        "bias": RANDOM.standard_normal(4).astype(np.float32),
        "six": np.array(6, dtype=np.float32),
        "low": np.array(-0.5, dtype=np.float32),
        "axes": np.array([1, 2], dtype=np.int32),
    }
    nodes = [
        placeholder(6, 5, 3),
        convolution("a", "images", "kernel", stride=2),
        convolution("b", "a:0", "depthwise", op="DepthwiseConv2dNative"),
        {"name": "c", "op": "Mul", "input": ["b", "scale"]},
        {"name": "d", "op": "Add", "input": ["c", "bias"]},
        {"name": "e", "op": "Minimum", "input": ["d", "six"]},
        {"name": "f", "op": "Maximum", "input": ["e", "low"]},
        {"name": "g", "op": "Mean", "input": ["f", "axes"], "attr": {"keep_dims": {"b": False}}},
        {"name": "h", "op": "Relu", "input": ["g"]},
        {"name": "head", "op": "Softmax", "input": ["h"]},
    ]
    return nodes, weights


def test_a_chain_of_all_operations_over_several_files(tmp_path: Path) -> None:
    nodes, weights = chain()
    model = GraphModel(write_graph(tmp_path / "g.json", nodes[::-1], weights, shards=3), "h")
    assert model.input_shape == (6, 5, 3)
    images = RANDOM.standard_normal((2, 6, 5, 3)).astype(np.float32)
    plain = {"dilation": 1, "padding": "SAME"}
    first = looped(images, weights["kernel"], stride=2, depthwise=False, **plain)
    second = looped(first, weights["depthwise"], stride=1, depthwise=True, **plain)
    clipped = (second * weights["scale"] + weights["bias"]).clip(-0.5, 6)
    expected = clipped.mean(axis=(1, 2)).clip(0)
    assert model(torch.from_numpy(images)).numpy() == pytest.approx(expected, abs=1e-5)


def test_gradients_are_those_of_finite_differences(tmp_path: Path) -> None:
    nodes, weights = chain()
    model = GraphModel(write_graph(tmp_path / "g.json", nodes, weights), "g").double()
    images = torch.rand(1, 6, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model, images)


def damaged(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return apply


def node(document: dict[str, Any], name: str) -> Node:
    return next(each for each in document["modelTopology"]["node"] if each["name"] == name)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            damaged(lambda d: node(d, "c").update(op="Elu")),
            "'c' has the operation 'Elu', which is not supported",
        ),
        (
            damaged(lambda d: node(d, "a")["attr"].update(padding={"s": "RVhQTElDSVQ="})),
            "'a' has padding EXPLICIT",
        ),
        (damaged(lambda d: node(d, "a")["attr"].update(data_format={"s": "TkNIVw=="})), "order NCHW"),
        (damaged(lambda d: node(d, "a").pop("attr")), "cannot be computed: KeyError: 'attr'"),
        (damaged(lambda d: node(d, "a")["attr"].update(strides=numbers(1, 2))), "cannot be computed"),
        (damaged(lambda d: node(d, "c").update(input=["h", "scale"])), "has a cycle through node"),
        (damaged(lambda d: node(d, "h").update(name="other")), "has no node 'h'"),
        (damaged(lambda d: node(d, "d").update(input=["c", "missing"])), "has no node 'missing'"),
        (damaged(lambda d: node(d, "images")["attr"].clear()), r"must have one input, .* shapes \[\(\)\]"),
        (damaged(lambda d: node(d, "bias").update(op="Placeholder")), "must have one input"),
        (
            damaged(lambda d: d["weightsManifest"][0]["weights"].pop()),
            "its weights have 624 bytes instead of 616",
        ),
        (
            damaged(lambda d: d["weightsManifest"][0]["weights"][0].update(quantization={"dtype": "uint8"})),
            "the weights 'kernel' are quantized",
        ),
        (damaged(lambda d: d["weightsManifest"][0]["weights"][0].update(dtype="bool")), "'kernel' are bool"),
        (
            damaged(lambda d: d["weightsManifest"][0]["weights"][0].update(name="x")),
            "no values of node 'kernel'",
        ),
        (
            damaged(lambda d: d["weightsManifest"][0].update(paths=["../g0.bin"])),
            "must be in the same folder",
        ),
        (damaged(lambda d: d.pop("weightsManifest")), "no whole modelTopology and weightsManifest"),
        (damaged(lambda d: node(d, "c").pop("op")), "no whole modelTopology and weightsManifest"),
        (lambda path: path.write_text("[]"), "no whole modelTopology"),
        (lambda path: path.write_text("{"), "is no TensorFlow.js graph model: "),
        (lambda path: path.unlink(), "g.json cannot be read: No such file or directory; paths begin at"),
        (lambda path: path.with_name("g0.bin").unlink(), "needs .*g0.bin, which cannot be read"),
        (lambda path: path.with_name("g0.bin").write_bytes(b"1234"), "its weights have 4 bytes instead of"),
    ],
)
def test_bad_files_are_refused_by_name(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    path = write_graph(tmp_path / "g.json", *chain())
    GraphModel(path, "h")
    damage(path)
    with pytest.raises(ValueError, match=message):
        GraphModel(path, "h")


def test_it_keeps_no_value_longer_than_it_is_read(tmp_path: Path) -> None:
    """Without gradients: a network at 224 pixels has twenty times as much in all its layers as in the largest two."""
    names = [f"n{place}" for place in range(20)]
    nodes = [placeholder(64, 64, 3)]
    nodes += [{"name": b, "op": "Add", "input": [a, "one"]} for a, b in pairwise(["images", *names])]
    model = GraphModel(write_graph(tmp_path / "g.json", nodes, {"one": np.ones(1, dtype=np.float32)}), "n19")
    images = torch.zeros(8, 64, 64, 3)
    held: list[int] = []
    alive: list[weakref.ref[Tensor]] = []

    class Watched(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and result.shape == images.shape:
                alive.append(weakref.ref(result))
                held.append(sum(each() is not None for each in alive))
            return result

    with torch.no_grad(), Watched():
        assert torch.equal(model(images), images + 20)
    assert len(held) >= 20
    assert max(held) <= 3


def test_its_description_tells_graphs_with_the_same_weights_apart(tmp_path: Path) -> None:
    """An extractor is known by its description and its weights."""
    nodes, weights = chain()
    first = GraphModel(write_graph(tmp_path / "g.json", nodes, weights), "h")
    same = GraphModel(write_graph(tmp_path / "same.json", nodes, weights), "h")
    swapped = [{**node, "op": {"Add": "Mul", "Mul": "Add"}.get(node["op"], node["op"])} for node in nodes]
    other = GraphModel(write_graph(tmp_path / "other.json", swapped, weights), "h")
    assert repr(first) == repr(same) != repr(other)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    kernel = np.full((2, 2, 3, 1), np.nan, dtype=np.float32)
    with pytest.raises(ValueError, match="the weights 'kernel' are not finite"):
        GraphModel(write_faceres(tmp_path / "g.json", kernel), "global_pooling/Mean")


@pytest.mark.skipif(
    not os.environ.get("DPMI_DATA"), reason="DPMI_DATA is not set: this test reads the file of faceres"
)
def test_the_first_layers_of_faceres_are_those_of_a_loop() -> None:
    """Two convolutions at stride 2 and three at stride 1, with their merged batch normalization, in float64."""
    path = Path(os.environ["DPMI_DATA"]) / "evaluators" / "faceres-deep.json"
    model = GraphModel(path, "conv_pw_2_relu/clip_by_value")
    assert model.input_shape == (224, 224, 3)
    document = json.loads(path.read_text())
    whole, weights, start = path.with_suffix(".bin").read_bytes(), {}, 0
    for spec in document["weightsManifest"][0]["weights"]:
        count = math.prod(spec["shape"])
        weights[spec["name"]] = np.frombuffer(whole[start : start + 4 * count], "<f4").reshape(spec["shape"])
        start += 4 * count
    images = RANDOM.uniform(0, 255, (1, 14, 11, 3)).astype(np.float32)
    found = images.astype(np.float64)
    for layer, depthwise, stride in (
        ("conv1", False, 2),
        ("conv_dw_1", True, 1),
        ("conv_pw_1", False, 1),
        ("conv_dw_2", True, 2),
        ("conv_pw_2", False, 1),
    ):
        kernel = weights[f"{layer}/depthwise_kernel" if depthwise else f"{layer}/convolution/merged_input"]
        found = looped(found, kernel, stride=stride, dilation=1, padding="SAME", depthwise=depthwise)
        if depthwise:
            found = found * weights[f"{layer}_bn/batchnorm_1/mul"]
        found = (found + weights[f"{layer}_bn/batchnorm_1/sub"]).clip(0, 6)
    assert found.std() > 0.1
    assert model(torch.from_numpy(images)).numpy() == pytest.approx(found, abs=1e-3)
