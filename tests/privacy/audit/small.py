"""A small audited training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import Partition, PrivacyEngine
from dpmi.privacy.audit import Audit

N = 60
X = torch.randn(N, 20, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 6
CANARIES = 40


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(20, 40), nn.Tanh(), nn.Linear(40, 6))  # 1086 parameters


def wrap(model: nn.Module | None = None, **options: Any) -> tuple[PrivacyEngine, Any, Any, Any]:
    """Engine, module, optimizer and loader of a private training by class, 30 steps per pass."""
    model, engine = model or network(), PrivacyEngine()
    settings: dict[str, Any] = {
        "partition": Partition.by_class(Y.numpy()),
        "sampling_rate": 0.3,
        "noise_multiplier": 1.0,
        "max_grad_norm": 0.5,
        "steps_per_epoch": 30,
        "audit": Audit(canaries=CANARIES),
        **options,
    }
    return (
        engine,
        *engine.make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            data_loader=DataLoader(TensorDataset(X, Y), batch_size=10),
            **settings,
        ),
    )


def go_on(module: Any, optimizer: Any, loader: Any, after: Callable[[int], None] | None = None) -> None:
    """Train one pass, and call ``after`` with the number of released steps after every batch that released one."""
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
        if after is not None and optimizer.released:
            after(optimizer.released_steps)


def trained(**options: Any) -> PrivacyEngine:
    """Engine after one pass."""
    engine, module, optimizer, loader = wrap(**options)
    go_on(module, optimizer, loader)
    return engine
