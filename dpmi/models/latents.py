"""The latent representations of a classifier: what every stage of it leaves, found without editing the model.

A latent is a tensor that all information on its way from the image to the head goes through. What lies inside a
block that a skip connection bypasses, or in one of several branches, is none. The autograd graph of one forward
pass shows which layers' outputs these are.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from opacus.grad_sample import AbstractGradSampleModule
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge

from .anatomy import FEATURES, head, layer
from .modes import evaluating

Shape = tuple[int, ...]

#: Of a transformer, whose blocks all have one resolution: the shares of the depth after which a latent is taken.
_DEPTHS = (0.25, 0.5, 0.75, 1.0)


@dataclass
class _Output:
    """What a layer has computed.

    Args:
        shape: without the batch.
        weighted: calls of layers with parameters up to here.
        names: of this layer and of those around it that end with it.
    """

    shape: Shape
    weighted: int
    names: list[str]


def latents(model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[str, ...]:
    """Names of the layers whose outputs are the latents, from the image to the head; see :func:`observe`.

    These are the last output of every stage, and ``"features"``, what the head gets. A stage is a run of layers that
    compute at one spatial resolution, with the pooling that ends it, unless this leaves one position. A stage that
    leaves as many numbers as there are features, which then are a flat or normalized copy, is not named. Of a
    transformer whose blocks all have one resolution, it is the output after each quarter of the depth, and the
    features.

    The published latents of BiDO come out for its network for MNIST and for VGG16.

    Args:
        model: a classifier; it stays exactly as it is.
        image_shape: (C, H, W).

    Returns:
        Names as of ``model.named_modules()``; nothing if no layer before the head has parameters.

    Raises:
        ValueError: the model has no linear layer to take for the head.
    """
    if isinstance(model, AbstractGradSampleModule):
        model = model._module
    outputs, features = _on_every_path(model, image_shape)
    if not any(output.weighted for output in outputs):
        return ()
    tokens = [output for output in outputs if len(output.shape) == 2]
    if tokens:
        return (*_quarters(model, tokens), FEATURES)
    stages = [output for output in _ends_of_stages(outputs) if math.prod(output.shape) != features]
    return (*(output.names[-1] for output in stages), FEATURES)


def _ends_of_stages(outputs: list[_Output]) -> list[_Output]:
    ends: list[_Output] = []
    stage: set[Shape] = set()
    weighted = 0
    for output in outputs:
        resolutions = _resolutions(output.shape)
        if output.weighted > weighted:
            if stage & resolutions:
                ends.pop()
                stage &= resolutions
            else:
                stage = resolutions
            ends.append(output)
        elif ends and len(output.shape) == len(ends[-1].shape) and (1, 1) not in resolutions:
            ends[-1] = output
        weighted = output.weighted
    return ends


def _resolutions(shape: Shape) -> set[Shape]:
    """What (H, W) may be: whether channels come first or last cannot be seen."""
    return {shape[:2], shape[1:]} if len(shape) == 3 else {()}


def _quarters(model: nn.Module, tokens: list[_Output]) -> list[str]:
    """Of the blocks, which are the most frequent layers, those at the end of each quarter."""
    kinds = {name: type(layer(model, name)) for output in tokens for name in output.names}
    ((block, _),) = Counter(kinds.values()).most_common(1)
    blocks = [name for name, kind in kinds.items() if kind is block]
    return [blocks[math.ceil(depth * len(blocks)) - 1] for depth in _DEPTHS]


def _on_every_path(model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[list[_Output], int]:
    """The outputs of layers that every path from the image to the head goes through, and the number of features."""
    outputs: list[tuple[Node, str, _Output]] = []
    blocks: dict[str, tuple[Shape, Shape]] = {}
    given: list[Tensor] = []
    weighted = 0

    def keep(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal weighted
        weighted += any(True for _ in module.parameters(recurse=False))
        if not isinstance(output, Tensor) or output.grad_fn is None:
            return
        shape = tuple(output.shape[1:])
        outputs.append((output.grad_fn, name, _Output(shape, weighted, [name])))
        if type(module).forward is not nn.Sequential.forward and inputs and isinstance(inputs[0], Tensor):
            blocks[name] = tuple(inputs[0].shape[1:]), shape

    handles = [layer(model, head(model)).register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))]
    for name, module in model.named_modules():
        if name:
            handles.append(
                module.register_forward_hook(
                    lambda m, inputs, output, name=name: keep(name, m, inputs, output)
                )
            )
    weight = next(model.parameters())
    try:
        with evaluating(model), torch.enable_grad():
            image = torch.zeros(1, *image_shape, device=weight.device, dtype=weight.dtype, requires_grad=True)
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    (features,) = given
    found: dict[Node, _Output] = {}
    single = set(_bottlenecks(get_gradient_edge(features).node, get_gradient_edge(image).node))
    for node, name, output in outputs:
        if node in found:
            # Around it, as Sequential is. "features" stands for something else, whatever layer is called so.
            if found[node].names[-1].startswith(f"{name}.") and name != FEATURES:
                found[node].names.append(name)
        elif node in single and not _is_inside(name, output.shape, blocks):
            found[node] = output
    return list(found.values()), features.numel()


def _is_inside(name: str, shape: Shape, blocks: dict[str, tuple[Shape, Shape]]) -> bool:
    """Whether a layer's resolution is a matter of a block around it, such as the first half of one that halves it."""
    own = _resolutions(shape)
    for block, (entering, leaving) in blocks.items():
        if name.startswith(f"{block}.") and not own & _resolutions(leaving):
            before = _resolutions(entering)
            if own & before or before & _resolutions(leaving):
                return True
    return False


def _bottlenecks(last: Node, image: Node) -> Iterator[Node]:
    """The nodes of an autograd graph that every path from ``last`` to the image goes through."""
    behind = _behind(last, image)
    pending = {last}
    for node in reversed(behind):  # a node comes before all nodes behind it
        pending.remove(node)
        if not pending:
            yield node
        pending.update(behind[node])


def _behind(last: Node, image: Node) -> dict[Node, list[Node]]:
    """For each node on a path to the image, those that it leads to; in the order of the forward pass."""
    behind: dict[Node, list[Node]] = {}
    seen: set[Node] = set()
    stack = [(last, False)]
    while stack:
        node, done = stack.pop()
        following = [n for n, _ in node.next_functions if n is not None]
        if done:
            on_a_path = [n for n in following if n in behind]
            if on_a_path or node == image:
                behind[node] = on_a_path
        elif node not in seen:
            seen.add(node)
            stack += [(node, True), *((n, False) for n in following)]
    return behind
