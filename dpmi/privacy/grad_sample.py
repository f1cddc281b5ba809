"""Opacus's GradSampleModule with one gradient row per bucket instead of one per record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NoReturn

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .batch import PhysicalBatch
from .dry_run import Agreement, DryRun
from .gradients.bucket_gradients import Ghost, Rows
from .gradients.capture import Capture
from .gradients.other_layers import other_leaves
from .gradients.segments import Segments
from .gradients.strategy import Strategy, is_compiled
from .isolation.labels import Coupled, Records
from .isolation.program import Program
from .isolation.provenance import CarriedOver, Provenance
from .isolation.public import PublicTensors
from .isolation.shared import Constants, Shared, given_away, ordinary
from .isolation.watch import Watch
from .structures import map_tensors, tensors_in
from .tensor_bytes import TensorBytes
from .waits import Doubt

# These attributes refer to parameters by identity, so a copy of the module must rebuild them.
_BY_IDENTITY = (
    "_all",
    "_public",
    "_watch",
    "_leaves",
    "_trained",
    "trained",
    "_placeholders",
    "_advanced",
    "_example",
    "_constants",
    "_handles",
)

_PASSED_ON = ("config", "generate", "generation_config", "save_pretrained")
"""Names that loops look up on a model of Hugging Face. There are no others, because a method of the inner module that
computes a loss would bypass :meth:`BucketGradSampleModule.forward`."""


class BucketGradSampleModule(GradSampleModule):
    """Computes the gradients of whole buckets, each summed over the bucket's records; never one per record.

    For a physical batch with one bucket, or a part of one, the ordinary backward pass is enough: ``p.grad`` is that
    bucket's gradient. This is strategy "stream". The forward pass is checked: no value computed from one bucket may
    reach the next bucket or the released model.

    For a physical batch with several buckets, the records are tracked through every call of the forward pass, and every
    use of a trained parameter by a layer is captured. Gradients come only from the criterion's loss, which is computed
    bucket by bucket:

    - "hooks" builds one row per bucket, shape ``(k, *p.shape)``, which :meth:`collect` returns;
    - "ghost" stores the factors of the rows and computes their norms without building the rows.

    Args:
        m: the module to wrap.
        strategy: "stream", "hooks" or "ghost".
        loss_reduction: "mean" or "sum", how the user's loss combines the records of a physical batch.
        all_records: number of records of the data set.

    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> from dpmi.privacy import Partition, PrivacyEngine
    >>> x, y = torch.randn(40, 3), torch.arange(40) % 4
    >>> plain = nn.Linear(3, 4)
    >>> model, optimizer, criterion, loader = PrivacyEngine().make_private(
    ...     module=plain, optimizer=torch.optim.SGD(plain.parameters(), lr=0.1),
    ...     criterion=nn.CrossEntropyLoss(), data_loader=DataLoader(TensorDataset(x, y), batch_size=8),
    ...     partition=Partition.by_class(y), sampling_rate=0.5, noise_multiplier=2.0, max_grad_norm=1.0)
    >>> type(model).__name__, model.strategy
    ('BucketGradSampleModule', 'hooks')
    >>> model._module is plain, list(model.state_dict())
    (True, ['_module.weight', '_module.bias'])
    """

    def __init__(
        self,
        m: nn.Module,
        *,
        strategy: Strategy = "hooks",
        loss_reduction: str = "mean",
        all_records: int | None = None,
    ) -> None:
        if loss_reduction not in ("mean", "sum"):
            raise ValueError(f"loss_reduction is {loss_reduction!r}; it must be 'mean' or 'sum'")
        self.strategy = strategy
        self.batch: PhysicalBatch | None = None
        """The current physical batch."""
        self.token: object = None
        """Identifies the current bucket, in a physical batch of one."""
        self.dry: DryRun | None = None
        """The dry runs, during one of them."""
        self.agreement: Agreement | None = None
        """The result of the dry runs; None in a run of one bucket at a time."""
        self.shared: Shared | None = None
        """The physical batch as the loop sees it, if it holds several buckets."""
        self.capture: Capture | None = None
        """Captures the gradients of this physical batch, if it holds several buckets."""
        self.criterion_calls = 0
        self.on_error: Callable[[BaseException], object] | None = None
        """Called with every error of a forward or backward pass that trains; set by the optimizer."""
        self._all_records = all_records
        self._problem: str | None = None
        self._passes = 0
        self._before: dict[str, tuple[int, int]] = {}
        self._kept: dict[str, Any] = {}
        self._used: set[int] = set()
        super().__init__(m, batch_first=True, loss_reduction=loss_reduction, strict=False)

    def add_hooks(self, **_: object) -> None:
        """Add no hooks, unlike Opacus, which adds two per layer: :meth:`forward` captures the gradients."""
        self._all = list(self._module.parameters())
        self._public = PublicTensors(self._module)
        # Calls inside a compiled module cannot be observed; the state that it leaves can.
        self._is_compiled = is_compiled(self._module)
        self._constants = Constants()
        self._advanced: dict[Tensor, Tensor] = {}
        self._example: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._handles: list[Any] = []
        self.autograd_grad_sample_hooks: list[Any] = []
        self.train_only(p for p in self._all if p.requires_grad)
        self.enable_hooks()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy (copy.deepcopy, pickle). It has no pending batch, so it can only evaluate."""
        pending = {
            "batch": None,
            "token": None,
            "dry": None,
            "agreement": None,
            "shared": None,
            "capture": None,
            "on_error": None,
        }
        return (
            {k: v for k, v in self.__dict__.items() if k not in _BY_IDENTITY} | pending | {"_problem": None}
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.add_hooks()

    def __getattr__(self, item: str) -> Any:
        """Return a submodule by name, as Opacus does, or what a Hugging Face model has for evaluation and saving."""
        return getattr(self._module, item) if item in _PASSED_ON else super().__getattr__(item)

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> NoReturn:
        """Refuse DistributedDataParallel, which asks a module for this name when it wraps it."""
        raise RuntimeError(
            "DistributedDataParallel averages the gradients of different buckets before they are clipped, so a private "
            "module must not be wrapped in it, also not by Accelerate or Lightning: use the module as make_private "
            "returned it; the engine sums over the ranks"
        )

    def train_only(self, parameters: Iterable[nn.Parameter]) -> None:
        """Set the parameters whose gradients :meth:`collect` returns, in this order."""
        names = {p: name for name, p in self._module.named_parameters()}
        self._trained = [(names[p], p) for p in parameters]
        self.trained = [p for _, p in self._trained]
        self._leaves = other_leaves(self._module, self._trained)
        self._watch = Watch(self._module, self.trained)
        self._placeholders = sorted(self.trained, key=lambda p: p.numel())[:1]

    def begin(self, batch: PhysicalBatch | None, *, dry: DryRun | None = None) -> None:
        """Start a physical batch, before the loader yields its records.

        Args:
            batch: description of the records; None if there is no current batch.
            dry: the dry runs, if this batch is one; nothing of it is released.
        """
        if self.shared is not None:
            self.shared.end()
        # Every batch of a logical step starts with the same buffers.
        for buffer, before in self._advanced.items():
            with torch.no_grad():
                buffer.copy_(before)
        self._advanced.clear()
        # In one update, because every assignment to an attribute of a module takes microseconds.
        self.__dict__.update(
            batch=batch,
            dry=dry,
            token=object(),
            capture=None,
            shared=None,
            criterion_calls=0,
            _problem=None,
            _passes=0,
            _used=set(),
            _before=self._watch.tensors(),
            _kept=self._watch.attributes(),
        )
        for p in self._all:
            p.grad = None
        if batch is not None and (dry is not None or len(batch.buckets) > 1):
            self.capture = Capture(
                self._trained,
                Segments(batch.sizes),
                public=self._public,
                leaves=self._leaves,
                ghost=self.strategy == "ghost",
            )
            constants = self._constants if dry is None else dry.constants
            self.shared = Shared(self.capture, constants, rehearsing=dry is not None)
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if dry is not None:
            accumulated = partial(_accumulated, dry)
            self._handles = [p.register_post_accumulate_grad_hook(accumulated) for p in self.trained]  # type: ignore[no-untyped-call]

    def agree(self, dry: DryRun) -> None:
        """Allow physical batches of several buckets, which must follow the dry runs."""
        dry.constants.learning = False
        self._constants = dry.constants
        self.agreement = dry.agreement

    def end_step(self, *, empty: bool) -> None:
        """Keep the new values of buffers that depend on weights only, when the logical step is released.

        Args:
            empty: no bucket was drawn. The buffers are then updated here, so that they do not reveal an empty draw.
        """
        if empty and self._example is not None:
            args, kwargs = self._example
            with torch.no_grad():
                self._of_one_bucket(object(), args, kwargs)
        self._advanced.clear()

    def clear(self) -> None:
        """Clear the gradients of the current physical batch; the batch stays current."""
        for p in self._all:
            p.grad = None
        if self.capture is not None:
            self.capture.clear()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the wrapped module's forward pass; training only accepts records of the private loader.

        Raises:
            RuntimeError: training on records that the private loader did not yield, or a pass that mixes buckets or
                stores values of one bucket for the next.
        """
        trains = torch.is_grad_enabled() and self.hooks_enabled
        if not trains or (self.batch is None and not self.training):
            args, kwargs = map_tensors(given_away, (args, kwargs))
            if self.training:
                return self._of_one_bucket(object(), args, kwargs)
            before = self._watch.tensors()
            out = self._module(*args, **kwargs)
            self._watch.check_tensors(before)
            return out
        if self.batch is None:
            raise RuntimeError(
                "the private model was called in training mode on records that did not come from the private "
                "loader; iterate over the loader that make_private returned, or call model.eval() or "
                "torch.no_grad() to evaluate"
            )
        with self.reporting():
            return self._trained_pass(args, kwargs)

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Report an error of the body to the optimizer."""
        try:
            yield
        except Exception as error:
            if self.on_error is not None:
                self.on_error(error)
            raise

    def drop(self, reason: str) -> None:
        """Reject the physical batch permanently, even if the loop catches the error that made it incomplete."""
        self._problem = self._problem or reason

    def collect(self, batch: PhysicalBatch, doubts: list[Doubt]) -> Rows | Ghost | None:
        """Return and clear the gradients of the buckets of this physical batch; None if there are none.

        Args:
            batch: description of the records.
            doubts: gets the checks to read before the gradients are used.

        Raises:
            RuntimeError: the gradient of a parameter cannot be split by bucket, or buffers changed.
        """
        self._watch.check_tensors(self._before, but=self._advanced.keys(), trained=False)
        if self.shared is not None:
            self.shared.end()
        if self._problem is not None:
            raise RuntimeError(self._problem)
        capture = self.capture
        if capture is None:
            self._watch.check_attributes(self._kept, self._used)
            return self._ordinary()
        self.capture = None
        doubts += self.ordinary_gradients()
        for p in self.trained:
            p.grad = None
        if capture.is_empty:
            return None
        if self.strategy == "ghost":
            return Ghost(capture, self.trained)
        return Rows([capture.rows.get(p) for p in self.trained])

    def end_dry_run(self) -> None:
        """Record the gradients that the loop computed in a dry run."""
        assert self.dry is not None
        assert self.shared is not None
        gradients = [None if p.grad is None else p.grad.detach() for p in self.trained]
        self.dry.end(gradients, numbers_left=self.shared.numbers_left)

    def refuse(self, reason: str) -> str:
        """Reject the physical batch permanently, even if the loop catches the error; return the message."""
        self.drop(
            f"several buckets share this physical batch, and {reason}. The dry runs did not show this; nothing of this "
            "step was released. Use grad_sample_mode='stream' without a criterion"
        )
        assert self._problem is not None
        return self._problem

    def send_back(self, losses: Tensor, factors: Tensor, *, keep: bool = False) -> None:
        """Run the backward pass from the losses of single buckets.

        Args:
            losses: loss of each bucket, (k,).
            factors: factor of each loss, (k,).
            keep: whether the graph is needed again.
        """
        assert self.capture is not None
        with self.reporting(), self.capture.taking():
            torch.autograd.backward(losses, factors, retain_graph=keep or self.has_several_losses)
        if keep:
            self.capture.clear()
            return
        for p in self._placeholders:  # a gradient scaler requires at least one gradient
            if p.grad is None:
                p.grad = torch.zeros_like(p)

    @property
    def has_several_losses(self) -> bool:
        """Whether the loop calls the criterion more than once per batch; the losses may then share a graph."""
        return self.agreement is not None and len(self.agreement.calls) > 1

    def ordinary_gradients(self) -> list[Doubt]:
        """Return the doubts about gradients that autograd may have computed as a sum over all buckets.

        Raises:
            Coupled: such a gradient exists; the message names the parameter.
        """
        found = []
        for name, p in self._trained:
            if p.grad is None:
                continue
            if all(p is not other for other in self._placeholders):
                p.grad = None
                raise _ordinary_gradient(name)
            found.append(Doubt(p.grad.any(), partial(_ordinary_gradient, name)))
        return found

    @property
    def scale(self) -> float:
        """Factor from the loss's gradient to a sum over records: the batch size for a mean loss, else 1."""
        if self.loss_reduction == "sum" or self.batch is None:
            return 1.0
        return float(self.batch.records)

    def _trained_pass(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a forward pass on the records of the current physical batch."""
        if self.shared is None:
            self._check_records(tensors_in((args, kwargs)))
            return self._of_one_bucket(self.token, args, kwargs)
        at, self._passes = self._passes, self._passes + 1
        if self.dry is not None:
            return self._rehearsed(self.dry, self.shared, args, kwargs)
        try:
            return self._of_several(self.shared, at, args, kwargs)
        except (Coupled, CarriedOver, TypeError) as error:
            raise RuntimeError(self.refuse(str(error))) from error

    def _of_one_bucket(self, token: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a forward pass on records of one bucket, and check that it stores nothing for the next bucket."""
        provenance = Provenance(
            self._public,
            buffers=self._watch.buffers,
            storages=self._storages,
            token=token,
            root=self._module,
        )
        for t in tensors_in((args, kwargs)):
            provenance.take_in(t)
        tensors, attributes = self._watch.tensors(), self._watch.attributes()
        with nullcontext() if self._is_compiled else provenance:
            out = self._module(*args, **kwargs)
        for t in tensors_in(out):
            provenance.take_in(t)
        self._watch.check_tensors(tensors, but=provenance.before.keys())
        self._watch.check_attributes(attributes, provenance.used)
        provenance.watch_backward(tensors_in(out))
        provenance.forget_numbers()
        self._used.update(provenance.used)
        for buffer, before in provenance.before.items():
            self._advanced.setdefault(buffer, before)
            if self._example is None:  # example inputs; the buffers do not depend on their values
                self._example = map_tensors(torch.zeros_like, (args, kwargs))
        return out

    def _of_several(self, shared: Shared, at: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a forward pass on records of several buckets."""
        assert self.agreement is not None
        if at >= len(self.agreement.programs):
            raise Coupled(f"the module is called {at + 1} times for one batch")
        if _inputs(shared, args, kwargs) != self.agreement.inputs[at]:
            raise Coupled(
                "the loop computes the module's inputs differently than in the dry runs, so they may depend on the "
                "number of records or on their values"
            )
        out = self._followed(shared, self.agreement.programs[at], args, kwargs)
        return shared.give_out_all(out, ("module", at))

    def _followed(self, shared: Shared, program: Program | None, args: Any, kwargs: Any) -> Any:
        """Run a forward pass with tracked records, on the real tensors behind the loop's tensors."""
        assert self.capture is not None
        real_args, real_kwargs = map_tensors(shared.real, (args, kwargs))
        inputs = [t for t in tensors_in((real_args, real_kwargs)) if t not in self._public]
        if not inputs:
            raise Coupled("the module gets no tensor from the private loader")
        self.capture.begin_pass(inputs, program)
        with self.capture:
            out = self._module(*real_args, **real_kwargs)
        outputs: list[Tensor] = []
        map_tensors(outputs.append, out, whole=True)
        self.capture.finish(outputs)
        return out

    def _rehearsed(self, dry: DryRun, shared: Shared, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an ordinary forward pass for the loop, and a tracked one in parallel."""
        followed: Any = None
        if dry.problem is None:
            try:
                followed = self._try_followed(dry, shared, args, kwargs)
            except (Coupled, CarriedOver) as error:
                dry.note(str(error))
            except Exception as error:  # code that fails for several buckets may still work for one at a time
                dry.note(f"the forward pass on several buckets raised {type(error).__name__}: {error}")
        assert self.batch is not None
        with TensorBytes() as made, FlopCounterMode(display=False) as counter:
            out = self._of_one_bucket(self.token, *map_tensors(ordinary, (args, kwargs)))
        dry.add_bytes(self.batch.records, made.total)
        dry.work = max(dry.work, counter.get_total_flops() / 2 / self.batch.records)
        if dry.problem is not None:
            return out
        beside = iter(tensors_in(followed))

        def pair(t: Tensor) -> Tensor:
            real = next(beside)
            holds = isinstance(shared.following.label(real), Records)
            return shared.wrap(t, real, ("module", self._passes - 1)) if holds else t.detach()

        return map_tensors(pair, out)

    def _try_followed(self, dry: DryRun, shared: Shared, args: Any, kwargs: Any) -> Any:
        assert self.capture is not None
        out = self._followed(shared, None, args, kwargs)
        program = dry.add_pass(self.capture.trace, _inputs(shared, args, kwargs))
        if program is None:
            return out
        # The pass is repeated with all checks, now that the sizes that follow the number of records are known.
        self.capture.undo_pass()
        return self._followed(shared, program, args, kwargs)

    def _storages(self) -> frozenset[int]:
        """Return the memory addresses of everything that must not be written to."""
        return self._watch.storages() | self._public.storages()

    def _ordinary(self) -> Rows | None:
        rows: list[Tensor | None] = []
        for p in self.trained:  # a parameter that the loss did not reach has gradient zero
            grad, p.grad = p.grad, None
            if grad is not None and grad.is_sparse:
                grad = grad.to_dense()
            rows.append(None if grad is None else grad.unsqueeze(0))
        return None if all(row is None for row in rows) else Rows(rows)

    def _check_records(self, inputs: list[Tensor]) -> None:
        """Raise an error if the shapes show that the inputs are not the records of this batch."""
        assert self.batch is not None
        shapes = [tuple(t.shape) for t in inputs if t.dim()]
        n = self.batch.records
        sizes = {size for shape in shapes for size in shape}
        whole = n not in sizes and any(shape[0] == self._all_records for shape in shapes)
        if shapes and (whole or not any(size and size % n == 0 for size in sizes)):
            raise RuntimeError(
                f"the private model got {shapes[0][0]} records (shape {shapes[0]}), but the private loader yielded "
                f"{n}; pass exactly the records that the loader yielded, and evaluate under torch.no_grad()"
            )


def _ordinary_gradient(name: str) -> Coupled:
    return Coupled(
        f"parameter {name!r} has a gradient that does not come from outputs of the module: the loss uses the parameter "
        "directly. Use weight_decay of the optimizer, or grad_sample_mode='stream' without a criterion"
    )


def _accumulated(dry: DryRun, _: Tensor) -> None:
    dry.accumulated = True


def _inputs(shared: Shared, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return how the arguments of the module were computed."""
    return tuple(shared.path(t) for t in tensors_in((args, kwargs)))
