"""Looking at what a layer computes, in a model that knows nothing of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opacus.grad_sample import AbstractGradSampleModule
from torch import Tensor, nn

from .anatomy import FEATURES, head, layer


@contextmanager
def observe(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs of layers, as one forward pass inside the block computes them.

    Args:
        model: any module, also one that a privacy engine has wrapped.
        layers: names as of ``model.named_modules()``; ``"features"`` is what the classification head gets.

    Yields:
        A dict that the forward pass fills: for each name the output (n, ...), still in the graph; the last one if
        the layer is called more than once.

    Raises:
        ValueError: there is no such layer; the message has the nearest names. Or the layer has parameters, and Opacus's
            hooks compute its gradients: they see only what the layers behind it send back, so that a loss on the
            output would be missing from them without a word.
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
                f"layer {name!r} has parameters, and a loss on its output would be missing from the gradients that "
                "Opacus computes for records; observe the layer without parameters behind it"
            )
        handles.append(observed.register_forward_hook(keep))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
