"""Accelerate prepares what make_private returned, and nothing changes; plain objects it prepared before are refused.

Modules: dpmi/privacy/grad_sample.py, dpmi/privacy/loader.py, dpmi/privacy/preconditions.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("accelerate", reason="the extra `accelerate` is not installed")

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState, GradientState, PartialState

from dpmi.privacy import Partition, PrivacyEngine

N = 60
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 4


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """Accelerate keeps its state for the whole process."""
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


class Run:
    """A model with dropout and momentum; ``make_private`` on its parts."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.module: Any = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 4))
        self.net = self.module
        self.optimizer: Any = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.5)
        self.loader: Any = DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=True)
        self.engine = PrivacyEngine()

    def make_private(self) -> Run:
        self.module, self.optimizer, self.loader = self.engine.make_private(
            module=self.module,
            optimizer=self.optimizer,
            data_loader=self.loader,
            partition=Partition.by_column([i // 3 for i in range(N)], unit="user"),
            sampling_rate=0.2,
            noise_multiplier=0.8,
            max_grad_norm=0.5,
            steps_per_epoch=8,
            seed=3,
        )
        return self

    def prepare(self, accelerator: Accelerator) -> Run:
        self.module, self.optimizer, self.loader = accelerator.prepare(
            self.module, self.optimizer, self.loader
        )
        return self

    def train(self, accelerator: Accelerator | None = None, *, accumulate: bool = False) -> Run:
        for x, y in self.loader:
            loss = F.cross_entropy(self.module(x), y)
            if accelerator is None:
                loss.backward()
                self.optimizer.step()
                self.optimizer.zero_grad()
                continue
            with accelerator.accumulate(self.module):
                accelerator.backward(loss)
                if accumulate:
                    accelerator.clip_grad_norm_(self.module.parameters(), 1e6)
                self.optimizer.step()
                self.optimizer.zero_grad()
        return self

    def same_as(self, other: Run) -> bool:
        pairs = zip(self.net.state_dict().values(), other.net.state_dict().values(), strict=True)
        return self.engine.ledger == other.engine.ledger and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("accumulate", [False, True])
def test_what_make_private_returned_can_be_prepared(accumulate: bool) -> None:
    accelerator, run = Accelerator(cpu=True), Run().make_private()
    loader = run.loader
    run.prepare(accelerator)
    assert isinstance(run.optimizer, AcceleratedOptimizer)
    assert run.loader is loader, "Accelerate would build one that announces no batch"
    assert run.train(accelerator, accumulate=accumulate).same_as(Run().make_private().train())


def test_several_buckets_may_share_a_batch() -> None:
    def train(accelerator: Accelerator | None) -> list[torch.Tensor]:
        run = Run()
        private, optimizer, criterion, loader = run.engine.make_private(
            module=nn.Sequential(run.net[0], run.net[1], run.net[3]),
            optimizer=run.optimizer,
            data_loader=run.loader,
            criterion=nn.CrossEntropyLoss(),
            partition=Partition.by_column([i // 3 for i in range(N)], unit="user"),
            sampling_rate=0.5,
            noise_multiplier=0.8,
            max_grad_norm=0.5,
            grad_sample_mode="hooks",
            seed=3,
        )
        if accelerator is not None:
            private, optimizer, loader = accelerator.prepare(private, optimizer, loader)
        for x, y in loader:
            loss = criterion(private(x), y)
            loss.backward() if accelerator is None else accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        assert run.engine.ledger.steps == 2
        return list(run.net.parameters())

    pairs = zip(train(Accelerator(cpu=True)), train(None), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


def test_the_plain_module_can_be_prepared_before() -> None:
    accelerator, run = Accelerator(cpu=True), Run()
    run.module = accelerator.prepare(run.module)
    assert run.make_private().train(accelerator).same_as(Run().make_private().train())


def test_autocast_of_a_prepared_module_is_kept() -> None:
    accelerator, run = Accelerator(cpu=True, mixed_precision="bf16"), Run()
    run.module = accelerator.prepare(run.module)
    kinds: list[torch.dtype] = []
    run.net[0].register_forward_hook(lambda *found: kinds.append(found[2].dtype))
    run.make_private().train(accelerator)
    assert set(kinds) == {torch.bfloat16}
    expected = Run().make_private().train()
    for mine, theirs in zip(run.net.parameters(), expected.net.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-2)


def test_a_prepared_optimizer_is_refused() -> None:
    run = Run()
    run.optimizer = Accelerator(cpu=True).prepare(run.optimizer)
    with pytest.raises(ValueError, match="optimizer was prepared by Accelerate, which skips its step"):
        run.make_private()


def test_a_prepared_loader_is_refused() -> None:
    run = Run()
    run.loader = Accelerator(cpu=True).prepare(run.loader)
    with pytest.raises(
        ValueError, match=r"data_loader was prepared by Accelerate.*pass the plain DataLoader"
    ):
        run.make_private()


def test_a_private_loader_is_no_plain_one() -> None:
    run = Run().make_private()
    again = Run()
    again.loader = run.loader
    with pytest.raises(ValueError, match="or is private already"):
        again.make_private()


def test_accumulation_of_several_batches_releases_nothing() -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    run = Run().make_private().prepare(accelerator)
    with pytest.raises(RuntimeError, match=r"optimizer.step\(\) was not called for the last batch"):
        run.train(accelerator)
    assert run.engine.ledger.steps == 0


def test_a_private_module_cannot_be_averaged_over_processes(tmp_path: Path) -> None:
    private = Run().make_private().module
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        with pytest.raises(RuntimeError, match="averages the gradients of different buckets"):
            nn.parallel.DistributedDataParallel(private)
    finally:
        dist.destroy_process_group()
