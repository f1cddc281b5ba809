"""A collate function sees the records of one bucket; the buckets are put side by side afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from dpmi.privacy.collate import Buckets, merge

from .test_dry_run import N, Trained, X, linear


def test_tensors_are_put_one_after_another() -> None:
    assert merge([torch.tensor([1, 2]), torch.tensor([3])]).tolist() == [1, 2, 3]
    one = {"x": torch.ones(1)}
    assert merge([one]) is one


@pytest.mark.parametrize("kind", [list, tuple])
def test_structures_are_put_together_by_their_parts(kind: type) -> None:
    buckets = [
        kind([{"x": torch.zeros(2, 3)}, ["a", "b"], torch.tensor([0, 0])]),
        kind([{"x": torch.ones(1, 3)}, ["c"], torch.tensor([1])]),
    ]
    merged = merge(buckets)
    assert type(merged) is kind
    assert merged[0]["x"][:, 0].tolist() == [0, 0, 1]
    assert merged[1] == ["a", "b", "c"]
    assert merged[2].tolist() == [0, 0, 1]


def test_dictionaries_keep_texts_and_constants() -> None:
    merged = merge(
        [
            {"x": torch.zeros(1), "text": ["a"], "unit": "cm"},
            {"x": torch.ones(2), "text": ["b", "c"], "unit": "cm"},
        ]
    )
    assert merged["x"].tolist() == [0, 1, 1]
    assert merged["text"] == ["a", "b", "c"]
    assert merged["unit"] == "cm"


def test_lists_without_tensors_are_joined() -> None:
    assert merge([["a"], ["b", "c"]]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("buckets", "shapes"),
    [
        ([torch.zeros(2, 5), torch.zeros(1, 3)], r"\(5,\).*\(3,\)"),
        ([(torch.zeros(2), torch.zeros(2, 1)), (torch.zeros(2),)], "do not fit"),
        ([torch.tensor(1.0), torch.tensor(2.0)], "do not fit"),
    ],
)
def test_buckets_that_do_not_fit_side_by_side_are_refused(buckets: list[Any], shapes: str) -> None:
    with pytest.raises(RuntimeError, match=shapes) as error:
        merge(buckets)
    assert "pad all records to the same length, or use grad_sample_mode='stream'" in str(error.value)


class Texts(Dataset[tuple[Tensor, int]]):
    """Records of different lengths."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return X[i, : 1 + i % 6], i % 4


def test_items_of_the_data_set_are_the_records_of_one_bucket() -> None:
    seen: list[list[int]] = []

    def collate(records: list[Any]) -> Any:
        seen.append([len(x) for x, _ in records])
        return default_collate([y for _, y in records])

    buckets = Buckets(Texts(), collate)
    assert len(buckets) == N
    assert buckets[[0, 5, 7]].tolist() == [0, 1, 3]
    assert seen == [[1, 6, 2]]


def test_records_that_are_fetched_together_are_fetched_by_bucket() -> None:
    class Whole(Texts):
        def __getitems__(self, indices: list[int]) -> list[int]:
            return [10 * i for i in indices]

    assert Buckets(Whole(), list)[[1, 2]] == [10, 20]


def test_the_collate_function_is_called_for_one_bucket_at_a_time() -> None:
    """Here it subtracts the mean over what it gets."""
    seen: list[int] = []

    def centred(records: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        seen.append(len(records))
        x, y = default_collate(records)
        return x - x.mean(0), y

    class Records(Texts):
        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            return X[i], i % 4

    def run(mode: str) -> Trained:
        return Trained(linear(), data=DataLoader(Records(), collate_fn=centred), grad_sample_mode=mode)

    shared = run("hooks")
    assert max(shared.sizes) > 4
    assert set(seen) == {1, 2, 4}
    assert torch.allclose(shared.weights, run("stream").weights, atol=1e-6)


def test_padding_to_the_longest_of_a_bucket_is_an_error_that_names_shapes() -> None:
    def padded(records: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        longest = max(len(x) for x, _ in records)
        x = torch.stack([torch.nn.functional.pad(x, (0, longest - len(x))) for x, _ in records])
        return x.mean(1, keepdim=True).expand(-1, 6), torch.tensor([y for _, y in records]), x  # type: ignore[return-value]

    buckets = Buckets(Texts(), padded)
    with pytest.raises(RuntimeError, match=r"\(2,\).*\(4,\).*do not fit into one physical batch"):
        merge([buckets[[0, 1]], buckets[[2, 3]]])
