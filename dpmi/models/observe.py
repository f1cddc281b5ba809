"""Observation of the outputs of layers, without changes to the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opacus.grad_sample import AbstractGradSampleModule
from torch import Tensor, nn

from .anatomy import FEATURES, head, layer


@contextmanager
def observe(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Record the outputs of layers in a forward pass inside the block.

    Args:
        model: any module, also one wrapped by a privacy engine.
        layers: names as in ``model.named_modules()``; ``"features"`` is the input of the classification head.

    Yields:
        A dict that the forward pass fills: for each name the output (n, ...) with gradients; the last one if the layer
        is called more than once.

    Raises:
        ValueError: there is no such layer; the message names the nearest ones. Or the layer has parameters and Opacus's
            hooks compute its per-record gradients: these would silently lack a loss on the layer's output.

    >>> import torch
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> with observe(model, ["2", FEATURES]) as found:
    ...     logits = model(torch.rand(3, 1, 8, 8))
    >>> found["2"].shape, torch.equal(found["2"], found["features"])
    (torch.Size([3, 32]), True)
    """
    hooked = False
    if isinstance(model, AbstractGradSampleModule):
        hooked = bool(model.autograd_grad_sample_hooks)
        model = model._module
    found: dict[str, Tensor] = {}
    handles = []
    for name in layers:

        def keep(_: nn.Module, inputs: tuple[Any, ...], output: Any = None, name: str = name) -> None:
            found[name] = inputs[0] if output is None else output

        if name == FEATURES:
            handles.append(layer(model, head(model)).register_forward_pre_hook(keep))
            continue
        observed = layer(model, name)
        if hooked and next(observed.parameters(recurse=False), None) is not None:
            raise ValueError(
                f"layer {name!r} has parameters, and the per-record gradients of Opacus would lack a loss on its "
                "output; observe the next layer without parameters instead"
            )
        handles.append(observed.register_forward_hook(keep))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
