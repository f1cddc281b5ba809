"""What a loop holds while several buckets share a physical batch: guarded tensors that follow their records."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from dpmi.privacy.structures import map_tensors

from .arguments import operands, plain, writes_in_place
from .follow import Following
from .functions import METADATA
from .labels import Coupled, Records
from .program import SIZED
from .provenance import MEMORY


class Constants:
    """Tensors of the loop or of a criterion that were there before the first batch, such as a mean to subtract.

    The first dry run takes them in. What a later batch brings is not known to be one: it may be computed from the
    batch.
    """

    def __init__(self) -> None:
        self.learning = True
        self._known: dict[int, tuple[Tensor, int]] = {}

    def knows(self, t: Tensor) -> bool:
        """Whether a tensor is one of them, unchanged."""
        if self.learning and not hasattr(t, "_dpmi"):
            self._known.setdefault(id(t), (t, t._version))
        found = self._known.get(id(t))
        return found is not None and found[1] == t._version


class Shared:
    """One physical batch of several buckets, as the user's loop sees it.

    Args:
        following: labels of this batch.
        constants: of the loop.
        rehearsing: whether nothing of this batch will be released: then the loop sees what an ordinary forward pass
            computes, with its gradients, and all that it does is done to the followed tensors beside.
    """

    def __init__(self, following: Following, constants: Constants, *, rehearsing: bool) -> None:
        self._following: Following | None = following
        self.rehearsing = rehearsing
        self.numbers_left = False
        """Whether the loop has read a number off the batch: what it does from then on may depend on all records."""
        self._constants = constants

    @property
    def following(self) -> Following:
        """The labels."""
        assert self._following is not None
        return self._following

    @property
    def is_over(self) -> bool:
        """Whether the batch was stepped: its tensors are like any others, and gradients are not kept with them."""
        return self._following is None

    def end(self) -> None:
        """Let go of the labels."""
        self._following = None

    def take_in(self, t: Tensor, name: str) -> BucketTensor:
        """A tensor that the loader yields, whose first dimension holds the records."""
        real = t.clone() if self.rehearsing else t
        self.following.take_in(real, Records(0))
        return self.wrap(t, real, ("loader", name))

    def wrap(self, visible: Tensor, real: Tensor, path: Any) -> BucketTensor:
        """A tensor for the loop.

        Args:
            visible: what it sees.
            real: what the module and the criterion get, labelled.
            path: how it was computed, to be compared with the dry run's.
        """
        wrapped = visible.as_subclass(BucketTensor)
        wrapped._real, wrapped._shared, wrapped._path = real, self, path
        return wrapped

    def give_out(self, real: Tensor, path: Any) -> Tensor:
        """What the loop gets for a tensor that the module or a function computed, outside of a dry run."""
        if type(self.following.label(real)) is not Records:
            return real.detach()
        visible = Guard.apply(real) if real.requires_grad else real.detach()
        return self.wrap(visible, real, path)

    def give_out_all(self, real: Any, path: Any) -> Any:
        """The same for every tensor in a structure.

        Raises:
            TypeError: it cannot be looked into.
        """
        return map_tensors(lambda t: self.give_out(t, path), real, whole=True)

    def real(self, t: Tensor) -> Tensor:
        """What stands behind an operand of the loop.

        Raises:
            Coupled: it is of another batch, or computed from this one otherwise than record by record.
        """
        if isinstance(t, BucketTensor):
            if t._shared is not self or t._real is None:
                raise Coupled("a tensor of another physical batch is used")
            return t._real
        if t.requires_grad:
            raise Coupled(
                f"a parameter of shape {tuple(t.shape)} meets the records outside of the private module's forward pass"
            )
        if not self._constants.knows(t):
            raise Coupled(
                f"a tensor of shape {tuple(t.shape)} meets the records that was not computed from them record by "
                "record, nor there before the first batch"
            )
        self.following.public.add(t, "a constant of the loop")
        return t

    def path(self, t: Tensor) -> Any:
        """How an operand of the loop was computed."""
        return t._path if isinstance(t, BucketTensor) else ("constant", id(t))

    def compute(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Apply a function of the loop to the real tensors.

        Raises:
            Coupled: it is not known to act record by record.
        """
        real_args, real_kwargs = map_tensors(self.real, (args, kwargs))
        with self.following.apart():
            return func(*real_args, **real_kwargs)


# What they do is not done to the records: gradients of a loop's own, which the guard refuses where buckets are shared.
_OF_THE_TENSOR = frozenset(
    getattr(Tensor, name) for name in ("requires_grad_", "retain_grad", "register_hook", "backward")
) | {
    accessor
    for name in ("requires_grad", "grad", "grad_fn")
    for accessor in (getattr(Tensor, name).__get__, getattr(Tensor, name).__set__)
}


_ALIASES = MEMORY | {Tensor.data.__get__}  # type: ignore[attr-defined]


class Guard(torch.autograd.Function):
    """The identity, through which no gradient comes back."""

    @staticmethod
    def forward(ctx: Any, real: Tensor) -> Tensor:
        """Return what it got, in the same memory."""
        return real.detach()

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        """Refuse.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            "several buckets share this physical batch, and backward() was called on something else than the loss "
            "of the criterion that make_private returned; nothing was released. Put the whole loss into the "
            "criterion, or use grad_sample_mode='stream'"
        )


class BucketTensor(Tensor):
    """A tensor whose records belong to several buckets.

    What is computed from it record by record is one too; all else is an ordinary tensor, good for metrics, which
    neither the module nor the criterion takes.
    """

    _real: Tensor | None
    _shared: Shared
    _path: Any

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        classes: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Compute, and follow the records."""
        with torch._C.DisableTorchFunctionSubclass():
            if func in METADATA:
                return func(*args, **(kwargs or {}))
            return _computed(func, args, kwargs or {})

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle as an ordinary tensor."""
        return given_away(self).__reduce_ex__(protocol)  # type: ignore[no-untyped-call]

    def __deepcopy__(self, memo: Any) -> Tensor:
        """Copy as an ordinary tensor."""
        return given_away(self).detach().clone()


def ordinary(t: Tensor) -> Tensor:
    """The same values as a tensor like any other."""
    if not isinstance(t, BucketTensor):
        return t
    with torch._C.DisableTorchFunctionSubclass():
        return t.as_subclass(Tensor)


def given_away(t: Tensor) -> Tensor:
    """The same, for somebody who may read numbers off it unseen."""
    if isinstance(t, BucketTensor):
        t._shared.numbers_left = True
    return ordinary(t)


def _computed(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors = operands(args, kwargs)
    batches = (t._shared for t in tensors if isinstance(t, BucketTensor))
    shared = next((batch for batch in batches if not batch.is_over), None)
    if shared is None:
        return func(*args, **kwargs)
    in_place = writes_in_place(func, getattr(func, "__name__", ""), kwargs)
    if func in _OF_THE_TENSOR:
        return func(*args, **kwargs)
    if func in _ALIASES:
        # Of a copy, or the loop could write to what the module and the criterion get, unseen.
        return _mixed(shared, func(args[0].clone(), *args[1:], **kwargs))
    try:
        real = shared.compute(func, args, kwargs)
        path = _path(func, args, kwargs, real, shared)
    except Coupled:
        if in_place and isinstance(tensors[0], BucketTensor):
            tensors[0]._real = None
        return _mixed(shared, func(*args, **kwargs))
    out = func(*args, **kwargs) if shared.rehearsing else None
    if in_place:
        written: Any = tensors[0]
        written._path = path
        return written
    return _paired(shared, out, real, path) if shared.rehearsing else shared.give_out_all(real, path)


def _mixed(shared: Shared, out: Any) -> Any:
    """What was not computed record by record: no constant of the loop, and nothing for the criterion."""
    shared.numbers_left = True  # a tensor, too, is read as a number unseen
    for t in operands((out,), {}):
        t._dpmi = (shared, False)  # type: ignore[attr-defined]
    return out


def _paired(shared: Shared, out: Any, real: Any, path: Any) -> Any:
    """What the loop gets in a dry run: ordinary tensors, with the followed ones beside."""
    followed = iter(operands((real,), {}))

    def pair(t: Tensor) -> Tensor:
        beside = next(followed)
        return shared.wrap(t, beside, path) if type(shared.following.label(beside)) is Records else t

    return map_tensors(pair, out)


def _path(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], real: Any, shared: Shared
) -> Any:
    """How something was computed: equal for two batches only if the same was done to their records."""
    sizes = func in SIZED

    def of(value: Any) -> Any:
        found = plain(value, shared.path)
        return None if sizes and type(found) is int else found

    arguments = tuple(of(a) for a in args), tuple((k, of(v)) for k, v in kwargs.items())
    shape: Any = ()
    if isinstance(real, Tensor):
        label = shared.following.label(real)
        shape = (
            label,
            *(n for i, n in enumerate(real.shape) if not (type(label) is Records and i == label.dim)),
        )
    return hash((func, arguments, shape))
