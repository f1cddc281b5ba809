"""Reading the history of an Opacus checkpoint, as Opacus itself writes it, and of everything that is none."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import opacus
import pytest
import torch
from opacus.schedulers import ExponentialNoise
from torch.utils.data import DataLoader, TensorDataset

from accountants import BucketMechanism, Ledger
from dpmi.privacy import read_opacus_history

X, Y = torch.randn(100, 3), torch.arange(100) % 2


def trained(path: Path, *, accountant: str = "rdp", noise: Any = 1.1, decay: float | None = None) -> Any:
    """Train with Opacus for two passes of ten steps, write its checkpoint, and return its accountant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine, model = opacus.PrivacyEngine(accountant=accountant), torch.nn.Linear(3, 2)
        module, optimizer, loader = engine.make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            data_loader=DataLoader(TensorDataset(X, Y), batch_size=10),
            noise_multiplier=noise,
            max_grad_norm=1.0,
        )
        scheduler = None if decay is None else ExponentialNoise(optimizer, gamma=decay)
        for _ in range(2):
            for x, y in loader:
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(module(x), y).backward()
                optimizer.step()
            if scheduler is not None:
                scheduler.step()
        engine.save_checkpoint(path=path, module=module, optimizer=optimizer, noise_scheduler=scheduler)
    return engine.accountant


@pytest.mark.parametrize("accountant", ["rdp", "prv", "gdp"])
@pytest.mark.parametrize("noise", [1.1, np.float64(1.1), np.float32(1.5), 2])
def test_a_checkpoint_as_opacus_writes_it(tmp_path: Path, accountant: str, noise: Any) -> None:
    trained(tmp_path / "saved.pt", accountant=accountant, noise=noise)
    expected = Ledger().record(BucketMechanism(sampling_rate=0.1, noise_multiplier=float(noise)), 20)
    assert read_opacus_history(tmp_path / "saved.pt") == expected


def test_noise_that_changed_on_the_way(tmp_path: Path) -> None:
    history = trained(tmp_path / "saved.pt", decay=0.9).history
    assert len(history) == 2
    ledger = read_opacus_history(tmp_path / "saved.pt")
    assert [(m.noise_multiplier, m.sampling_rate, steps) for m, steps in ledger.runs] == history


def test_the_accountant_alone(tmp_path: Path) -> None:
    accountant = trained(tmp_path / "saved.pt")
    torch.save(accountant.state_dict(), tmp_path / "alone.pt")
    assert read_opacus_history(tmp_path / "alone.pt") == read_opacus_history(str(tmp_path / "saved.pt"))


def test_of_our_own_accountants_inside_opacus(tmp_path: Path) -> None:
    trained(tmp_path / "saved.pt", accountant="bucket-pld")
    assert read_opacus_history(tmp_path / "saved.pt").steps == 20


class Runs:
    """Code that a pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('code in the file was run')",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"privacy_accountant_state_dict": {"history": Runs(), "mechanism": "rdp"}},
            "Save the accountant alone",
        ),
        ({"weights": torch.zeros(3)}, "has no history of an Opacus accountant"),
        ([1, 2, 3], "has no history of an Opacus accountant"),
        ({"history": [(1.0, 0.1, 5)]}, "has no history of an Opacus accountant"),
        ({"history": "long", "mechanism": "rdp"}, "has no history of an Opacus accountant"),
        ({"history": [], "mechanism": "rdp"}, "has an empty history"),
        ({"history": [(1.0, 0.1)], "mechanism": "rdp"}, r"entry 0 of the history, \(1.0, 0.1\), is not"),
        ({"history": [(1.0, 0.1, 5), 7], "mechanism": "rdp"}, "entry 1 of the history, 7, is not"),
        ({"history": [(1.0, 1.5, 5)], "mechanism": "rdp"}, r"sampling_rate must be in \(0, 1\], got 1.5"),
        ({"history": [(-1.0, 0.5, 5)], "mechanism": "rdp"}, "noise_multiplier must be at least 0"),
        ({"history": [(1.0, 0.5, 0)], "mechanism": "rdp"}, "steps must be at least 1, got 0"),
        ({"history": [(1.0, 0.5, 2.5)], "mechanism": "rdp"}, "steps must be an integer, got 2.5"),
        ({"history": [("a", "b", "c")], "mechanism": "rdp"}, "must be a real number"),
    ],
)
def test_what_is_no_history(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(ValueError, match=message):
        read_opacus_history(tmp_path / "file.pt")


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps({"history": [(1, 0.1, 5)]})[:20]])
def test_what_is_no_file_of_torch(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"file\.pt cannot be read as tensors and plain values"):
        read_opacus_history(tmp_path / "file.pt")
    with pytest.raises(FileNotFoundError):
        read_opacus_history(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        read_opacus_history(tmp_path)


def test_a_truncated_checkpoint(tmp_path: Path) -> None:
    trained(tmp_path / "saved.pt")
    whole = (tmp_path / "saved.pt").read_bytes()
    for length in (len(whole) // 4, len(whole) // 2, len(whole) - 30):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.pt cannot be read"):
            read_opacus_history(tmp_path / "cut.pt")
