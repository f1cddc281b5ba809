"""The latent representations of a classifier: the outputs of its stages, determined without changes to the model.

A latent is a tensor through which all information passes from the image to the head. A tensor inside a block with a
skip connection, or in one of several branches, is not a latent. The autograd graph of one forward pass determines the
layers whose outputs are latents.
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

#: Depths, as shares of a transformer's blocks, after which a latent is taken; all its blocks have one resolution.
_DEPTHS = (0.25, 0.5, 0.75, 1.0)


@dataclass
class _Output:
    """The output of a layer.

    Args:
        shape: shape without the batch axis.
        weighted: number of calls of layers with parameters so far.
        names: names of this layer and of the enclosing modules that end with it.
    """

    shape: Shape
    weighted: int
    names: list[str]


def latents(model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[str, ...]:
    """Return the names of the layers whose outputs are the latents, from the image to the head; see :func:`observe`.

    These are the last output of every stage, and ``"features"``, the input of the head. A stage is a sequence of layers
    with one spatial resolution, including the pooling that ends it unless that pools to a single position. A stage with
    as many outputs as there are features is omitted, because the features are then a flat or normalized copy of it. For
    a transformer, whose blocks all have one resolution, they are the outputs after each quarter of the depth, and the
    features.

    For BiDO's network for MNIST and for VGG16, these are the published latents of BiDO.

    Args:
        model: a classifier; it is not changed.
        image_shape: (C, H, W).

    Returns:
        Names as in ``model.named_modules()``; empty if no layer before the head has parameters.

    Raises:
        ValueError: the model has no linear layer that could be its head.

    >>> from dpmi.models import build
    >>> latents(build("cnn-small", image_shape=(1, 8, 8), num_classes=10, seed=0), (1, 8, 8))
    ('4', 'features')
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
    """Return the possible (H, W): the shape does not tell whether channels are first or last."""
    return {shape[:2], shape[1:]} if len(shape) == 3 else {()}


def _quarters(model: nn.Module, tokens: list[_Output]) -> list[str]:
    """Return the block at the end of each quarter; blocks are the most frequent type of layer."""
    kinds = {name: type(layer(model, name)) for output in tokens for name in output.names}
    ((block, _),) = Counter(kinds.values()).most_common(1)
    blocks = [name for name, kind in kinds.items() if kind is block]
    return [blocks[math.ceil(depth * len(blocks)) - 1] for depth in _DEPTHS]


def _on_every_path(model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[list[_Output], int]:
    """Return the outputs of the layers on every path from the image to the head, and the number of features."""
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
            # An enclosing module, such as Sequential. The name "features" is reserved for the input of the head.
            if found[node].names[-1].startswith(f"{name}.") and name != FEATURES:
                found[node].names.append(name)
        elif node in single and not _is_inside(name, output.shape, blocks):
            found[node] = output
    return list(found.values()), features.numel()


def _is_inside(name: str, shape: Shape, blocks: dict[str, tuple[Shape, Shape]]) -> bool:
    """Whether a layer's resolution is internal to an enclosing block, for example before the block halves it."""
    own = _resolutions(shape)
    for block, (entering, leaving) in blocks.items():
        if name.startswith(f"{block}.") and not own & _resolutions(leaving):
            before = _resolutions(entering)
            if own & before or before & _resolutions(leaving):
                return True
    return False


def _bottlenecks(last: Node, image: Node) -> Iterator[Node]:
    """Yield the nodes of an autograd graph on every path from ``last`` to the image."""
    behind = _behind(last, image)
    pending = {last}
    for node in reversed(behind):  # a node comes before all nodes behind it
        pending.remove(node)
        if not pending:
            yield node
        pending.update(behind[node])


def _behind(last: Node, image: Node) -> dict[Node, list[Node]]:
    """Return the successors of each node on a path to the image, in the order of the forward pass."""
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
