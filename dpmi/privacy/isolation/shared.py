"""The tensors of the loop while several buckets share a physical batch: guarded, and tracking their records."""

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
    """Tensors of the loop or of a criterion from before the first batch, such as a mean to subtract.

    The dry runs collect them. A tensor that first appears in a later batch does not count as a constant, because it may
    be computed from that batch.
    """

    def __init__(self) -> None:
        self.learning = True
        self._known: dict[int, tuple[Tensor, int]] = {}

    def knows(self, t: Tensor) -> bool:
        """Return whether a tensor is an unchanged constant."""
        if self.learning and not hasattr(t, "_dpmi"):
            self._known.setdefault(id(t), (t, t._version))
        found = self._known.get(id(t))
        return found is not None and found[1] == t._version


class Shared:
    """One physical batch of several buckets, as the user's loop sees it.

    Args:
        following: the tracking mode, with the labels of this batch.
        constants: the constants of the loop.
        rehearsing: whether this is a dry run, of which nothing is released. The loop then sees the tensors and
            gradients of an ordinary forward pass, and its calls are repeated on tracked tensors in parallel.
    """

    def __init__(self, following: Following, constants: Constants, *, rehearsing: bool) -> None:
        self._following: Following | None = following
        self.rehearsing = rehearsing
        self.numbers_left = False
        """Whether the loop has read a number from the batch; its later computation may depend on all records."""
        self._constants = constants

    @property
    def following(self) -> Following:
        """The tracking mode with the labels; only until the batch ends."""
        assert self._following is not None
        return self._following

    @property
    def is_over(self) -> bool:
        """Whether the batch has ended; its tensors then behave like ordinary ones, and their labels are freed."""
        return self._following is None

    def end(self) -> None:
        """End the batch, and free the labels."""
        self._following = None

    def take_in(self, t: Tensor, name: str) -> BucketTensor:
        """Return the loop's version of a tensor from the loader, whose first dimension holds the records."""
        real = t.clone() if self.rehearsing else t
        self.following.take_in(real, Records(0))
        return self.wrap(t, real, ("loader", name))

    def wrap(self, visible: Tensor, real: Tensor, path: Any) -> BucketTensor:
        """Return a tensor for the loop.

        Args:
            visible: the values that the loop sees.
            real: the labelled tensor that the module and the criterion get.
            path: how it was computed, for comparison with the dry runs.
        """
        wrapped = visible.as_subclass(BucketTensor)
        wrapped._real, wrapped._shared, wrapped._path = real, self, path
        return wrapped

    def give_out(self, real: Tensor, path: Any) -> Tensor:
        """Return the loop's version of a tensor that the module or a function computed, outside of a dry run."""
        if type(self.following.label(real)) is not Records:
            return real.detach()
        visible = Guard.apply(real) if real.requires_grad else real.detach()
        return self.wrap(visible, real, path)

    def give_out_all(self, real: Any, path: Any) -> Any:
        """Apply :meth:`give_out` to every tensor in a structure.

        Raises:
            TypeError: the structure cannot be traversed.
        """
        return map_tensors(lambda t: self.give_out(t, path), real, whole=True)

    def real(self, t: Tensor) -> Tensor:
        """Return the labelled tensor behind an operand of the loop.

        Raises:
            Coupled: the operand is from another batch, or was not computed record by record.
        """
        if isinstance(t, BucketTensor):
            if t._shared is not self or t._real is None:
                raise Coupled("a tensor of another physical batch is used")
            return t._real
        if t.requires_grad:
            raise Coupled(
                f"a parameter of shape {tuple(t.shape)} is combined with the records outside of the private module's "
                "forward pass"
            )
        if not self._constants.knows(t):
            raise Coupled(
                f"a tensor of shape {tuple(t.shape)} is combined with the records, but was neither computed from them "
                "record by record, nor created before the first batch"
            )
        self.following.public.add(t, "a constant of the loop")
        return t

    def path(self, t: Tensor) -> Any:
        """Return how an operand of the loop was computed."""
        return t._path if isinstance(t, BucketTensor) else ("constant", id(t))

    def compute(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Apply a function of the loop to the real tensors.

        Raises:
            Coupled: the function is not known to process records independently.
        """
        real_args, real_kwargs = map_tensors(self.real, (args, kwargs))
        with self.following.apart():
            return func(*real_args, **real_kwargs)


# These do not act on the records, but on gradients. The guard rejects such gradients of the loop in a shared batch.
_OF_THE_TENSOR = frozenset(
    getattr(Tensor, name) for name in ("requires_grad_", "retain_grad", "register_hook", "backward")
) | {
    accessor
    for name in ("requires_grad", "grad", "grad_fn")
    for accessor in (getattr(Tensor, name).__get__, getattr(Tensor, name).__set__)
}


_ALIASES = MEMORY | {Tensor.data.__get__}  # type: ignore[attr-defined]


class Guard(torch.autograd.Function):
    """The identity, with a backward pass that always raises an error."""

    @staticmethod
    def forward(ctx: Any, real: Tensor) -> Tensor:
        """Return the input, in the same memory."""
        return real.detach()

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        """Raise an error.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            "several buckets share this physical batch, but backward() was called on a tensor other than the loss "
            "of the criterion that make_private returned; nothing was released. Move the whole loss into the "
            "criterion, or use grad_sample_mode='stream'"
        )


class BucketTensor(Tensor):
    """A tensor whose records belong to several buckets.

    A tensor computed from it record by record is also a BucketTensor. Any other result is an ordinary tensor, which can
    be used for metrics, but which neither the module nor the criterion accepts.
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
        """Compute a function, and track the records."""
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
    """Return the same values as an ordinary tensor."""
    if not isinstance(t, BucketTensor):
        return t
    with torch._C.DisableTorchFunctionSubclass():
        return t.as_subclass(Tensor)


def given_away(t: Tensor) -> Tensor:
    """Return an ordinary tensor for code that may read numbers from it unobserved."""
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
        # Applied to a copy; otherwise the loop could write, unobserved, to the tensors of the module and the criterion.
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
    """Mark a result that was not computed record by record, so that it is no constant and no criterion's argument."""
    shared.numbers_left = True  # the loop can read numbers from this tensor unobserved
    for t in operands((out,), {}):
        t._dpmi = (shared, False)  # type: ignore[attr-defined]
    return out


def _paired(shared: Shared, out: Any, real: Any, path: Any) -> Any:
    """Return the tensors for the loop in a dry run: ordinary ones, paired with tracked ones."""
    followed = iter(operands((real,), {}))

    def pair(t: Tensor) -> Tensor:
        beside = next(followed)
        return shared.wrap(t, beside, path) if type(shared.following.label(beside)) is Records else t

    return map_tensors(pair, out)


def _path(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], real: Any, shared: Shared
) -> Any:
    """Return a hash of how a result was computed; it is equal for two batches only if the computation was the same."""
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
