"""A callback that trains a LightningModule privately; it needs the extra ``dpmi[lightning]``."""

from __future__ import annotations

import copy
import inspect
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..engine import PrivacyEngine
from ..loader import repeated
from . import steps

__all__ = ["PrivateTraining"]

_LOG = logging.getLogger("dpmi")

_OWN = ("module", "optimizer", "data_loader", "criterion", "grad_sample_mode")
_WHERE = (
    "the module is the LightningModule, whose training_step returns the loss; the optimizer is that of "
    "configure_optimizers; the data are data_loader of PrivateTraining"
)
_NOT_CALLED = ("optimizer_step", "configure_gradient_clipping", "on_before_optimizer_step")
"""Hooks of a LightningModule for the gradient of a step, which nobody may see before noise is added."""


class PrivateTraining(Callback):
    """Trains a LightningModule with automatic optimization privately; its steps are the logical steps of a private run.

    A step of Lightning is one draw of buckets, one noisy update and one line in the ledger, however many batches it
    takes; after an empty draw it takes none. So ``max_steps``, schedulers with ``interval="step"``,
    ``val_check_interval`` and checkpoints count released steps, and an epoch has 1 / ``sampling_rate`` of them. Pass
    :attr:`steps` to ``fit`` as the training data.

    ``training_step`` gets batches of one bucket each, and returns their mean loss. It sees of its trainer only
    ``global_step`` and ``current_epoch``. What it logs is dropped, because nothing protects the loss of private
    records: log in ``validation_step``, on other records.

    The checkpoints of Lightning contain the engine's: ledger and random states. ``fit(..., ckpt_path=...)`` goes on bit
    for bit if ``privacy`` has a seed. Keep them as secret as the records; save the model to publish with
    ``save_weights_only=True``.

    Args:
        data_loader: the data, collate function and workers, as for ``make_private``.
        privacy: arguments of :meth:`dpmi.privacy.PrivacyEngine.make_private`, without those that the trainer knows; or
            of ``make_private_with_epsilon``, if there is a ``target_epsilon``: the noise is then that of the steps of
            the whole training.
        engine: the account; a new one by default.

    Raises:
        TypeError, ValueError: an entry of ``privacy`` is the trainer's, or is out of range. ``fit`` raises, before the
            first step, what ``make_private`` does, and for an option of the trainer that does not go with private
            steps; the message names it, and what to do instead.

    Example:
        >>> from lightning import LightningModule, Trainer
        >>> from torch.utils.data import TensorDataset
        >>> from dpmi.privacy import Partition
        >>> class Classifier(LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.model = nn.Linear(3, 2)
        ...     def training_step(self, batch, batch_idx):
        ...         x, y = batch
        ...         return nn.functional.cross_entropy(self.model(x), y)
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), lr=0.1)
        >>> loader = DataLoader(TensorDataset(torch.randn(40, 3), torch.arange(40) % 2))
        >>> private = PrivateTraining(loader, privacy={
        ...     "partition": Partition.by_column([i // 4 for i in range(40)], unit="user"),
        ...     "sampling_rate": 0.5, "noise_multiplier": 2.0, "max_grad_norm": 1.0})
        >>> trainer = Trainer(max_steps=3, callbacks=[private], accelerator="cpu", logger=False,
        ...                   enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
        >>> trainer.fit(Classifier(), private.steps)
        >>> private.engine.ledger.steps
        3
    """

    def __init__(
        self,
        data_loader: DataLoader[Any],
        *,
        privacy: Mapping[str, Any],
        engine: PrivacyEngine | None = None,
    ) -> None:
        steps.check(privacy, own=_OWN, where=_WHERE)
        self.engine = PrivacyEngine() if engine is None else engine
        self.steps = _Steps(steps.per_epoch(privacy))
        """The training data for ``Trainer.fit``: one number for each logical step of an epoch."""
        self._data_loader = data_loader
        self._privacy = privacy
        self._private: tuple[Any, ...] = ()
        self._step: Any = None
        self._batch: Any = None
        self._to_resume: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the training private, or resume it."""
        self._check(trainer, pl_module)
        self._step = _TrainingStep(pl_module)
        self._private = steps.make_private(
            self.engine,
            self._privacy,
            steps=trainer.estimated_stepping_batches,
            module=self._step,
            optimizer=trainer.optimizers[0],
            data_loader=self._data_loader,
        )
        if trainer.ckpt_path is not None:
            self._resume()
        pl_module.training_step = self._training_step
        pl_module.optimizer_step = partial(self._optimizer_step, trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the module its own methods back."""
        del exception
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the module its own methods back."""
        del trainer, stage
        for name in ("training_step", "optimizer_step"):
            pl_module.__dict__.pop(name, None)

    def state_dict(self) -> dict[str, Any]:
        """Return the engine's checkpoint; Lightning puts it into its own."""
        if not self._private:
            return {}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "private.pt")
            self.engine.save_checkpoint(path)
            return {"engine": torch.from_numpy(np.fromfile(path, dtype=np.uint8))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the engine's checkpoint until the training is private."""
        self._to_resume = state_dict

    def _resume(self) -> None:
        if "engine" not in self._to_resume:
            raise ValueError(
                "ckpt_path is a checkpoint without a private training: what it has released is unknown; use one that "
                "was saved with this callback, and not with save_weights_only=True"
            )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "private.pt")
            self._to_resume.pop("engine").numpy().tofile(path)
            self.engine.load_checkpoint(path)

    def _training_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the loss of one batch of the current logical step."""
        del batch  # the number of the step
        if self._batch is None:  # an empty draw: the loader has released the step
            return torch.zeros((), requires_grad=True)
        return self._private[0](self._batch, batch_idx)

    def _optimizer_step(
        self,
        trainer: Trainer,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any],
    ) -> None:
        """Take one logical step; the closure computes one batch of it."""
        del epoch, batch_idx, optimizer
        _, private, loader = self._private
        self._check_step(trainer)
        steps.check_count(counted=trainer.global_step, released=private.released_steps)
        self._step.module._trainer = _Counts(trainer.global_step, trainer.current_epoch)

        def one_pass() -> None:
            self._batch = None
            for batch in loader:
                converted = trainer.precision_plugin.convert_input(batch)
                self._batch = trainer.strategy.batch_to_device(converted, dataloader_idx=0)
                optimizer_closure()
                private.step()

        repeated(loader, one_pass)
        if self._batch is None:
            optimizer_closure()  # Lightning needs a result

    def _check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what would change privacy or the count of steps, or would silently have no effect."""
        if not isinstance(trainer.strategy, SingleDeviceStrategy):
            raise ValueError(
                f"Trainer has strategy={type(trainer.strategy).__name__}, and PrivateTraining trains in one process on "
                "one device; use devices=1, or make_private in a loop of your own, which shares the buckets among the "
                "processes of torchrun"
            )
        if trainer.train_dataloader is not self.steps:
            raise ValueError(
                f"the trainer's training data are {type(trainer.train_dataloader).__name__}; pass the steps of this "
                "callback, trainer.fit(module, private.steps), and the loader to PrivateTraining"
            )
        if not pl_module.automatic_optimization:
            raise ValueError(
                f"{type(pl_module).__name__} has automatic_optimization=False; leave it True and return the loss from "
                "training_step, or call make_private in a loop of your own"
            )
        if trainer.gradient_clip_val:
            raise ValueError(
                f"Trainer has gradient_clip_val={trainer.gradient_clip_val}, but a private step clips every bucket; "
                "leave it out, and set privacy={'max_grad_norm': ...}"
            )
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise ValueError(
                f"Trainer has precision={trainer.precision!r}, which scales gradients before they are clipped; use "
                "'bf16-mixed'"
            )
        if trainer.overfit_batches:
            raise ValueError(
                f"Trainer has overfit_batches={trainer.overfit_batches}, but the engine draws the records; leave it out"
            )
        if getattr(pl_module, "_compiler_ctx", None) is not None:
            raise ValueError(
                "module is compiled, so its training_step cannot be checked; pass the plain module, and compile a part "
                "of it if you need to"
            )
        for name in _NOT_CALLED:
            if is_overridden(name, pl_module):
                raise ValueError(
                    f"{type(pl_module).__name__} has {name}, which would see or change the gradient before noise is "
                    "added, and is not called; remove it"
                )
        self._check_step(trainer)

    def _check_step(self, trainer: Trainer) -> None:
        if trainer.accumulate_grad_batches != 1:
            raise ValueError(
                f"Trainer has accumulate_grad_batches={trainer.accumulate_grad_batches}, but a private step takes as "
                "many batches as its draw needs; leave it at 1, and set privacy={'max_physical_batch_size': ...} for "
                "the memory"
            )


class _Steps:
    """One number for each logical step of an epoch."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._number))

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the engine resumes the draws."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing; with these two methods, Lightning does not warn that the data cannot be resumed."""


class _TrainingStep(nn.Module):
    """The whole training step as a module, so that the engine checks all of it.

    It has a shallow copy of the user's module: the same parameters, buffers and submodules without the trainer, through
    which a bucket could reach the next one.

    Args:
        module: the user's module; what its class has as ``training_step`` is called.
    """

    def __init__(self, module: LightningModule) -> None:
        super().__init__()
        self.module = copy.copy(module)
        self.module.log = _drop
        takes = list(inspect.signature(type(module).training_step).parameters)[1:]
        if "dataloader_iter" in takes:
            raise ValueError(
                f"training_step of {type(module).__name__} takes dataloader_iter, but the engine draws the batches; "
                "take (batch, batch_idx)"
            )
        self.takes_number = len(takes) > 1

    def forward(self, batch: Any, number: int) -> Tensor:
        """Return the loss of one bucket."""
        found = self.module.training_step(*((batch, number) if self.takes_number else (batch,)))
        loss: Tensor = found["loss"] if isinstance(found, Mapping) else found
        return loss


@dataclass(frozen=True)
class _Counts:
    """The trainer as a private ``training_step`` sees it: its counts, which depend on no record."""

    global_step: int
    current_epoch: int


def _drop(name: str, *values: Any, **options: Any) -> None:
    del values, options
    _LOG.info("%r of training_step is not logged: it depends on private records, and has no noise", name)
