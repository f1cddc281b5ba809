"""The ``Trainer`` of Hugging Face transformers, trained privately; it needs the extra ``dpmi[transformers]``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from ..engine import PrivacyEngine
from ..loader import repeated
from . import steps

__all__ = ["PrivateTrainer"]

ENGINE_NAME = "private.pt"
"""The engine's checkpoint, in the folder of each checkpoint of the trainer."""

_NOT_LOGGED = ("loss", "train_loss", "grad_norm", "train_samples_per_second")
"""What a trainer logs of its training records, which nothing protects, and what it would compute from empty batches."""

_OWN = (
    "module",
    "optimizer",
    "data_loader",
    "criterion",
    "grad_sample_mode",
    "max_grad_norm",
    "max_physical_batch_size",
)
_WHERE = (
    "model, data and optimizer are its own arguments; max_grad_norm, max_steps and per_device_train_batch_size are "
    "TrainingArguments; the loss is the model's, or compute_loss_func"
)

_ALLOWED: dict[str, tuple[tuple[Any, ...], str]] = {
    "gradient_accumulation_steps": (
        (1,),
        "a step takes as many batches as its draw needs; set per_device_train_batch_size for the memory, and "
        "privacy={'sampling_rate': ...} for the records of a step",
    ),
    "auto_find_batch_size": (
        (False,),
        "it starts the training again, and the steps of the first try stay charged; set per_device_train_batch_size",
    ),
    "torch_compile": (
        (False,),
        "the trainer would compile a model that the engine does not see; compile the model before make_private, in a "
        "loop of your own",
    ),
    "label_smoothing_factor": (
        (0.0,),
        "the trainer does not know the wrapped model's kind of labels; pass a compute_loss_func that smooths them",
    ),
    "train_sampling_strategy": (
        ("random",),
        "the engine draws whole buckets; choose the draws by privacy={'sampling': ...}",
    ),
    "dataloader_drop_last": (
        (False,),
        "a draw is used whole; leave it out",
    ),
    "include_num_input_tokens_seen": (
        ("no",),
        "that number depends on which private records were drawn, and would be logged; leave it out",
    ),
    "enable_jit_checkpoint": (
        (False,),
        "it saves between the release of a step and its count; use save_strategy='steps'",
    ),
    "hub_strategy": (
        ("end", "every_save"),
        "it uploads checkpoints, which hold the state of the noise generator; use hub_strategy='every_save', which "
        "uploads the model",
    ),
}
"""Training arguments with the values that private steps allow, and what to do instead of others."""


class PrivateTrainer(transformers.Trainer):
    """A ``transformers.Trainer`` whose steps are the logical steps of a private run.

    A step of the trainer is one draw of buckets, one noisy update and one line in the ledger, however many batches it
    takes; after an empty draw it takes none. So ``max_steps``, warm-up, schedules, logging, evaluation and checkpoints
    count released steps, and an epoch has 1 / ``sampling_rate`` of them.

    The model computes its own loss, so one bucket at a time goes through it. ``compute_loss_func`` works too: it gets
    outputs and labels of one bucket.

    - ``model`` stays the plain model: ``evaluate``, ``predict``, ``generate`` and ``save_model`` work as always, and
      charge nothing.
    - ``args.max_grad_norm`` is S, the norm that a bucket's mean gradient is clipped to.
    - ``args.per_device_train_batch_size`` is the most records in one physical batch. A bucket that needs several has
      the mean of their losses, weighted by records.
    - Checkpoints contain the engine's: ledger, random states and schedule. ``train(resume_from_checkpoint=...)`` goes
      on bit for bit if ``privacy`` has a seed. Keep them as secret as the records.
    - The loss of private records is not logged, because nothing protects it; ``TrainOutput.training_loss`` is NaN.

    Args:
        privacy: arguments of :meth:`dpmi.privacy.PrivacyEngine.make_private`, without those that the trainer knows; or
            of ``make_private_with_epsilon``, if there is a ``target_epsilon``: the noise is then that of the steps of
            the whole training.
        engine: the account; a new one by default.
        arguments: those of ``transformers.Trainer``, by name.

    Raises:
        TypeError, ValueError: an entry of ``privacy`` is the trainer's, or a training argument does not go with private
            steps; the message names it, and what to do instead. ``train`` raises what ``make_private`` does.
    """

    def __init__(
        self, *, privacy: Mapping[str, Any], engine: PrivacyEngine | None = None, **arguments: Any
    ) -> None:
        self.engine = PrivacyEngine() if engine is None else engine
        self._privacy = dict(privacy)
        self._private: tuple[Any, ...] = ()
        self._plain_optimizer: Optimizer | None = None
        super().__init__(**arguments)
        self._check()

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return a loader with one empty batch for each logical step; the private loader is behind it."""
        return DataLoader(
            range(steps.per_epoch(self._privacy)),  # type: ignore[arg-type]
            collate_fn=_nothing,
            generator=torch.Generator(),  # the global one must not depend on the number of epochs
        )

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """Create the optimizer as the trainer does; the trainer then holds it without its step."""
        made = super().create_optimizer(model)
        if not isinstance(getattr(made, "optimizer", made), _Stepped):  # Accelerate wraps it
            self._plain_optimizer = made
            self.optimizer = _Stepped(made)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> Any:
        """Create the schedule, then make everything private: the trainer has placed the model by now."""
        schedule = super().create_scheduler(num_training_steps, optimizer)
        self._make_private(num_training_steps)
        return schedule

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Take one logical step: all its batches, or none after an empty draw.

        Returns:
            Zero, because the loss of private records is not logged.

        Raises:
            RuntimeError: the trainer and the engine count different steps.
        """
        del model, inputs, num_items_in_batch
        private, optimizer, loader = self._private
        steps.check_count(counted=self.state.global_step, released=optimizer.released_steps)
        private.train()

        def one_pass() -> None:
            for batch in loader:
                self.compute_loss(private, self._prepare_inputs(batch)).backward()
                optimizer.step()
                optimizer.zero_grad()

        repeated(loader, one_pass)
        return torch.zeros((), device=self.args.device)

    def train(self, *args: Any, **options: Any) -> transformers.trainer_utils.TrainOutput:
        """Train; see ``transformers.Trainer.train``. The training loss of the result is NaN."""
        self._check()
        return super().train(*args, **options)._replace(training_loss=math.nan)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log everything but the loss of private records."""
        for name in _NOT_LOGGED:
            logs.pop(name, None)
        super().log(logs, start_time)

    def _make_private(self, num_training_steps: int) -> None:
        loader: Any = super().get_train_dataloader()
        self._private = steps.make_private(
            self.engine,
            self._privacy,
            steps=num_training_steps,
            module=self.model,
            optimizer=self._plain_optimizer,
            # Accelerate has prepared the trainer's loader; the engine needs its data, and draws by itself.
            data_loader=DataLoader(
                loader.dataset,
                collate_fn=loader.collate_fn,
                num_workers=loader.num_workers,
                pin_memory=loader.pin_memory,
                worker_init_fn=loader.worker_init_fn,
                multiprocessing_context=loader.multiprocessing_context,
                prefetch_factor=loader.prefetch_factor,
            ),
            max_grad_norm=self.args.max_grad_norm,
            max_physical_batch_size=self.args.per_device_train_batch_size,
        )

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        self.engine.save_checkpoint(Path(output_dir, ENGINE_NAME), schedule=self.lr_scheduler)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Leave the weights to the engine's checkpoint, which has them all."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self.engine.load_checkpoint(Path(checkpoint, ENGINE_NAME), schedule=self.lr_scheduler)

    def _check(self) -> None:
        """Refuse what would change privacy or the count of steps, or would silently have no effect."""
        steps.check(self._privacy, own=_OWN, where=_WHERE)
        for name, (allowed, instead) in _ALLOWED.items():
            value = getattr(self.args, name)
            if value not in allowed:
                raise ValueError(f"TrainingArguments has {name}={value!r}: {instead}")
        if self.args.fp16 or self.accelerator.scaler is not None:
            raise ValueError(
                "TrainingArguments has fp16=True, which scales gradients before they are clipped; use bf16=True"
            )
        if self.accelerator.distributed_type != DistributedType.NO or self.args.n_gpu > 1:
            raise ValueError(
                f"this trainer has {max(self.accelerator.num_processes, self.args.n_gpu)} processes or devices "
                f"({self.accelerator.distributed_type}), and PrivateTrainer trains in one process on one device. Make "
                "one device visible (CUDA_VISIBLE_DEVICES=0), or use make_private in a loop of your own, which shares "
                "the buckets among the processes of torchrun"
            )
        optim = str(getattr(self.args.optim, "value", self.args.optim))
        if "lomo" in optim or "layerwise" in optim:
            raise ValueError(
                f"TrainingArguments has optim={optim!r}, which updates parameters during backward(), before clipping "
                "and noise; use one that updates in step(), such as optim='adamw_torch'"
            )
        if not self.args.max_grad_norm > 0:
            raise ValueError(
                f"TrainingArguments has max_grad_norm={self.args.max_grad_norm}, to which a private step clips every "
                "bucket; it must be above 0"
            )
        if type(self)._get_train_sampler is not transformers.Trainer._get_train_sampler:
            raise TypeError(
                f"{type(self).__name__} has its own _get_train_sampler, but the engine draws the records; remove it, "
                "and choose the draws by privacy={'sampling': ...}"
            )


class _Stepped(Optimizer):
    """The optimizer as the trainer holds it: state and rates are the real one's, and the engine takes its steps."""

    def __init__(self, real: Optimizer) -> None:
        self._real = real

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of the real optimizer, also after it has loaded a state."""
        return self._real.param_groups

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The defaults of the real optimizer."""
        return self._real.defaults

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Do nothing: the logical step was released in ``training_step``."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Do nothing: the engine has cleared the gradients."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the engine saves the real optimizer."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: the engine restores the real optimizer."""


def _nothing(numbers: list[int]) -> dict[str, Any]:
    """Return an empty batch, whatever the number of the step."""
    del numbers
    return {}
