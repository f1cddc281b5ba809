"""Isolation of passes with one bucket at a time: no result of one pass may reach the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .arguments import operands, writes_in_place
from .functions import METADATA
from .public import PublicTensors
from .reach import Reached, reached


def _named(names: str) -> frozenset[Any]:
    return frozenset(getattr(Tensor, name) for name in names.split())


MEMORY = _named("numpy __array__ untyped_storage storage __dlpack__ set_")
"""Functions that give access to the memory of a tensor, so that writes to it cannot be observed."""

_RENORMALISES = frozenset({F.embedding, F.embedding_bag})
"""Functions that write to their table if they get a max_norm, before this mode can observe it."""

_STATISTICS = frozenset({"batch_norm", "instance_norm"})
"""Functions that write to the running statistics among their arguments."""

_BACKWARD = frozenset({Tensor.backward, torch.autograd.grad, torch.autograd.backward})

_HOOKS = _named("register_hook register_post_accumulate_grad_hook")


class CarriedOver(RuntimeError):
    """A forward pass stores values of one bucket where they could reach the next bucket or the released model."""


def changed(kind: str, name: str) -> str:
    """Return the message for a forward pass that changed a buffer, a parameter or an attribute of the module."""
    if kind == "parameter":
        return (
            f"the forward pass changed parameter {name!r}, which only the private optimizer may change: the change "
            "would be released without noise, and would reach other buckets. Remove it from the forward pass"
        )
    if kind == "buffer":
        return (
            f"the forward pass changed buffer {name!r}: statistics of the private records would be released without "
            "noise, and would reach other buckets. Use a layer without running statistics, such as GroupNorm"
        )
    if kind == "number":
        return (
            f"the forward pass read numbers from the records, and changed {name!r}: the stored value of one bucket "
            "could reach the next one. Return it with the outputs, or store a detached tensor"
        )
    return (
        f"the forward pass changed attribute {name!r}: the stored value of one bucket could reach the next one. "
        "Recompute it in every pass, or compute it outside of the module from public values"
    )


class Provenance(TorchFunctionMode):
    """Within ``with provenance:``, every tensor must be public or computed from this bucket.

    A tensor from the pass of another bucket is rejected, unless it depends on no record. A write to a public tensor, or
    to memory that it shares, is also rejected. There is one exception: buffers may be overwritten with values that
    depend on public tensors only, as spectral normalization does; :attr:`before` then holds their earlier values.

    A tensor that no pass made, such as a constant from a closure, counts as public. Writes are detected by version
    counters, not only by the name of the function, because batch normalisation, for example, also writes.

    Args:
        public: the tensors that depend on no record.
        buffers: the buffers among them, by id.
        storages: returns the memory addresses of all of them; called at every write.
        token: identifies this bucket; passes over the same records share it.
        root: the module or the criterion. After the first number is read from the records, no number that its code can
            reach may change.
    """

    def __init__(
        self,
        public: PublicTensors,
        *,
        buffers: frozenset[int],
        storages: Callable[[], frozenset[int]],
        token: object,
        root: object = None,
    ) -> None:
        super().__init__()
        self._root = root
        self._reached: Reached | None = None
        self._is_backward = False
        self._public = public
        self._buffers = buffers
        self._storages = storages
        self._token = token
        self._numbers_left = False
        self._sharing: dict[int, list[Tensor]] = {}
        self.before: dict[Tensor, Tensor] = {}
        """Copies of the buffers that were written to, from before the first write."""
        self.used: set[int] = set()
        """Tensors from before the pass that it has used, by id."""

    def take_in(self, t: Tensor) -> None:
        """Label a tensor of this bucket."""
        if t not in self._public:
            t._dpmi = (self._token, False)  # type: ignore[attr-defined]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        classes: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Make a call if all of its tensors are from this bucket or public.

        Raises:
            CarriedOver: a tensor is from another bucket, or the call writes to a public tensor.
        """
        kwargs = kwargs or {}
        if func in METADATA:
            return func(*args, **kwargs)
        tensors = operands(args, kwargs)
        pure = not self._numbers_left
        for t in tensors:
            mark = getattr(t, "_dpmi", None)
            if mark is not None and not mark[1] and t not in self._public:
                if mark[0] is not self._token:
                    raise CarriedOver(
                        f"a tensor of shape {tuple(t.shape)} that was computed from the records of another bucket is "
                        "used again. Do not store values of one forward pass for the next"
                    )
                pure = False
            elif mark is None and self._is_backward and t not in self._public:
                pure = False  # a tensor that was saved in the forward pass has lost its label
            if mark is None or mark[0] is not self._token:
                self.used.add(id(t))
        name = getattr(func, "__name__", "")
        args = self._watched_args(func, name, tensors, args, kwargs)
        written = kwargs.get("out")
        if written is None and tensors and writes_in_place(func, name, kwargs):
            written = tensors[0]
        written = (written,) if isinstance(written, Tensor) else written or ()
        for t in written:
            self._check_write(t, name, pure=pure)
        read = [t for t in tensors if all(t is not other for other in written)]
        out = self._run(partial(func, *args, **kwargs), name, read, pure=pure)
        if pure:
            for t in tensors:
                self._note_pure(t)
        self._mark(out, tensors, pure)
        return out

    def _watched_args(
        self,
        func: Callable[..., Any],
        name: str,
        tensors: list[Tensor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Any, ...]:
        """Check a call that writes, or runs user code, unobserved; return its arguments, with hooks wrapped."""
        if func in MEMORY:
            self._check_memory(tensors[0], name)
        elif func in _BACKWARD:
            self.watch_backward(tensors)
        elif func in _RENORMALISES and (args[3] if len(args) > 3 else kwargs.get("max_norm")) is not None:
            table = args[1] if len(args) > 1 else kwargs["weight"]
            self._check_write(table, f"{name} with max_norm", pure=False)
        elif func in _HOOKS and len(args) > 1:
            return (args[0], self.watched(args[1]), *args[2:])
        return args

    def _run(self, call: Callable[[], Any], name: str, read: list[Tensor], *, pure: bool) -> Any:
        """Make a call, and check writes that its name does not show."""
        versions = [version(t) for t in read]
        # Running statistics change no version counter, or change it too late; they are restored before the error.
        values = [t.detach().clone() for t in read] if name in _STATISTICS else []
        out = call()
        try:
            for i, t in enumerate(read):
                if version(t) != versions[i] or (values and not torch.equal(t, values[i])):
                    self._check_write(t, name, pure=pure and t not in self._public)
        except CarriedOver:
            for t, value in zip(read, values, strict=False):
                if not torch.equal(
                    t, value
                ):  # the unchanged input may be expanded, which copy_ does not support
                    t.detach().copy_(value)
            raise
        return out

    def forget_numbers(self) -> None:
        """Check that numbers that the pass read from its records do not remain after it.

        Random generators continue from their state at the time of the first read.

        Raises:
            CarriedOver: a number was stored where the next pass could find it; the message names it.
        """
        if self._reached is None:
            return
        self._reached.generators.go_on()
        before, self._reached = self._reached.numbers, None
        now = reached(self._root).numbers
        for name in before.keys() | now.keys():
            old, new = before.get(name), now.get(name)
            if old is not new and (type(old) is not type(new) or old != new):
                raise CarriedOver(changed("number", name))

    def watched(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a hook of the backward pass, so that it cannot store values for another bucket either."""

        @wraps(hook)
        def run(*args: Any) -> Any:
            for t in operands(args, {}):
                self.take_in(t)
            with self:
                out = hook(*args)
            self.forget_numbers()
            return out

        return run

    def watch_backward(self, outputs: Iterable[Tensor], *, inputs: Iterable[Tensor] = ()) -> None:
        """Check the backward passes of custom autograd functions, so that they store nothing either.

        Args:
            outputs: outputs of the pass; their graph is searched.
            inputs: tensors at which the search ends.
        """
        seen = {t.grad_fn for t in inputs} | {None}
        nodes: list[Any] = [t.grad_fn for t in outputs]
        while nodes:
            node = nodes.pop()
            if node not in seen:
                seen.add(node)
                nodes.extend(following for following, _ in node.next_functions)
                if hasattr(node, "_forward_cls") and not hasattr(node, "_dpmi"):
                    node._dpmi = self
                    node.apply = self._watched_function(node.apply)

    def _watched_function(self, apply: Callable[..., Any]) -> Callable[..., Any]:
        watched = self.watched(apply)

        def run(*gradients: Any) -> Any:
            before = reached(self._root).tensors
            self._is_backward = True
            try:
                out = watched(*gradients)
            finally:
                self._is_backward = False
            for t in reached(self._root).tensors:
                if all(t is not other for other in before):
                    self.take_in(t)
            return out

        return run

    def _check_memory(self, t: Tensor, name: str) -> None:
        if t in self._public or (t.numel() and t.untyped_storage().data_ptr() in self._storages()):
            raise CarriedOver(
                f"{name} in the forward pass exposes the memory of a parameter, a buffer or an attribute, to which "
                "writes could not be observed. Make a copy first, with clone()"
            )

    def _check_write(self, t: Tensor, name: str, *, pure: bool) -> None:
        if t in self._public:
            if not (pure and id(t) in self._buffers):
                kind = (
                    "buffer" if id(t) in self._buffers else "parameter" if isinstance(t, nn.Parameter) else ""
                )
                raise CarriedOver(changed(kind or "attribute", self._public.name(t)))
            if t not in self.before:
                self.before[t] = t.detach().clone()
        elif t.numel() and t.untyped_storage().data_ptr() in self._storages():
            raise CarriedOver(
                f"{name} in the forward pass writes into the memory of a parameter, a buffer or an attribute of the "
                "module, which remains after the pass. Write to a copy, made with clone()"
            )
        elif not pure:
            t._dpmi = (self._token, False)  # type: ignore[attr-defined]
            for other in self._sharing.get(memory(t), ()):
                other._dpmi = (self._token, False)  # type: ignore[attr-defined]

    def _note_pure(self, t: Tensor) -> None:
        """Store a tensor that depends on no record, because a write to another one, such as its view, may change it."""
        if t not in self._public:
            self._sharing.setdefault(memory(t), []).append(t)

    def _mark(self, out: Any, tensors: list[Tensor], pure: bool) -> None:
        if isinstance(out, Tensor):
            if out not in self._public and not any(out is t for t in tensors):
                out._dpmi = (self._token, pure)  # type: ignore[attr-defined]
                if pure:
                    self._note_pure(out)
        elif isinstance(out, tuple | list):
            for t in out:
                self._mark(t, tensors, pure)
        elif tensors and not pure:
            self._numbers_left = True
            if self._reached is None:
                self._reached = reached(self._root)


def version(t: Tensor) -> int:
    """Return the number of writes to a tensor or its shared memory; 0 for tensors without a version counter."""
    return 0 if t.is_inference() else t._version


def memory(t: Tensor) -> int:
    """Return the address of a tensor's memory; 0 if it has none that another could share (sparse, batched)."""
    try:
        return t.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0
