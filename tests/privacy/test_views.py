"""Several views of each record in a bucket's mean: every record as often, one contribution, the same charge.

Modules: dpmi/privacy/plan.py, dpmi/privacy/sampling.py.
"""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import Partition, PrivacyEngine
from dpmi.privacy.plan import Plan

from .reference import brute_force, private_run, relative_error
from .test_update import TOLERANCE, problem


@pytest.mark.parametrize("most", [None, 3])
@pytest.mark.parametrize("max_physical_batch_size", [512, 10, 1])
@pytest.mark.parametrize("mode", ["stream", "hooks"])
def test_every_record_comes_as_often_as_it_has_views(
    mode: str, max_physical_batch_size: int, most: int | None
) -> None:
    model, x, y, partition = problem("linear")
    run = private_run(
        model,
        x,
        y,
        partition,
        epochs=4,
        views=4,
        max_records_per_bucket=most,
        max_physical_batch_size=max_physical_batch_size,
        grad_sample_mode=mode,
    )
    assert max(run.batches) <= max_physical_batch_size
    for drawn in run.steps:
        assert set(Counter(drawn).values()) <= {4}
        for bucket in {int(partition.bucket_of[i]) for i in drawn}:
            own = {i for i in drawn if partition.bucket_of[i] == bucket}
            size = len(partition.records(bucket))
            assert len(own) == (size if most is None else min(size, most))
    taken = {i for drawn in run.steps for i in drawn}
    assert len(taken) > (0.6 if most is None else 0.2) * len(x)


@pytest.mark.parametrize("max_physical_batch_size", [512, 10])
@pytest.mark.parametrize("mode", ["stream", "hooks", "ghost"])
def test_equal_views_change_nothing(mode: str, max_physical_batch_size: int) -> None:
    model, x, y, partition = problem("linear")
    start = copy.deepcopy(model)
    run = private_run(
        model,
        x,
        y,
        partition,
        epochs=3,
        views=3,
        max_physical_batch_size=max_physical_batch_size,
        grad_sample_mode=mode,
    )
    once = [sorted(set(drawn)) for drawn in run.steps]
    assert relative_error(model, brute_force(start, x, y, partition, once)) < TOLERANCE
    assert run.engine.ledger == private_run(*problem("linear"), epochs=3).engine.ledger


def test_different_views_are_averaged() -> None:
    """A bucket of one record with four views moves by the clipped mean of their gradients."""
    torch.default_generator.manual_seed(0)
    model = nn.Linear(5, 3)
    start = copy.deepcopy(model)
    x, y = torch.randn(1, 5), torch.tensor([2])
    seen: list[Tensor] = []

    def collate(records: list[Any]) -> tuple[Tensor, Tensor]:
        inputs = torch.stack([r[0] for r in records])
        seen.append(inputs + 0.3 * torch.randn(inputs.shape))
        return seen[-1], torch.stack([r[1] for r in records])

    with pytest.warns(UserWarning, match="noise_multiplier is 0"):
        module, optimizer, loader = PrivacyEngine().make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
            data_loader=DataLoader(TensorDataset(x, y), collate_fn=collate),
            partition=Partition.by_record(1),
            sampling_rate=1.0,
            noise_multiplier=0.0,
            max_grad_norm=0.4,
            views=4,
            steps_per_epoch=1,
        )
    for inputs, labels in loader:
        F.cross_entropy(module(inputs), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert len(seen[-1]) == 4
    loss = F.cross_entropy(start(seen[-1]), y.expand(4))
    gradients = torch.autograd.grad(loss, list(start.parameters()))
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    for before, after, gradient in zip(start.parameters(), model.parameters(), gradients, strict=True):
        torch.testing.assert_close(
            before - after, gradient * min(1.0, 0.4 / float(norm)), rtol=1e-4, atol=1e-6
        )


def test_no_view_is_refused() -> None:
    with pytest.raises(ValueError, match="views must be at least 1"):
        Plan(
            partition=Partition.by_record(3),
            sampling_rate=0.5,
            noise_multiplier=1.0,
            max_grad_norm=1.0,
            views=0,
        )


def test_a_training_does_not_resume_with_other_views(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    private_run(*problem("linear"), noise_multiplier=1.0, views=2).engine.save_checkpoint(path)
    with pytest.raises(ValueError, match="views is 2 there and 1 here"):
        private_run(*problem("linear"), noise_multiplier=1.0, epochs=0).engine.load_checkpoint(path)
