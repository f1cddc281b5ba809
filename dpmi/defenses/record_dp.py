"""Record-level differential privacy: DP-SGD by stock Opacus, the baseline of [Z20]."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from opacus import PrivacyEngine as OpacusEngine
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from accountants import BucketMechanism, Ledger
from dpmi.data import ImageSet
from dpmi.privacy import Account, Partition

from .base import Session
from .private import PrivateDefense

# What torch remarks about the way Opacus's hooks compute.
_REMARKS = ("Full backward hook is firing", "grad and param do not obey the gradient layout contract")


@dataclass(frozen=True, kw_only=True)
class RecordDP(PrivateDefense):
    """Per-record clipping, Poisson sampling of records.

    Opacus draws at 1 / (batches per epoch): of ``sampling_rate``, the nearest 1 / whole number below is used,
    and that is what is billed.
    """

    name: ClassVar[str] = "record-dp"
    unit: ClassVar[str] = "record"

    delta: float = 1e-5  # [Z20] section V.A

    def privatize(
        self,
        *,
        module: nn.Module,
        optimizer: Optimizer,
        data: ImageSet,
        batch_size: int,
        steps: int,
        seed: int,
    ) -> Session:
        """Wrap all three by Opacus, and keep a ledger of the steps that it releases."""
        # Opacus 1.6 computes wrong gradients of convolutions in channels_last: its unfold assumes the other layout.
        module = module.to(memory_format=torch.contiguous_format)
        records = TensorDataset(data.images, data.labels)
        generator = torch.Generator().manual_seed(seed)
        with warnings.catch_warnings():
            # Opacus recommends secure_mode at every start; the account says that the run is seeded.
            warnings.filterwarnings("ignore", message="Secure RNG turned off")
            private_module, private_optimizer, loader = OpacusEngine(accountant="prv").make_private(
                module=module,
                optimizer=optimizer,
                data_loader=DataLoader(
                    records, batch_size=math.ceil(self.sampling_rate * len(data)), generator=generator
                ),
                noise_multiplier=self.noise_multiplier,
                max_grad_norm=self.max_grad_norm,
                noise_generator=torch.Generator().manual_seed(seed + 1),
            )
        partition = Partition.by_record(len(data))
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
                max_grad_norm=self.max_grad_norm,
                seeded=True,
            )

        return Session(
            module=private_module,
            optimizer=private_optimizer,
            loader=loader,
            account=account,
            ignored_warnings=_REMARKS,
        )
