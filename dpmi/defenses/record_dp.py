"""Record-level differential privacy: DP-SGD with unmodified Opacus, the baseline of [Z20]."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from opacus import PrivacyEngine as OpacusEngine
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from accountants import BucketMechanism, Ledger
from dpmi.models import device_of
from dpmi.privacy import Account, Partition
from dpmi.privacy.noise import NoiseMode

from .base import Defense
from .private import PrivateDefense
from .session import Session, Setup

GradSampleMode = Literal["hooks", "ghost"]

# Warnings of torch caused by Opacus's hooks.
_REMARKS = ("Full backward hook is firing", "grad and param do not obey the gradient layout contract")


@dataclass(frozen=True, kw_only=True)
class RecordDP(PrivateDefense):
    """Per-record clipping, Poisson sampling of records.

    The sampling rate of Opacus is 1 / (batches per epoch): ``sampling_rate`` is rounded down to the next 1 / integer.
    The account charges the rounded rate.

    >>> from dpmi import data, models
    >>> from dpmi.defenses import Recipe, train
    >>> digits = data.load("digits")
    >>> model = models.build("softmax", image_shape=digits.image_shape, num_classes=10, seed=0)
    >>> defense = RecordDP(noise_multiplier=1.0, sampling_rate=0.05, max_grad_norm=1.0)
    >>> trained = train(defense, model, digits.train, Recipe(steps=10, learning_rate=0.1), seed=0)
    >>> found = trained.account.guarantee(delta=1e-5, adjacency="add_remove")
    >>> found.unit, found.steps, round(found.epsilon, 2)
    ('record', 10, 1.66)

    Args:
        grad_sample_mode: clipping method of Opacus; the updates are equal up to rounding. "hooks" stores a gradient for
            every record; "ghost" stores only its norm and needs a second backward pass. Ghost is many times as fast for
            a model of a few wide linear layers.
    """

    name: ClassVar[str] = "record-dp"
    unit: ClassVar[str] = "record"

    delta: float = 1e-5  # [Z20] section V.A
    grad_sample_mode: GradSampleMode = "hooks"

    def __post_init__(self) -> None:
        super().__post_init__()
        modes = get_args(GradSampleMode)
        if self.grad_sample_mode not in modes:
            raise ValueError(
                f"grad_sample_mode must be {' or '.join(map(repr, modes))}, got {self.grad_sample_mode!r}"
            )

    def check_beside(self, *others: Defense) -> None:
        """Refuse parts that change the loss if clipping is "ghost", which supports only plain cross-entropy."""
        if self.grad_sample_mode != "ghost":
            return
        for other in others:
            changed = [
                h
                for h in ("criterion", "penalty", "augment")
                if getattr(type(other), h) is not getattr(Defense, h)
            ]
            if changed:
                raise ValueError(
                    f"grad_sample_mode 'ghost' supports plain cross-entropy only, but {other.name} changes the loss; "
                    "use 'hooks'"
                )

    def privatize(self, setup: Setup) -> Session:
        """Wrap module, optimizer and loader with Opacus, and record the released steps in a ledger."""
        # Opacus 1.6 computes wrong gradients of convolutions in channels_last: its unfold assumes contiguous tensors.
        module = setup.module.to(memory_format=torch.contiguous_format)
        generator = torch.Generator().manual_seed(setup.stage_seed)
        with warnings.catch_warnings():
            # Opacus recommends secure_mode at every start; the account already states that the noise is seeded.
            warnings.filterwarnings("ignore", message="Secure RNG turned off")
            private_module, private_optimizer, *criterion, loader = OpacusEngine(
                accountant="prv"
            ).make_private(
                module=module,
                optimizer=setup.optimizer,
                data_loader=DataLoader(
                    setup.records,
                    batch_size=math.ceil(self.sampling_rate * len(setup.data)),
                    generator=generator,
                ),
                noise_multiplier=self.noise_multiplier,
                max_grad_norm=self.max_grad_norm,
                noise_generator=torch.Generator(device_of(module)).manual_seed(setup.stage_seed + 1),
                grad_sample_mode=self.grad_sample_mode,
                criterion=nn.CrossEntropyLoss(),
            )
        partition = Partition.by_record(len(setup.data))
        mechanism = BucketMechanism(
            sampling_rate=loader.batch_sampler.sample_rate, noise_multiplier=self.noise_multiplier
        )
        ledger = Ledger()

        def bill(_: Optimizer) -> None:
            nonlocal ledger
            ledger = ledger.record(mechanism)

        private_optimizer.attach_step_hook(bill)

        def account() -> Account:
            return Account(
                ledger=ledger,
                unit=partition.unit,
                buckets=partition.num_buckets,
                provenance=partition.provenance,
                partition_hash=partition.hash,
                max_grad_norms=(self.max_grad_norm,),
                noise=NoiseMode.SEEDED,
            )

        return Session(
            module=private_module,
            optimizer=private_optimizer,
            loader=loader,
            account=account,
            criterion=criterion[0] if criterion else None,
            ignored_warnings=_REMARKS,
        )
