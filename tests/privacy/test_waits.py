"""What the engine reads from the device: once in a physical batch, and every check before anything is used."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import Partition, PrivacyEngine, waits
from dpmi.privacy.waits import Doubt, read, sent

MODES = ("stream", "hooks", "ghost")
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))
READS = frozenset(
    {"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_dim"}
)


@pytest.mark.parametrize("device", DEVICES)
def test_numbers_come_back_as_they_are(device: str) -> None:
    numbers = torch.tensor([[1.5, np.nan, -np.inf], [0.0, 1e300, 2**-1074]], dtype=torch.float64)
    doubt = Doubt(torch.zeros((), dtype=torch.bool, device=device), AssertionError)
    for doubts in ([], [doubt], [doubt, doubt]):
        np.testing.assert_array_equal(read(numbers.to(device), doubts), numbers.numpy())
    assert read(torch.empty(0, dtype=torch.float64, device=device), [doubt]).shape == (0,)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "numbers", [torch.empty(0, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64)]
)
def test_the_first_doubt_that_is_right_raises(numbers: Tensor, device: str) -> None:
    def doubt(is_wrong: bool, name: str) -> Doubt:
        return Doubt(torch.tensor(is_wrong, device=device), lambda: ValueError(name))

    doubts = [doubt(False, "a"), doubt(True, "b"), doubt(True, "c")]
    with pytest.raises(ValueError, match="b"):
        read(numbers.to(device), doubts)


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_sent_arrives_though_the_source_is_gone(device: str) -> None:
    on, expected = torch.device(device), torch.arange(1000)
    found = [sent(torch.arange(1000) + i, on) for i in range(50)]
    for i, t in enumerate(found):
        assert t.device.type == device
        assert torch.equal(t.cpu(), expected + i)


class Counter(TorchDispatchMode):
    """Counts the calls that need values of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        indices = args[1] if name in ("index", "index_put_") else ()
        masks = [i for i in indices if isinstance(i, Tensor) and i.dtype == torch.bool]
        if name in READS or masks:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def texts_and_images(kind: str) -> tuple[nn.Module, Tensor]:
    torch.default_generator.manual_seed(0)
    if kind == "text":
        layers = [nn.Embedding(9, 4, padding_idx=0), nn.Flatten(), nn.LayerNorm(20), nn.Linear(20, 3)]
        return nn.Sequential(*layers), torch.randint(9, (24, 5))
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    )
    return model, torch.rand(24, 1, 6, 6)


def batches(device: str, mode: str, kind: str) -> tuple[Any, Any, Any, Any]:
    """Module, optimizer, criterion and loader; a physical batch holds at most two buckets, of 3 and 5 records."""
    model, x = texts_and_images(kind)
    if mode == "ghost" and kind == "text":  # ghost counts the lines that a bucket uses
        model[0].requires_grad_(False)
    y = torch.arange(24) % 3
    criterion = nn.CrossEntropyLoss()
    wrapped = PrivacyEngine().make_private(
        module=model.to(device),
        optimizer=torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1),
        data_loader=DataLoader(TensorDataset(x.to(device), y.to(device))),
        partition=Partition.by_column(np.repeat(np.arange(6), [3, 5] * 3)),
        sampling_rate=1.0 - 1e-12,
        noise_multiplier=1.0,
        max_grad_norm=0.3,
        max_physical_batch_size=8,
        grad_sample_mode=mode,
        **({} if mode == "stream" else {"criterion": criterion}),
    )
    module, optimizer, *own, loader = wrapped
    return module, optimizer, own[0] if own else criterion, loader


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("mode", MODES)
def test_a_batch_reads_no_value_but_in_one_transfer(
    mode: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU, a transfer is no call of torch, and is counted apart. A bucket alone reads its factor, on the CPU."""
    transfers: list[int] = []
    monkeypatch.setattr("dpmi.privacy.optimizer.read", lambda *args: transfers.append(1) or waits.read(*args))
    module, optimizer, criterion, loader = batches("cpu", mode, kind)
    taken = 0
    for _ in range(2):
        for inputs, labels in loader:
            counter = Counter()
            with counter:
                optimizer.zero_grad()
                criterion(module(inputs), labels).backward()
                optimizer.step()
            if not optimizer.rehearsing:
                taken += 1
                assert counter.names == (["_local_scalar_dense"] if type(inputs) is Tensor else [])
    assert len(transfers) == taken == (12 if mode == "stream" else 8)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("mode", MODES)
def test_a_batch_waits_for_a_gpu_once(mode: str, kind: str) -> None:
    module, optimizer, criterion, loader = batches("cuda", mode, kind)
    for _ in range(2):
        for inputs, labels in loader:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                try:
                    optimizer.zero_grad()
                    criterion(module(inputs), labels).backward()
                    optimizer.step()
                finally:
                    torch.cuda.set_sync_debug_mode("default")
            if not optimizer.rehearsing:
                assert sum("synchronizing CUDA operation" in str(w.message) for w in caught) == 1


@pytest.mark.parametrize("device", DEVICES)
def test_a_move_before_a_part_of_a_bucket_is_refused_there(device: str) -> None:
    """Also if it is undone before the bucket is complete."""
    model = nn.Linear(4, 3).to(device)
    x, y = torch.rand(6, 4, device=device), torch.arange(6, device=device) % 3
    module, optimizer, loader = PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(TensorDataset(x, y)),
        partition=Partition.by_column([0] * 6),
        sampling_rate=1.0,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        max_physical_batch_size=2,
    )
    inputs, labels = next(iter(loader))
    F.cross_entropy(module(inputs), labels).backward()
    model.weight.data += 1
    with pytest.raises(RuntimeError, match="'weight' was changed within a logical step"):
        optimizer.step()
    assert optimizer.released_steps == 0
