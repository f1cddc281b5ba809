"""The calls of layers of unknown types in a captured pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dpmi.privacy.isolation.arguments import operands
from dpmi.privacy.isolation.labels import Coupled, Public, Records
from dpmi.privacy.isolation.program import Step
from dpmi.privacy.isolation.provenance import Provenance

from .other_layers import output_dimensions, record_dimension, run_by_bucket
from .recurrent import can_be_written_out, written_out

if TYPE_CHECKING:
    from .capture import Capture


class Leaves:
    """Replaces the forward methods of layers of unknown types during a pass.

    Such a layer is followed call by call, has its time steps written out if it is a recurrent layer of PyTorch, or runs
    bucket by bucket.

    Args:
        capture: the pass.
        by_bucket: the layers and whether each is not followed, from
            :func:`~dpmi.privacy.gradients.other_layers.other_leaves`. The first dry run adds those whose calls cannot
            be followed.
    """

    def __init__(self, capture: Capture, by_bucket: dict[nn.Module, bool]) -> None:
        self._capture = capture
        self._by_bucket = by_bucket
        self._recurrent: set[nn.Module] = set()
        self._own_forwards: list[Callable[..., Any] | None] = []

    def replace(self) -> None:
        """Replace the forward methods."""
        self._recurrent = {leaf for leaf in self._by_bucket if can_be_written_out(leaf)}
        for leaf in self._by_bucket:
            self._own_forwards.append(vars(leaf).get("forward"))
            leaf.forward = partial(self._call, leaf, leaf.forward)

    def restore(self) -> None:
        """Restore them."""
        for leaf, own in zip(self._by_bucket, self._own_forwards, strict=True):
            if own is None:
                del leaf.forward
            else:
                leaf.forward = own
        self._own_forwards.clear()

    def _call(self, leaf: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        capture = self._capture
        own = capture.trained_of(leaf)
        followed = ""
        if capture.is_paused or not torch.is_grad_enabled() or not own:
            return forward(*args, **kwargs)
        if not self._by_bucket[leaf]:
            try:
                with capture.undone_in_a_dry_run():
                    out = forward(*args, **kwargs)
                    self._check_labels(out)
            except Coupled as error:
                if capture.has_program:
                    raise
                self._by_bucket[leaf], followed = True, str(error)
            else:
                return out
        capture.is_paused = True  # the calls of the layer do not count as calls of the pass
        try:
            return self._run(leaf, forward, own, args, kwargs)
        except Coupled as error:
            capture.problem = capture.problem or followed or str(error)
            raise Coupled(capture.problem) from error
        finally:
            capture.is_paused = False

    def _check_labels(self, out: Any) -> None:
        """Raise an error for a tensor that was made by calls that cannot be observed."""
        self._capture.is_paused = True  # the attributes that hold a label are no calls of the pass
        try:
            for t in operands((out,), {}):
                self._capture.label(t)
        finally:
            self._capture.is_paused = False

    def _run(
        self,
        leaf: nn.Module,
        forward: Callable[..., Tensor],
        own: dict[str, nn.Parameter],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Run a layer that is not followed; it is one call of the pass."""
        capture = self._capture
        tensors = operands(args, kwargs)
        labels = [capture.label(t) for t in tensors]
        for t, label in zip(tensors, labels, strict=True):
            if type(label) is Public and t.requires_grad:
                raise Coupled(f"{type(leaf).__name__} gets a tensor that was computed from parameters")
        place = Records(record_dimension(leaf))
        name = self._name(own)
        if place not in labels:
            raise Coupled(f"{name} is used by {type(leaf).__name__} without records")
        arguments = capture.arguments(args, kwargs)
        capture.compare(leaf, arguments)
        if isinstance(leaf, nn.RNNBase) and leaf in self._recurrent and tensors[0].dim() == 3:
            x, states = _recurrent_arguments(leaf, *args, **kwargs)
            self._check_place(leaf, name, x, place)
            for state in states:
                self._check_place(leaf, name, state, Records(1))
            out = written_out(leaf, x, states, capture.tapped)
        else:
            for t in tensors:
                if type(capture.label(t)) is Records:
                    self._check_place(leaf, name, t, place)
            out = self._run_by_bucket(leaf, forward, own, args, kwargs)
        made = operands((out,), {})
        at = len(capture.trace)
        capture.add_step(Step(leaf, arguments, tuple(tuple(t.shape) for t in made)))
        for i, dim in enumerate(output_dimensions(leaf, len(made)) or ()):
            capture.put_label(made[i], Records(dim), (at, i))
        return out

    def _name(self, own: dict[str, nn.Parameter]) -> str:
        return f"parameter {self._capture.named([{id(p): p for p in own.values()}])}"

    def _check_place(self, leaf: nn.Module, name: str, t: Tensor, place: Records) -> None:
        label = self._capture.label(t)
        if label != place and not self._capture.has_a_row_per_record(t, label, place.dim):
            raise Coupled(
                f"{name}: {type(leaf).__name__} gets a tensor of shape {tuple(t.shape)} that does not hold the records "
                f"in dimension {place.dim} (use batch_first=True and no packed sequences)"
            )

    def _run_by_bucket(
        self,
        leaf: nn.Module,
        forward: Callable[..., Tensor],
        own: dict[str, nn.Parameter],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        capture = self._capture
        capture.use([{id(p): p for p in own.values()}])
        of_records = {id(t) for t in operands(args, kwargs) if type(capture.label(t)) is Records}
        try:
            return run_by_bucket(
                leaf,
                partial(self._call_one_bucket, forward),
                own,
                capture.segments,
                lambda p, rows: capture.add_back(p, rows, {id(p): p}),
                of_records=of_records,
                args=args,
                kwargs=kwargs,
            )
        except TypeError as error:
            raise Coupled(f"{self._name(own)}: {error}") from error
        finally:
            if isinstance(leaf, nn.RNNBase):
                # Its internal list of weights still refers to the copies of the last bucket.
                leaf._update_flat_weights()

    def _call_one_bucket(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a layer on one bucket, and check that it stores nothing for the next one."""
        provenance = Provenance(self._capture.public, buffers=frozenset(), storages=frozenset, token=object())
        for t in operands(args, kwargs):
            provenance.take_in(t)
        with provenance:
            return forward(*args, **kwargs)


def _recurrent_arguments(
    leaf: nn.RNNBase, input: Tensor, hx: Any = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the input and the states that a recurrent layer is called with, after its own checks."""
    if hx is None:
        leaf.check_input(input, None)
        return input, ()
    leaf.check_forward_args(input, hx, None)
    return input, hx if isinstance(hx, tuple) else (hx,)
