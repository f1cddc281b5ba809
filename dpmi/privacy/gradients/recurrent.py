"""Recurrent layers on several buckets: their time steps are written out.

All steps of a layer use the same weights. The gradients of its steps are taken together, so that each weight is used
like that of one linear layer over all steps. Formulas and order of the gates are those of :class:`torch.nn.LSTM`,
:class:`torch.nn.GRU` and :class:`torch.nn.RNN`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .linear import Linear
from .other_layers import computes_as

State = tuple[Tensor, ...]
"""The hidden state (records, hidden) of a direction of a layer; for an LSTM, also its cell state."""


class Tapped(Protocol):
    """Returns the output of a layer with a tap, which gets the output's gradient.

    The input is (records, steps, features), or a function that returns it in the backward pass.
    """

    def __call__(self, out: Tensor, layer: Linear, x: Tensor | Callable[[], Tensor]) -> Tensor:
        """Return the output with a tap."""


def can_be_written_out(leaf: nn.Module) -> bool:
    """Return whether a layer is a recurrent layer of PyTorch, and computes nothing else."""
    return any(isinstance(leaf, kind) and computes_as(leaf, kind) for kind in (nn.LSTM, nn.GRU, nn.RNN))


def written_out(leaf: nn.RNNBase, x: Tensor, states: Sequence[Tensor], tapped: Tapped) -> Any:
    """Call a recurrent layer, time step by time step.

    Args:
        leaf: the layer.
        x: (records, steps, features), or (steps, records, features) with ``batch_first=False``.
        states: hidden states at the start, and for an LSTM cell states, (layers * directions, records, ...); empty for
            zeros.
        tapped: puts a tap on the output of each linear layer.

    Returns:
        What the layer returns: outputs and last states.
    """
    x = x if leaf.batch_first else x.transpose(0, 1)
    directions = 2 if leaf.bidirectional else 1
    # A copy, because autograd does not see that a step needs its state again, so it would not guard it.
    starts = list(zip(*(s.clone().unbind(0) for s in states), strict=True))
    lasts: list[State] = []
    for layer in range(leaf.num_layers):
        outs = []
        for backwards in range(directions):
            start = starts[len(lasts)] if starts else None
            out, last = _direction(
                leaf, f"_l{layer}{'_reverse' * backwards}", x, start, tapped, bool(backwards)
            )
            outs.append(out)
            lasts.append(last)
        x = torch.cat(outs, -1)
        if layer + 1 < leaf.num_layers:
            x = F.dropout(x, leaf.dropout, leaf.training)
    hidden, *cells = (torch.stack(own) for own in zip(*lasts, strict=True))
    return x if leaf.batch_first else x.transpose(0, 1), (hidden, *cells) if cells else hidden


def _direction(  # noqa: PLR0917
    leaf: nn.RNNBase, suffix: str, x: Tensor, start: State | None, tapped: Tapped, backwards: bool
) -> tuple[Tensor, State]:
    """Run one direction of one layer; return its outputs (records, steps, hidden) and its last state."""

    def layer(of: str) -> Linear:
        return Linear(*(getattr(leaf, f"{what}_{of}{suffix}", None) for what in ("weight", "bias")))

    inner = layer("ih")
    inputs = tapped(_apply(inner, x), inner, x).unbind(1)
    hidden = _Repeated(layer("hh"), len(inputs), tapped)
    project = _Repeated(layer("hr"), len(inputs), tapped) if leaf.proj_size else None
    step = _STEPS[leaf.mode]
    if start is None:
        rows = inputs[0]
        start = tuple(
            rows.new_zeros(len(rows), size)
            for size in (leaf.proj_size or leaf.hidden_size, leaf.hidden_size)[
                : 1 + isinstance(leaf, nn.LSTM)
            ]
        )
    outs: list[Any] = [None] * len(inputs)
    state = start
    for t in reversed(range(len(inputs))) if backwards else range(len(inputs)):
        state = step(inputs[t], hidden(state[0], t), *state)
        if project is not None:
            state = (project(state[0], t), *state[1:])
        outs[t] = state[0]
    return torch.stack(outs, 1), state


class _Repeated:
    """A linear layer that is applied once in every time step.

    Its outputs get one tap together: zeros that are added to them, whose gradient is that of the outputs.
    """

    def __init__(self, layer: Linear, steps: int, tapped: Tapped) -> None:
        self._layer = layer
        self._tapped = tapped
        self._inputs: list[Any] = [None] * steps
        self._zeros: Sequence[Tensor] = ()

    def __call__(self, x: Tensor, t: int) -> Tensor:
        out = _apply(self._layer, x)
        # The graph holds the tap, and the tap these inputs. They must not hold the graph.
        self._inputs[t] = x.detach()
        if not self._zeros:
            zeros = out.new_zeros(()).expand(len(out), len(self._inputs), out.shape[-1])
            stacked = partial(torch.stack, self._inputs, 1)
            self._zeros = self._tapped(zeros, self._layer, stacked).unbind(1)
        return out + self._zeros[t]


def _apply(layer: Linear, x: Tensor) -> Tensor:
    """Apply a linear layer without the gradient of its weights."""
    assert layer.weight is not None
    return F.linear(x, layer.weight.detach(), None if layer.bias is None else layer.bias.detach())


def _lstm(x: Tensor, hidden: Tensor, _: Tensor, cell: Tensor) -> State:
    i, f, g, o = (x + hidden).chunk(4, 1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _gru(x: Tensor, hidden: Tensor, before: Tensor) -> State:
    (r, z, n), (hidden_r, hidden_z, hidden_n) = x.chunk(3, 1), hidden.chunk(3, 1)
    z = (z + hidden_z).sigmoid()
    n = (n + (r + hidden_r).sigmoid() * hidden_n).tanh()
    return ((1 - z) * n + z * before,)


def _tanh(x: Tensor, hidden: Tensor, _: Tensor) -> State:
    return ((x + hidden).tanh(),)


def _relu(x: Tensor, hidden: Tensor, _: Tensor) -> State:
    return ((x + hidden).relu(),)


_STEPS: dict[str, Callable[..., State]] = {"LSTM": _lstm, "GRU": _gru, "RNN_TANH": _tanh, "RNN_RELU": _relu}
