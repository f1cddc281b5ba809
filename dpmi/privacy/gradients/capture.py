"""Captures the gradients of several buckets in one forward and backward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dpmi.privacy.isolation.labels import Coupled, Label, Public, Records
from dpmi.privacy.isolation.program import Program
from dpmi.privacy.isolation.public import PublicTensors
from dpmi.privacy.isolation.rules import Call

from . import conv, embedding, linear, normalization  # noqa: F401 (they register the functions that are intercepted)
from .factors import Implicit
from .layer import INTERCEPTED, Layer
from .leaves import FollowedLeaves
from .linear import PRODUCTS, product
from .recomputed import Recomputed, Rows, RowsOfLayer
from .row_norms import row_norms
from .segments import Segments
from .spread import Spread, back_to, sources, spread


class Capture(FollowedLeaves):
    """Computes one gradient row per bucket, never one per record, for the trained parameters of a module.

    ``with capture:`` encloses the forward pass only. Inside it, calls such as ``F.linear`` whose weight or bias is a
    trained parameter are made with that parameter detached, so that autograd does not compute the gradient over the
    whole batch. Their output gets a tap, which computes the rows in the backward pass. A trained parameter that is
    combined with records in any other call ends the pass with an error, like every call that mixes records. Trained
    public values that meet records entry by entry are spread over them, see :mod:`.spread`.

    The taps accept gradients only within ``with capture.taking():``, that is, in the backward pass of the criterion.
    They raise an error if the user calls backward() on anything else, such as an activation that the module stored.

    Args:
        parameters: names and trained parameters, as in ``module.named_parameters()``.
        segments: the buckets of the physical batch.
        public: the tensors that depend on no record.
        leaves: modules of unknown types, see :class:`~dpmi.privacy.gradients.leaves.FollowedLeaves`.
        ghost: store no rows that need more memory than their factors; :attr:`squared_norms` and :meth:`weighted_sum`
            do not need them. Those of a parameter that is used more than once are computed for a few buckets at a time,
            because the norm of a sum does not follow from the norms of its terms.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        segments: Segments,
        *,
        public: PublicTensors,
        leaves: dict[nn.Module, bool] | None = None,
        ghost: bool = False,
    ) -> None:
        super().__init__(public, segments, leaves or {})
        self.rows: dict[Tensor, Tensor] = {}
        """Gradient of each parameter that backward() reached, (k, *shape), summed over the records of each bucket."""
        self._implicit: dict[Tensor, Implicit] = {}
        self._recomputed: dict[Tensor, Recomputed] = {}
        self._ghost = ghost
        self._names = {id(p): name for name, p in parameters}
        self._used: Counter[int] = Counter()
        """How often each parameter was used since the last backward pass, by id."""
        self._taking = False
        # Without it, the output of a first layer would have no graph node and no gradient.
        self._anchor = torch.zeros((), requires_grad=True)
        self._by_rows: dict[int, Segments] = {1: segments}

    @property
    def is_empty(self) -> bool:
        """True until a backward pass has reached a trained parameter."""
        return not self.rows and not self._implicit and not self._recomputed

    def clear(self) -> None:
        """Discard the gradients of the backward passes so far."""
        for held in (self.rows, self._implicit, self._recomputed):
            for p in held:
                del self._used[id(p)]
            held.clear()

    def squared_norms(self, parameters: Iterable[Tensor]) -> Tensor:
        """Return the squared norm of each bucket's gradient for these parameters together, (k,) float64.

        It is at most a relative 2^-19 smaller than that of the gradient that :meth:`weighted_sum` adds for the bucket.
        """
        among = list(parameters)
        squares = [
            held[p].squared_norms for p in among for held in (self._implicit, self._recomputed) if p in held
        ]
        if rows := [self.rows[p] for p in among if p in self.rows]:
            squares.append(row_norms(rows).square())
        if not squares:
            return torch.zeros(self.segments.num_buckets, dtype=torch.float64)
        return torch.stack(squares).sum(0)

    def weighted_sum(self, factors: Tensor, parameter: Tensor) -> Tensor | None:
        """Return the sum over buckets of factor times gradient, (*shape); None if backward() did not reach it.

        Args:
            factors: one factor per bucket, (k,).
            parameter: the parameter.
        """
        for held in (self._implicit, self._recomputed):
            if parameter in held:
                return held[parameter].weighted_sum(factors)
        if parameter in self.rows:
            rows = self.rows[parameter]
            return torch.mv(rows.flatten(1).T, factors.to(rows)).view(parameter.shape)
        return None

    @contextmanager
    def taking(self) -> Iterator[None]:
        """Let the taps accept the gradients of a backward pass, which must start from losses of single buckets."""
        before, self._taking = self._taking, True
        try:
            yield
        finally:
            self._taking = before

    def operand_labels(self, func: Callable[..., Any], tensors: list[Tensor]) -> list[Label]:
        """Return the labels of the operands. A layer's public input with one equal row per record counts as records.

        An example is the initial state of a recurrent cell: the layer's gradient for it can be split by bucket.
        """
        labels = super().operand_labels(func, tensors)
        if (
            func in INTERCEPTED
            and tensors[0].dim() > 1
            and self.has_a_row_per_record(tensors[0], labels[0], 0)
        ):
            labels[0] = Records(0)
        return labels

    def call(self, call: Call, label: Label | Callable[[Any], Label]) -> Any:
        """Make a call, with a tap if it uses trained parameters."""
        if not torch.is_grad_enabled():
            return call.func(*call.args, **call.kwargs)
        parse = INTERCEPTED.get(call.func)
        parsed = None
        if parse is not None and type(call.labels[0]) is Records:
            parsed = parse(*call.args, **call.kwargs)
        elif call.func in PRODUCTS:
            parsed = product(call)
        if parsed is None:
            return self._call_spread(call, label)
        x, layer = parsed
        weights = _trained(layer)
        if not weights:
            return self._call_spread(call, label)
        self._check_parameters(call, weights)
        of_input = self._label_among(call, x)
        into = label if isinstance(label, Records) else of_input
        names, take = self._tap(layer, weights, of_input, into)
        out = _with(call, {id(p): p.detach() for p in weights})
        return _Tap.apply(out, x, self._anchor, names, take)

    def tapped(self, out: Tensor, layer: Layer, x: Tensor | Callable[[], Tensor]) -> Tensor:
        """Return the output of a layer, called without the gradient of its weights, with a tap that computes it.

        Args:
            out: (records, ...); it must not be used otherwise.
            layer: the layer.
            x: its input, (records, ...), or a function that returns it in the backward pass.
        """
        if not (weights := _trained(layer)):
            return out
        names, take = self._tap(layer, weights, Records(0), Records(0))
        if isinstance(x, Tensor):
            return _Tap.apply(out, x, self._anchor, names, take)  # type: ignore[no-any-return]
        return _SpreadTap.apply(out, self._anchor, lambda g: take(x(), g))  # type: ignore[no-any-return]

    def _tap(
        self, layer: Layer, weights: Iterable[Tensor], of_input: Label, of_output: Label
    ) -> tuple[str, Callable[[Tensor, Tensor], None]]:
        """Count a use of a layer's weights; return their names, and what takes its input and output gradient."""
        found = {id(p): sources(p, self._names) for p in weights}
        names = self.named(found.values())
        if layer.unsupported is not None:
            raise Coupled(f"parameter {names}: {layer.unsupported}")
        self.is_plain = False
        self._check_not_recomputed(names)
        self.use(found.values())
        return names, partial(self._take, layer, found, of_input, of_output)

    def _call_spread(self, call: Call, label: Label | Callable[[Any], Label]) -> Any:
        """Make a call whose trained public operands meet the records entry by entry, if there are any."""
        if type(label) is Public or Records not in map(type, call.labels):
            return call.func(*call.args, **call.kwargs)
        replaced: dict[int, Tensor] = {}
        for i, (t, of_operand) in enumerate(zip(call.tensors, call.labels, strict=True)):
            if type(of_operand) is not Public or not t.requires_grad or id(t) in replaced:
                continue
            own = spread(call, i)
            if own is None:
                raise self._cannot_be_split(call, t)
            found = sources(t, self._names)
            self.is_plain = False
            self._check_not_recomputed(self.named([found]))
            self.use([found])
            replaced[id(t)] = _SpreadTap.apply(
                own.values, self._anchor, partial(self._take_spread, own, found)
            )
        return _with(call, replaced) if replaced else call.func(*call.args, **call.kwargs)

    def begin_pass(self, inputs: Iterable[Tensor], program: Program | None) -> None:
        """Start a forward pass, see :class:`Following`."""
        super().begin_pass(inputs, program)
        self._used_before = Counter(self._used)

    def undo_pass(self) -> None:
        """Discard the last forward pass, whose gradients are not needed."""
        self._used = self._used_before

    def trained_of(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """Return the trained parameters of a part of the module."""
        return {name: p for name, p in module.named_parameters() if id(p) in self._names}

    @contextmanager
    def undone_in_a_dry_run(self) -> Iterator[None]:
        """Undo the calls of this block if one of them is refused in a dry run.

        What they wrote before has a label of a step that is gone, which ends the pass if it is used.
        """
        before = len(self.trace), Counter(self._used), self.problem
        try:
            yield
        except Coupled:
            if not self.has_program:
                del self.trace[before[0] :]
                _, self._used, self.problem = before
            raise

    def check_outputs(self, outputs: Sequence[Tensor]) -> None:
        """Reject outputs that depend on parameters only, and custom autograd functions.

        Raises:
            Coupled: the pass is rejected.
        """
        for t in outputs:
            if type(self.label(t)) is Public and t.requires_grad:
                self._fail(
                    "the module returns a tensor that was computed from parameters only, without the records"
                )
        if self.is_known:
            return  # it made the calls of a pass whose graph was searched
        seen = set()
        nodes = [t.grad_fn for t in outputs]
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            own = getattr(node, "_forward_cls", None)
            if own is not None and own is not _Tap and own is not _SpreadTap:
                self._fail(
                    f"{own.__name__} is a custom autograd function, whose backward pass may mix records"
                )
            nodes.extend(following for following, _ in node.next_functions)

    def _fail(self, reason: str) -> None:
        self.problem = reason
        raise Coupled(reason)

    def named(self, found: Iterable[Mapping[int, Tensor]]) -> str:
        """Return the names of parameters for a message."""
        return " and ".join(repr(self._names[i]) for own in found for i in own)

    def _label_among(self, call: Call, x: Tensor) -> Label:
        return next(label for t, label in zip(call.tensors, call.labels, strict=True) if t is x)

    def _check_not_recomputed(self, names: str) -> None:
        if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
            raise Coupled(
                f"the layer with parameter {names} is recomputed in the backward pass (gradient checkpointing)"
            )

    def use(self, found: Iterable[Mapping[int, Tensor]]) -> None:
        """Count a use of these parameters."""
        for own in found:
            for i in own:
                self._used[i] += 1

    def _check_parameters(self, call: Call, trained: Sequence[Tensor]) -> None:
        """Raise an error for parameters whose gradient autograd would sum over all records of the batch."""
        for t, label in zip(call.tensors, call.labels, strict=True):
            if type(label) is Public and t.requires_grad and not any(t is p for p in trained):
                raise self._cannot_be_split(call, t)

    def _cannot_be_split(self, call: Call, t: Tensor) -> Coupled:
        name = self._names.get(id(t))
        what = "a tensor computed from parameters" if name is None else f"parameter {name!r}"
        return Coupled(
            f"{what} is used by {call.name}, which is not a layer whose gradients can be split by bucket"
        )

    def _take(  # noqa: PLR0917 (the last two are those of the tap)
        self,
        layer: Layer,
        found: Mapping[int, Mapping[int, Tensor]],
        of_input: Label,
        of_output: Label,
        x: Tensor,
        g: Tensor,
    ) -> None:
        x, segments = self._records_first(x, of_input)
        g, _ = self._records_first(g, of_output)
        if layer.weight is not None and (own := found.get(id(layer.weight))):
            implicit = None
            if self._ghost and self._used[id(layer.weight)] == 1:
                implicit = layer.implicit(x, g, segments)
            if implicit is not None:
                self._add_implicit(layer.weight, implicit)
            elif self._ghost:
                self.add_back(layer.weight, RowsOfLayer(layer, x, g, segments, x._version), own)
            else:
                self.add_back(layer.weight, layer.weight_rows(x, g, segments), own)
        if layer.bias is not None and (own := found.get(id(layer.bias))):
            self.add_back(layer.bias, layer.bias_rows(g, segments), own)

    def _take_spread(self, own: Spread, found: Mapping[int, Tensor], g: Tensor) -> None:
        self.add_back(own.source, own.rows(*self._records_first(g, own.place)), found)

    def add_back(self, t: Tensor, rows: Tensor | Rows, found: Mapping[int, Tensor]) -> None:
        """Add the gradients of the parameters that a tensor was computed from, for those of the tensor."""
        every = slice(0, self.segments.num_buckets)
        for p in found.values():
            if self._ghost and (t is not p or self._used[id(p)] > 1):
                self._add_recomputed(p, partial(_rows_back, p, t, rows))
            else:
                self._add(p, _rows_back(p, t, rows, every))

    def _records_first(self, t: Tensor, label: Label) -> tuple[Tensor, Segments]:
        """Return the tensor with the records in dimension 0 (one or more rows each), and the buckets of the rows."""
        assert isinstance(label, Records)
        rows = label.before * label.within
        if label.dim:
            t = t.movedim(label.dim, 0)
        if label.before > 1:
            parts = t.reshape(label.before, self.records, label.within, *t.shape[1:])
            t = parts.transpose(0, 1).reshape(t.shape)
        found = self._by_rows.get(rows)
        if found is None:
            found = self._by_rows[rows] = Segments([size * rows for size in self.segments.sizes])
        return t, found

    def _add(self, p: Tensor, rows: Tensor) -> None:
        self._check_taking(p)
        if p in self._recomputed:
            self._recomputed[p].parts.append(rows.__getitem__)
        elif p in self.rows:
            self.rows[p] += rows
        else:
            self.rows[p] = rows

    def _add_recomputed(self, p: Tensor, rows: Rows) -> None:
        self._check_taking(p)
        held = self._recomputed.setdefault(p, Recomputed(p, self.segments.num_buckets))
        if p in self.rows:  # of an earlier backward pass, when it was used once
            held.parts.append(self.rows.pop(p).__getitem__)
        held.parts.append(rows)

    def _add_implicit(self, p: Tensor, gradient: Implicit) -> None:
        self._check_taking(p)
        self._implicit[p] = gradient

    def _check_taking(self, p: Tensor) -> None:
        name = self._names[id(p)]
        if not self._taking:
            raise RuntimeError(
                f"several buckets share this physical batch, but backward() reached parameter {name!r} from a tensor "
                "other than the loss of the criterion that make_private returned; nothing was released. Move the "
                "whole loss into the criterion, or use grad_sample_mode='stream'"
            )
        if p in self._implicit:
            raise RuntimeError(
                f"two backward passes reached parameter {name!r} for one physical batch, which "
                'grad_sample_mode="ghost" does not support; call backward() once, or use "hooks" or "stream"'
            )


def _trained(layer: Layer) -> list[Tensor]:
    return [p for p in (layer.weight, layer.bias) if p is not None and p.requires_grad]


def _with(call: Call, replaced: Mapping[int, Tensor]) -> Any:
    """Make a call with other tensors in the place of those with these ids."""

    def other(value: Any) -> Any:
        if isinstance(value, Tensor):
            return replaced.get(id(value), value)
        return type(value)(map(other, value)) if type(value) in (list, tuple) else value

    return call.func(*map(other, call.args), **{key: other(value) for key, value in call.kwargs.items()})


def _rows_back(p: Tensor, t: Tensor, rows: Tensor | Rows, buckets: slice) -> Tensor:
    """Return the gradient of a parameter for some buckets, given that of a tensor that was computed from it."""
    return back_to(p, t, rows[buckets] if isinstance(rows, Tensor) else rows(buckets))


class _SpreadTap(torch.autograd.Function):
    """The identity; its backward pass calls ``take`` with the gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, anchor: Tensor, take: Callable[[Tensor], None]) -> Tensor:
        ctx.take = take
        return values.view_as(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[None, ...]:
        with torch.autocast(g.device.type, enabled=False):
            ctx.take(g)
        return None, None, None


class _Tap(torch.autograd.Function):
    """The identity; its backward pass calls ``take`` with the input and the output gradient of a layer.

    The output is marked as modified in place instead of copied, so later operations may modify it again.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 (autograd knows no keywords)
        ctx: Any, out: Tensor, x: Tensor, anchor: Tensor, names: str, take: Callable[[Tensor, Tensor], None]
    ) -> Tensor:
        ctx.mark_dirty(out)
        ctx.save_for_backward(x)  # autograd guards it against modification and frees it after use
        ctx.names = names
        ctx.take = take
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        try:
            (x,) = ctx.saved_tensors
        except RuntimeError as error:
            if "inplace" not in str(error):
                raise
            raise RuntimeError(
                f"the input of the layer with parameter {ctx.names} was modified in place after the layer used it; "
                "use the out-of-place version of the operation"
            ) from error
        if torch.is_autocast_enabled(g.device.type):
            with torch.autocast(g.device.type, enabled=False):
                ctx.take(x.detach(), g)
        else:  # entering the context would take as long as a small layer
            ctx.take(x.detach(), g)
        return g, None, None, None, None
