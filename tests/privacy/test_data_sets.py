"""Data sets on disk, of Hugging Face, pandas and NumPy: partitions and batches, without a loop over the records.

Modules: dpmi/privacy/collate.py, dpmi/privacy/ids.py, dpmi/privacy/loader.py, dpmi/privacy/partition.py.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dpmi.privacy import Partition, PrivacyEngine

os.environ["HF_HUB_OFFLINE"] = "1"
N, SIZE = 60, 6
X = np.random.default_rng(0).normal(size=(N, SIZE)).astype(np.float32)
Y = np.arange(N) % 4
USERS = [f"user {i // 3}" for i in range(N)]


def trained(loader: DataLoader[Any], partition: Partition) -> Tensor:
    """The weight of a linear model after some private steps over the loader's batches of x and y."""
    torch.manual_seed(0)
    model, engine = nn.Linear(SIZE, 4), PrivacyEngine()
    private, optimizer, private_loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=loader,
        partition=partition,
        sampling_rate=0.3,
        noise_multiplier=0.5,
        max_grad_norm=0.5,
        seed=1,
    )
    for batch in private_loader:
        x, y = (batch["x"], batch["y"]) if isinstance(batch, dict) else batch
        F.cross_entropy(private(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert engine.ledger.steps == 3
    return model.weight.detach()


@pytest.fixture(scope="module")
def expected() -> Tensor:
    data = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    return trained(DataLoader(data), Partition.by_column(USERS))


@pytest.fixture
def arrow(tmp_path: Path) -> Any:
    """A data set of Hugging Face, in Arrow files on the disk."""
    datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
    made = datasets.Dataset.from_dict({"x": X, "y": Y, "user": USERS, "number": np.arange(N) // 3})
    made.save_to_disk(tmp_path / "records")
    return datasets.load_from_disk(tmp_path / "records")


@pytest.mark.parametrize("kind", ["torch", "numpy", None])
@pytest.mark.parametrize("column", ["user", "number"])
def test_a_column_is_read_at_once(arrow: Any, kind: str | None, column: str) -> None:
    given = arrow.with_format(kind)[column]
    reads: list[Any] = []

    class Watched(type(given)):  # type: ignore[misc]
        def __getitem__(self, key: Any) -> Any:
            reads.append(key)
            return super().__getitem__(key)

        def __iter__(self) -> Any:
            raise AssertionError("record by record")

    given.__class__ = Watched
    partition = Partition.by_column(given)
    assert reads == [slice(None)]
    assert partition.bucket_of.tolist() == Partition.by_column(arrow.to_dict()[column]).bucket_of.tolist()
    assert partition.num_buckets == 20


@pytest.mark.parametrize("kind", ["pandas", "arrow"])
def test_formats_whose_columns_are_whole_already(arrow: Any, kind: str) -> None:
    assert Partition.by_column(arrow.with_format(kind)["user"]).hash == Partition.by_column(USERS).hash


def test_labels_are_read_at_once_too(arrow: Any) -> None:
    assert Partition.by_class(arrow["y"]).bucket_of.tolist() == Y.tolist()
    assert Partition.by_class(arrow.with_format("torch")["y"]).hash == Partition.by_class(Y).hash


def test_owners_may_be_a_column(arrow: Any) -> None:
    owners = [["al", "bo"], ["cy"]] * (N // 2)
    given = arrow.add_column("owners", owners)["owners"]
    assert Partition.by_owners(given).hash == Partition.by_owners(owners).hash


def test_a_missing_id_of_a_column_is_named(arrow: Any) -> None:
    column = arrow.add_column("gap", [*range(N - 1), None])["gap"]
    with pytest.raises(ValueError, match=f"record {N - 1} has no user"):
        Partition.by_column(column)


def test_an_arrow_data_set_trains_as_tensors_do(arrow: Any, expected: Tensor) -> None:
    fetched: list[list[int]] = []
    torch_format = arrow.select_columns(["x", "y"]).with_format("torch")

    class Watched(type(arrow)):  # type: ignore[misc]
        def __getitems__(self, keys: list[int]) -> Any:
            fetched.append(keys)
            return super().__getitems__(keys)

    torch_format.__class__ = Watched
    found = trained(DataLoader(torch_format), Partition.by_column(arrow["user"]))
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)
    assert {len(keys) for keys in fetched} == {3}, "all records of a user in one call"


def test_an_own_collate_function_is_called_once_per_bucket(arrow: Any, expected: Tensor) -> None:
    def collate(records: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
        x = torch.tensor([record["x"] for record in records])
        return x, torch.tensor([record["y"] for record in records])

    loader = DataLoader(arrow, collate_fn=collate)
    found = trained(loader, Partition.by_column(arrow["user"]))
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)


class Table(Dataset[tuple[Tensor, int]]):
    """Records in a pandas table."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def __getitems__(self, rows: list[int]) -> list[tuple[Tensor, int]]:
        taken = self.table.iloc[rows]
        x = torch.tensor(taken[[str(i) for i in range(SIZE)]].to_numpy())
        return list(zip(x, taken["y"].tolist(), strict=True))


def test_a_table_of_pandas_trains_as_tensors_do(expected: Tensor) -> None:
    table = pd.DataFrame(X, columns=[str(i) for i in range(SIZE)]).assign(y=Y, user=USERS)
    for users in (table["user"], table["user"].astype("category"), table["user"].array):
        found = trained(DataLoader(Table(table)), Partition.by_column(users))
        assert torch.allclose(found, expected, rtol=0, atol=1e-6)


def test_a_memory_map_trains_as_tensors_do(expected: Tensor, tmp_path: Path) -> None:
    stored = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=X.shape)
    stored[:] = X
    stored.flush()
    mapped = np.load(tmp_path / "x.npy", mmap_mode="c")
    data = TensorDataset(torch.from_numpy(mapped), torch.from_numpy(Y))
    users = np.array(USERS)
    assert torch.equal(trained(DataLoader(data), Partition.by_column(users)), expected)
