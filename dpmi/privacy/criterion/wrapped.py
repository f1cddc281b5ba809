"""The criterion that ``make_private`` returns: the loss of a bucket depends on that bucket only."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..dry_run import DryRun
from ..grad_sample import BucketGradSampleModule
from ..isolation.labels import Coupled, Records
from ..isolation.provenance import CarriedOver, Provenance
from ..isolation.public import PublicTensors
from ..isolation.shared import BucketTensor, Shared, given_away, ordinary
from ..isolation.watch import Watch
from ..structures import constants, map_tensors, tensors_in
from ..waits import sent
from .bucket_losses import losses_by_bucket, reduced
from .reduction import dry_reduction, reduction_of

_ADVICE = "nothing of this step was released. Use grad_sample_mode='stream' without a criterion"


class BucketCriterion(nn.Module):
    """Computes the user's criterion once per bucket, on that bucket's outputs and targets, inside the private loop.

    The returned value looks like the criterion's value for the whole batch. Its backward() multiplies every bucket's
    loss by a fixed factor from the dry runs, regardless of what the loop does with the value: with ``loss ** 2``, the
    loss of one bucket must not change the gradient of another. Outside of the private loop it is the user's criterion.

    Args:
        criterion: the user's loss, of outputs and targets; returns a scalar, or one value per record.
        module: the private module.
    """

    def __init__(self, criterion: Callable[..., Any], module: BucketGradSampleModule) -> None:
        super().__init__()
        self.criterion = criterion
        self._private = (module,)  # in a tuple, because nn.Module would register it as a submodule
        self._public = PublicTensors(criterion)
        self._watch = Watch(criterion)
        self._is_torchs = reduction_of(criterion) is not None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the criterion's value.

        Raises:
            RuntimeError: the arguments are not computed record by record from outputs of the private module and targets
                of the private loader; or the criterion stores values of one bucket.
            TypeError, ValueError: the criterion returns neither a scalar nor one value per record.
        """
        module = self._private[0]
        shared = module.shared
        if not torch.is_grad_enabled() or module.batch is None:
            return self.criterion(*map_tensors(given_away, args), **map_tensors(given_away, kwargs))
        with module.reporting():
            return self._private_value(module, shared, args, kwargs)

    def _private_value(
        self, module: BucketGradSampleModule, shared: Shared | None, args: Any, kwargs: Any
    ) -> Tensor:
        if shared is None or shared.is_over:
            return self._of_one_bucket(module, args, kwargs)
        if not any(isinstance(t, BucketTensor) for t in tensors_in((args, kwargs))):
            if not shared.rehearsing:
                raise RuntimeError(
                    "several buckets share this physical batch, and no argument of the criterion was computed record "
                    f"by record from outputs of the private module; {_ADVICE}"
                )
            assert module.dry is not None
            module.dry.note(
                "no argument of the criterion is computed record by record from outputs of the module"
            )
            return self._of_one_bucket(module, args, kwargs)
        if shared.rehearsing:
            assert module.dry is not None
            return self._rehearsed(module, shared, module.dry, args, kwargs)
        try:
            return self._by_bucket(module, shared, args, kwargs)
        except (Coupled, CarriedOver) as error:
            raise RuntimeError(module.refuse(str(error))) from error

    def _storages(self) -> frozenset[int]:
        return self._watch.storages() | self._public.storages()

    def _of_one_bucket(self, module: BucketGradSampleModule, args: Any, kwargs: Any) -> Tensor:
        assert module.batch is not None
        args, kwargs = map_tensors(ordinary, (args, kwargs))
        value = self._run(module.token, *args, **kwargs)
        value = reduced(value, module.batch.records, module.loss_reduction)
        if module.agreement is None or not value.requires_grad:
            return value
        # In a run with batches of several buckets, the factor is the same for a batch of one.
        return _apply(
            _Total,
            _anchor(value),
            value.detach(),
            partial(_send, module, value, self._factor(module)),
        )

    def _by_bucket(self, module: BucketGradSampleModule, shared: Shared, args: Any, kwargs: Any) -> Tensor:
        agreement = module.agreement
        assert agreement is not None
        paths = _paths(shared, args, kwargs)
        at = module.criterion_calls
        if at < len(agreement.calls) and agreement.calls[at].paths != paths:
            raise Coupled(
                "the loop computes the criterion's arguments differently than in the dry runs, so they may depend on "
                "the number of records or on their values. Move numbers that change during training into the criterion"
            )
        factor = self._factor(module)
        losses, weights = self._losses(module, shared, args, kwargs)
        total = (losses.detach() * weights).sum()
        return _apply(_Total, _anchor(total), total, partial(module.send_back, losses, weights * factor))

    def _factor(self, module: BucketGradSampleModule) -> float:
        at, module.criterion_calls = module.criterion_calls, module.criterion_calls + 1
        assert module.agreement is not None
        calls = module.agreement.calls
        if at >= len(calls):
            raise RuntimeError(
                module.refuse(
                    f"the criterion is called {at + 1} times for one batch, but {len(calls)} times in the dry runs"
                )
            )
        return calls[at].factor

    def _losses(
        self, module: BucketGradSampleModule, shared: Shared, args: Any, kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the losses of the buckets, (k,), and the weight of each in the value for the whole batch, (k,)."""
        real_args, real_kwargs = map_tensors(shared.real, (args, kwargs))
        assert module.capture is not None
        segments = module.capture.segments
        losses = losses_by_bucket(
            self.criterion,
            real_args,
            real_kwargs,
            segments=segments,
            reduction=module.loss_reduction,
            rows_per_record=partial(_rows_per_record, shared),
            run=self._run_apart,
        )
        sizes = sent(torch.tensor(segments.sizes, dtype=losses.dtype), losses.device)
        return losses, sizes / segments.records if module.loss_reduction == "mean" else torch.ones_like(sizes)

    def _run_apart(self, *args: Any, **kwargs: Any) -> Any:
        """Run the criterion on one bucket, and check that it stores nothing for the next one."""
        return self._run(object(), *args, **kwargs)

    def _run(self, token: object, *args: Any, **kwargs: Any) -> Any:
        if self._is_torchs:  # torch's losses store nothing
            return self.criterion(*args, **kwargs)
        provenance = Provenance(
            self._public, buffers=frozenset(), storages=self._storages, token=token, root=self.criterion
        )
        for t in tensors_in((args, kwargs)):
            provenance.take_in(t)
        tensors, attributes = self._watch.tensors(), self._watch.attributes()
        with provenance:
            value = self.criterion(*args, **kwargs)
        self._watch.check_tensors(tensors)
        self._watch.check_attributes(attributes)
        provenance.watch_backward(tensors_in(value), inputs=tensors_in((args, kwargs)))
        provenance.forget_numbers()
        return value

    def _rehearsed(
        self, module: BucketGradSampleModule, shared: Shared, dry: DryRun, args: Any, kwargs: Any
    ) -> Tensor:
        assert module.batch is not None
        plain_args, plain_kwargs = map_tensors(ordinary, (args, kwargs))
        value = self._run(module.token, *plain_args, **plain_kwargs)
        value = reduced(value, module.batch.records, module.loss_reduction)
        if dry.problem is not None:
            return value
        self._check_reduction(module, plain_args, plain_kwargs)
        try:
            self._try_by_bucket(module, shared, args, kwargs)
            gradient = list(torch.autograd.grad(value, module.trained, retain_graph=True, allow_unused=True))
            at = dry.add_call(_paths(shared, args, kwargs), gradient)
        except (Coupled, CarriedOver) as error:
            dry.note(str(error))
            return value
        except Exception as error:  # code that fails for several buckets may still work for one at a time
            dry.note(f"the criterion on several buckets raised {type(error).__name__}: {error}")
            return value
        return _apply(_Probe, value - value.detach() + dry.shown, dry, at)

    def _try_by_bucket(self, module: BucketGradSampleModule, shared: Shared, args: Any, kwargs: Any) -> None:
        """Compute the losses of the buckets and their gradients, as for a batch that is released."""
        before = [p.grad for p in module.trained]
        try:
            for p in module.trained:
                p.grad = None
            losses, weights = self._losses(module, shared, args, kwargs)
            module.send_back(losses, weights, keep=True)
            for doubt in module.ordinary_gradients():
                if bool(doubt.is_wrong):
                    raise doubt.error()
        finally:
            for p, grad in zip(module.trained, before, strict=True):
                p.grad = grad

    def _check_reduction(self, module: BucketGradSampleModule, args: Any, kwargs: Any) -> None:
        assert module.batch is not None
        records = module.batch.records

        def rows(t: Tensor) -> int | None:
            return len(t) // records if t.dim() and len(t) and len(t) % records == 0 else None

        try:
            with torch.random.fork_rng(devices=[]):
                found = dry_reduction(self.criterion, args, kwargs, records=records, rows_per_record=rows)
        except Exception:  # this is only a check for a warning, and user code can raise anything
            return
        if found in ("mean", "sum") and found != module.loss_reduction:
            warnings.warn(
                f"loss_reduction is {module.loss_reduction!r}, but the criterion takes the {found} over the records "
                "of a batch, so the clipped gradients are not the mean gradients of the buckets; pass "
                f"loss_reduction={found!r}",
                stacklevel=2,
            )


class _Total(torch.autograd.Function):
    """A value whose backward pass is that of the buckets' losses, for any incoming gradient."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, value: Tensor, send: Callable[[], None]) -> Tensor:
        ctx.send = send
        return value.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, None, None]:
        ctx.send()
        return None, None, None


class _Probe(torch.autograd.Function):
    """The identity; it reports the incoming gradient to the dry run."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, dry: DryRun, call: int) -> Tensor:
        ctx.dry, ctx.call = dry, call
        return value.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        ctx.dry.arrive(ctx.call, float(g.detach()))
        return g, None, None


def _apply(function: type[torch.autograd.Function], *args: Any) -> Tensor:
    result: Tensor = function.apply(*args)
    return result


def _send(module: BucketGradSampleModule, value: Tensor, factor: float) -> None:
    with module.reporting():
        torch.autograd.backward(value, torch.full_like(value, factor), retain_graph=module.has_several_losses)


def _anchor(value: Tensor) -> Tensor:
    return torch.zeros((), dtype=value.dtype, device=value.device, requires_grad=True)


def _rows_per_record(shared: Shared, t: Tensor) -> int | None:
    label = shared.following.label(t)
    if not isinstance(label, Records):
        return None
    if label.dim or label.before > 1:
        raise Coupled(
            f"the criterion gets a tensor of shape {tuple(t.shape)} that holds the records in dimension "
            f"{label.dim}, not one after another in dimension 0; transpose it inside the criterion"
        )
    return label.within


def _paths(shared: Shared, args: Any, kwargs: Any) -> Any:
    """Return how the arguments were computed, and all values in them that are not tensors, at any depth."""
    others = {where: (type(value), value) for where, value in constants(args, kwargs).items()}
    return tuple(shared.path(t) for t in tensors_in((args, kwargs))), others
