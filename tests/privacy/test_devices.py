"""One device for the parameters, the noise and the sum; and what the log says of several cores.

Modules: dpmi/privacy/loader.py, dpmi/privacy/optimizer.py, dpmi/privacy/physical_limit.py,
dpmi/privacy/preconditions.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import Partition, PrivacyEngine, loader
from dpmi.privacy.physical_limit import MOST, CudaMemory, is_out_of_memory

N = 40
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3


def private(module: nn.Module, **options: Any) -> tuple[Any, ...]:
    device = next(p.device for p in module.parameters())
    x, y = (X, Y) if device.type == "meta" else (X.to(device), Y.to(device))
    arguments = {"criterion": nn.CrossEntropyLoss(), "sampling_rate": 0.5, "noise_multiplier": 1.0, **options}
    return PrivacyEngine().make_private(
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), lr=0.1),
        data_loader=DataLoader(TensorDataset(x, y)),
        partition=Partition.by_column((torch.arange(N) // 4).numpy()),
        max_grad_norm=1.0,
        **arguments,
    )


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def train(module: Any, optimizer: Any, criterion: Any, loader: Any) -> None:
    for x, y in loader:
        criterion(module(x), y).backward()
        optimizer.step()


def test_parameters_on_two_devices_are_refused() -> None:
    model = layers()
    model[2].to("meta")
    with pytest.raises(ValueError, match=r"two devices, '0\.weight' on cpu and '2\.weight' on meta"):
        private(model)


def test_a_module_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match=r"device meta, which holds no values; .*to_empty"):
        private(layers().to("meta"))


@pytest.fixture
def moves_in_place() -> Iterator[None]:
    """As between a CPU and a GPU, where a parameter stays the same object."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(False)


@pytest.mark.usefixtures("moves_in_place")
def test_a_module_that_was_moved_after_make_private_is_refused() -> None:
    model = layers()
    made = private(model)
    model.to("meta")
    with pytest.raises(RuntimeError, match=r"was moved to meta after make_private, and noise .* are on cpu"):
        train(*made)


def suggestions(caplog: pytest.LogCaptureFixture, *, threads: int) -> list[str]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with caplog.at_level(logging.INFO, logger="dpmi"):
            train(*private(layers(), max_physical_batch_size=16, grad_sample_mode="hooks"))
    finally:
        torch.set_num_threads(before)
    return [message for message in caplog.messages if "one process per core" in message]


def test_several_processes_are_suggested_once_for_a_small_model(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = suggestions(caplog, threads=2)
    assert "(9.0e+02 multiply-adds in a physical batch of 16 records)" in message  # 16 * (4 * 8 + 8 * 3)
    assert "--nproc-per-node 2" in message


def test_one_thread_or_much_work_gets_no_suggestion(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not suggestions(caplog, threads=1)
    monkeypatch.setattr(loader, "SMALL_WORK", 16 * 56)
    assert not suggestions(caplog, threads=2)


@pytest.mark.gpu
def test_the_memory_of_a_gpu_is_that_of_its_tensors() -> None:
    memory = CudaMemory(torch.device("cuda", torch.cuda.current_device()))
    memory.begin()
    free, failures = memory.free, memory.failures
    held = torch.empty(2**26, dtype=torch.uint8, device="cuda")
    del held
    assert 2**26 <= memory.used < 2**27
    with pytest.raises(RuntimeError) as found:
        torch.empty(2 * free, dtype=torch.uint8, device="cuda")
    assert is_out_of_memory(found.value)
    assert memory.failures == failures + 1


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_auto_takes_most_on_a_large_gpu(mode: str) -> None:
    made = private(layers().cuda(), max_physical_batch_size="auto", grad_sample_mode=mode)
    train(*made)
    assert made[-1].draws.limit.records == MOST
