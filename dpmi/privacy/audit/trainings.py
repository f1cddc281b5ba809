"""Audited trainings of small models in every way that the engine computes.

Every configuration trains a real model on scikit-learn's digits, with canaries, and replaces single buckets by extreme
ones in pairs of runs with the same seed.
"""

from __future__ import annotations

import dataclasses
import secrets
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ..engine import PrivacyEngine
from ..finding import Check, Finding
from ..partition import Partition
from .audit import Audit
from .sensitivity import sensitivity

RECORDS = 360
NORM = 0.05
"""max_grad_norm of the trainings: small, so that every bucket is clipped."""

Loop = Literal["whole", "left early", "resumed"]


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One way to train.

    Args:
        strategy: grad_sample_mode.
        partition: "class" (10 buckets of 36 records), "subclass" (40 buckets), or "user" (60 buckets of 6).
        physical: max_physical_batch_size; buckets that are larger are split.
        network: "mlp"; "wide", the same with so many parameters that secure noise is made in several chunks; or "cnn"
            with convolutions and group normalisation.
        secure: secure_mode.
        ranks: number of processes.
        loop: "whole" passes, passes that are "left early" within a step, or training "resumed" twice from a checkpoint.
        sampling_rate: q.
        noise_multiplier: sigma.
        steps: logical steps.
        canaries: number of canary buckets.
    """

    strategy: Literal["stream", "hooks", "ghost"]
    partition: Literal["class", "subclass", "user"]
    physical: int = 512
    network: Literal["mlp", "wide", "cnn"] = "mlp"
    secure: bool = False
    ranks: int = 1
    loop: Loop = "whole"
    sampling_rate: float = 0.2
    noise_multiplier: float = 1.5
    steps: int = 40
    canaries: int = 200

    def __str__(self) -> str:
        facts = [self.strategy, self.partition, self.network, f"batches of {self.physical}"]
        facts += ["secure mode"] if self.secure else []
        facts += [f"{self.ranks} ranks"] if self.ranks > 1 else []
        facts += [self.loop] if self.loop != "whole" else []
        return ", ".join(
            [*facts, f"q {self.sampling_rate:g}, noise {self.noise_multiplier:g}, {self.steps} steps"]
        )


def examined(configuration: Configuration) -> Finding | None:
    """Train one configuration, and return its finding with the measured sensitivity.

    None on ranks other than 0, which see no audit.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = _trained(configuration)
        checks = _sensitivities(configuration)
        if dist.is_initialized() and dist.get_rank() > 0:
            return None
        finding = engine.finding()
        return dataclasses.replace(finding, checks=(*finding.checks, *checks))


@cache
def _data() -> tuple[Tensor, Tensor]:
    """Return images (N, 1, 8, 8) in [0, 1] and labels (N,) of scikit-learn's digits, the same number of each digit."""
    from sklearn.datasets import load_digits  # noqa: PLC0415

    pixels, digits = load_digits(return_X_y=True)
    chosen = np.concatenate([np.flatnonzero(digits == digit)[: RECORDS // 10] for digit in range(10)])
    order = np.arange(RECORDS).reshape(10, -1).T.ravel()  # the digits in turns
    chosen = chosen[order]
    return torch.tensor(pixels[chosen] / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(
        digits[chosen]
    )


@cache
def _partition(kind: str) -> Partition:
    inputs, labels = _data()
    if kind == "class":
        return Partition.by_class(labels.numpy())
    if kind == "user":
        return Partition.by_column(np.arange(RECORDS) // 6, unit="user")
    return Partition.by_kmeans(inputs.flatten(1).numpy(), labels.numpy(), clusters_per_class=4)


def _network(kind: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind != "cnn":
            hidden = 64 if kind == "mlp" else 1024
            return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, 10))
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.GroupNorm(2, 8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.GroupNorm(2, 8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 32),
            nn.ReLU(),
            nn.Linear(32, 10),
        )


@dataclass(frozen=True, eq=False)
class _Run:
    """A wrapped training."""

    engine: PrivacyEngine
    module: Any
    optimizer: Any
    criterion: Any
    loader: Any

    def go_on(self, steps: int, *, leave: Callable[[Tensor], bool] | None = None) -> None:
        """Train until ``steps`` steps are released, or a whole pass releases none.

        A pass is left once in every step where ``leave(labels)`` says so.
        """
        left_at = -1
        while self.optimizer.released_steps < steps:
            before, left = self.optimizer.released_steps, False
            for inputs, labels in self.loader:
                self.optimizer.zero_grad()
                self.criterion(self.module(inputs), labels).backward()
                self.optimizer.step()
                done = self.optimizer.released_steps
                if done >= steps:
                    break
                left = leave is not None and not self.optimizer.released and left_at < done and leave(labels)
                if left:
                    left_at = done
                    break
            if not left and self.optimizer.released_steps == before:
                return


def _wrapped(configuration: Configuration, data: tuple[Tensor, Tensor], **options: Any) -> _Run:
    model, engine = _network(configuration.network), PrivacyEngine()
    settings: dict[str, Any] = {
        "partition": _partition(configuration.partition),
        "sampling_rate": configuration.sampling_rate,
        "noise_multiplier": configuration.noise_multiplier,
        "max_grad_norm": NORM,
        "grad_sample_mode": configuration.strategy,
        "max_physical_batch_size": configuration.physical,
        "steps_per_epoch": configuration.steps,
        **options,
    }
    loss = nn.CrossEntropyLoss()
    if configuration.strategy != "stream":
        settings["criterion"] = loss
    module, optimizer, *criterion, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        data_loader=DataLoader(TensorDataset(*data)),
        **settings,
    )
    return _Run(engine, module, optimizer, criterion[0] if criterion else loss, loader)


def _trained(configuration: Configuration) -> PrivacyEngine:
    """Train with canaries, and return the engine."""
    options: dict[str, Any] = {
        "secure_mode": configuration.secure,
        "audit": Audit(canaries=configuration.canaries),
    }
    if configuration.loop == "resumed" and not configuration.secure:
        options["seed"] = secrets.randbits(32)  # with a seed, a fault of the checkpoint can repeat noise
    run = _wrapped(configuration, _data(), **options)
    if configuration.loop != "resumed":
        # A loop that is left because of what was drawn must not change what is drawn.
        leave = (lambda labels: bool((labels == 0).any())) if configuration.loop == "left early" else None
        run.go_on(configuration.steps, leave=leave)
        return run.engine
    for part in (1, 2):
        run.go_on(configuration.steps * part // 3)
        with tempfile.TemporaryDirectory() as folder:
            run.engine.save_checkpoint(Path(folder, "checkpoint.pt"))
            run = _wrapped(configuration, _data(), **options)
            run.engine.load_checkpoint(Path(folder, "checkpoint.pt"))
    run.go_on(configuration.steps)
    return run.engine


def _sensitivities(configuration: Configuration) -> list[Check]:
    """Replace the first and the last bucket, or the last of two sizes: faults confuse records where sizes change."""
    partition = _partition(configuration.partition)
    bound = 2 * NORM / partition.num_buckets

    def release(inputs: Tensor, labels: Tensor) -> Tensor:
        # Seeded, so not in secure mode; every bucket is drawn.
        run = _wrapped(configuration, (inputs, labels), sampling_rate=1.0, seed=0, steps_per_epoch=1)
        seen: list[Tensor] = []
        run.optimizer.original_optimizer.register_step_pre_hook(
            lambda optimizer, *_: seen.append(
                torch.cat([p.grad.flatten() for group in optimizer.param_groups for p in group["params"]])
            )
        )
        run.go_on(1, leave=(lambda _: True) if configuration.loop == "left early" else None)
        return seen[0]

    return [
        sensitivity(release, *_data(), torch.from_numpy(partition.records(bucket)), bound=bound)
        for bucket in _victims(partition)
    ]


def _victims(partition: Partition) -> list[int]:
    order = np.argsort(partition.sizes, kind="stable")  # as the sampler packs them
    ends = [int(order[partition.sizes[order] == size][-1]) for size in np.unique(partition.sizes)]
    return sorted({0, ends[-1]} if len(ends) == 1 else {ends[len(ends) // 2], ends[-1]})
