"""The calls of layers of unknown types in a captured pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from dpmi.privacy.isolation.arguments import operands
from dpmi.privacy.isolation.follow import Following
from dpmi.privacy.isolation.labels import Coupled, Public, Records
from dpmi.privacy.isolation.provenance import Provenance
from dpmi.privacy.isolation.public import PublicTensors
from dpmi.privacy.isolation.step import Step

from .linear import Linear
from .other_layers import output_dimensions, record_dimension, run_by_bucket
from .recurrent import can_be_written_out, written_out
from .segments import Segments


class FollowedLeaves(Following, ABC):
    """A pass in which the forward methods of layers of unknown types are replaced.

    Such a layer is followed call by call, has its time steps written out if it is a recurrent layer of PyTorch, or runs
    bucket by bucket.

    Args:
        public: the tensors that depend on no record.
        segments: the buckets of the physical batch.
        leaves: the layers and whether each is not followed, from
            :func:`~dpmi.privacy.gradients.other_layers.other_leaves`. The first dry run adds those whose calls cannot
            be followed.
    """

    def __init__(self, public: PublicTensors, segments: Segments, leaves: dict[nn.Module, bool]) -> None:
        super().__init__(public, segments.records)
        self.segments = segments
        self._leaves = leaves
        self._recurrent: set[nn.Module] = set()
        self._own_forwards: list[Callable[..., Any] | None] = []

    @abstractmethod
    def trained_of(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """Return the trained parameters of a part of the module."""

    @abstractmethod
    def named(self, found: Iterable[Mapping[int, Tensor]]) -> str:
        """Return the names of parameters for a message."""

    @abstractmethod
    def use(self, found: Iterable[Mapping[int, Tensor]]) -> None:
        """Count a use of these parameters."""

    @abstractmethod
    def add_back(self, t: Tensor, rows: Tensor, found: Mapping[int, Tensor]) -> None:
        """Add the gradients of the parameters that a tensor was computed from, for those of the tensor."""

    @abstractmethod
    def tapped(self, out: Tensor, layer: Linear, x: Tensor | Callable[[], Tensor]) -> Tensor:
        """Return the output of a layer, called without the gradient of its weights, with a tap that computes it."""

    @abstractmethod
    def undone_in_a_dry_run(self) -> AbstractContextManager[None]:
        """Undo the calls of a block if one of them is refused in a dry run."""

    def __enter__(self) -> FollowedLeaves:
        if not self._apart:
            self._recurrent = {leaf for leaf in self._leaves if can_be_written_out(leaf)}
            for leaf in self._leaves:
                self._own_forwards.append(vars(leaf).get("forward"))
                leaf.forward = partial(self._call_leaf, leaf, leaf.forward)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        super().__exit__(exc_type, exc_val, exc_tb)  # type: ignore[no-untyped-call]
        if self._apart:
            return
        for leaf, own in zip(self._leaves, self._own_forwards, strict=True):
            if own is None:
                del leaf.forward
            else:
                leaf.forward = own
        self._own_forwards.clear()

    def _call_leaf(self, leaf: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        own = self.trained_of(leaf)
        followed = ""
        if self.is_paused or not torch.is_grad_enabled() or not own:
            return forward(*args, **kwargs)
        if not self._leaves[leaf]:
            try:
                with self.undone_in_a_dry_run():
                    out = forward(*args, **kwargs)
                    self._check_labels(out)
            except Coupled as error:
                if self.has_program:
                    raise
                self._leaves[leaf], followed = True, str(error)
            else:
                return out
        try:
            with self._paused():
                return self._run_leaf(leaf, forward, own, args, kwargs)
        except Coupled as error:
            self.problem = self.problem or followed or str(error)
            raise Coupled(self.problem) from error

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Do not count the calls of this block as calls of the pass."""
        self.is_paused = True
        try:
            yield
        finally:
            self.is_paused = False

    def _check_labels(self, out: Any) -> None:
        """Raise an error for a tensor that was made by calls that cannot be observed."""
        with self._paused():
            for t in operands((out,), {}):
                self.label(t)

    def _run_leaf(
        self,
        leaf: nn.Module,
        forward: Callable[..., Tensor],
        own: dict[str, nn.Parameter],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Run a layer that is not followed; it is one call of the pass."""
        tensors = operands(args, kwargs)
        labels = [self.label(t) for t in tensors]
        for t, label in zip(tensors, labels, strict=True):
            if type(label) is Public and t.requires_grad:
                raise Coupled(f"{type(leaf).__name__} gets a tensor that was computed from parameters")
        place = Records(record_dimension(leaf))
        name = self._name_of(own)
        if place not in labels:
            raise Coupled(f"{name} is used by {type(leaf).__name__} without records")
        arguments = self.arguments(args, kwargs)
        self.compare(leaf, arguments)
        if isinstance(leaf, nn.RNNBase) and leaf in self._recurrent and tensors[0].dim() == 3:
            x, states = _recurrent_arguments(leaf, *args, **kwargs)
            self._check_place(leaf, name, x, place)
            for state in states:
                self._check_place(leaf, name, state, Records(1))
            out = written_out(leaf, x, states, self.tapped)
        else:
            for t in tensors:
                if type(self.label(t)) is Records:
                    self._check_place(leaf, name, t, place)
            out = self._run_by_bucket(leaf, forward, own, args, kwargs)
        made = operands((out,), {})
        at = len(self.trace)
        self.add_step(Step(leaf, arguments, tuple(tuple(t.shape) for t in made)))
        for i, dim in enumerate(output_dimensions(leaf, len(made)) or ()):
            self.put_label(made[i], Records(dim), (at, i))
        return out

    def _name_of(self, own: dict[str, nn.Parameter]) -> str:
        return f"parameter {self.named([{id(p): p for p in own.values()}])}"

    def _check_place(self, leaf: nn.Module, name: str, t: Tensor, place: Records) -> None:
        label = self.label(t)
        if label != place and not self.has_a_row_per_record(t, label, place.dim):
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
        self.use([{id(p): p for p in own.values()}])
        of_records = {id(t) for t in operands(args, kwargs) if type(self.label(t)) is Records}
        try:
            return run_by_bucket(
                leaf,
                partial(self._call_one_bucket, forward),
                own,
                self.segments,
                lambda p, rows: self.add_back(p, rows, {id(p): p}),
                of_records=of_records,
                args=args,
                kwargs=kwargs,
            )
        except TypeError as error:
            raise Coupled(f"{self._name_of(own)}: {error}") from error
        finally:
            if isinstance(leaf, nn.RNNBase):
                # Its internal list of weights still refers to the copies of the last bucket.
                leaf._update_flat_weights()

    def _call_one_bucket(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a layer on one bucket, and check that it stores nothing for the next one."""
        provenance = Provenance(self.public, buffers=frozenset(), storages=frozenset, token=object())
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
