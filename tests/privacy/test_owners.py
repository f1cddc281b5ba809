"""Records with several owners: what is kept, against plain references, and what one owner can change in training.

Modules: dpmi/privacy/owners.py, dpmi/privacy/ids.py, dpmi/privacy/partition.py.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, chisquare
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset

from accountants import epsilon
from dpmi.privacy import Account, Partition, PrivacyEngine, Provenance
from dpmi.privacy.audit import Audit, PlantedCanaries
from dpmi.privacy.owners import OwnerSets

MESSAGES = [["al", "bo"], ["bo"], ["cy", "al"], ["bo", "al", "bo"], ["dy"]]

hypergraphs = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=12)


def plain(owners: list[list[int]], limit: int) -> dict[frozenset[int], list[int]]:
    """The kept buckets and their records, one decision after the other."""
    records: dict[frozenset[int], list[int]] = {}
    for record, ids in enumerate(owners):
        records.setdefault(frozenset(ids), []).append(record)
    open_: Counter[int] = Counter()
    kept = {}
    for ids in sorted(records, key=lambda s: (-len(records[s]), len(s), records[s][0])):
        if all(open_[owner] < limit for owner in ids):
            kept[ids] = records[ids]
            open_.update(ids)
    return kept


def buckets(partition: Partition) -> list[list[int]]:
    """The records of each bucket, as places in the data set that was given."""
    assert partition.kept is not None
    return [partition.kept[partition.records(b)].tolist() for b in range(partition.num_buckets)]


def bounded(owners: list[list[int]], limit: int) -> Partition:
    return Partition.by_owners(owners, buckets_per_owner=min(limit, len({frozenset(ids) for ids in owners})))


@given(hypergraphs, st.integers(1, 4))
def test_the_buckets_are_those_of_a_plain_greedy_algorithm(owners: list[list[int]], limit: int) -> None:
    partition = bounded(owners, limit)
    kept = plain(owners, limit)
    assert buckets(partition) == sorted(kept.values())
    assert len(partition) + partition.left_out == len(owners)
    assert partition.num_buckets == len(kept)


@given(hypergraphs, st.integers(1, 4))
def test_no_owner_has_more_buckets_than_is_stated(owners: list[list[int]], limit: int) -> None:
    partition = bounded(owners, limit)
    touched: dict[int, set[int]] = {}
    for bucket, records in enumerate(buckets(partition)):
        for record in records:
            for owner in owners[record]:
                touched.setdefault(owner, set()).add(bucket)
    most = max(len(found) for found in touched.values())
    assert partition.buckets_per_unit == most <= limit
    # And a bucket is of one set of owners, so an owner has all of a bucket's records or none.
    assert all(len({frozenset(owners[r]) for r in records}) == 1 for records in buckets(partition))


@given(hypergraphs, st.integers(1, 4))
def test_what_was_left_out_does_not_fit(owners: list[list[int]], limit: int) -> None:
    partition = bounded(owners, limit)
    found = buckets(partition)
    used = Counter(owner for records in found for owner in set(owners[records[0]]))
    left = set(range(len(owners))) - {record for records in found for record in records}
    assert all(any(used[owner] == limit for owner in owners[record]) for record in left)


@given(
    st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3), min_size=1, max_size=8), st.integers(1, 3)
)
def test_at_least_a_share_of_the_most_that_could_be_kept(owners: list[list[int]], limit: int) -> None:
    weights = Counter(frozenset(ids) for ids in owners)

    def fits(chosen: tuple[frozenset[int], ...]) -> bool:
        return max(Counter(owner for ids in chosen for owner in ids).values(), default=0) <= limit

    most = max(
        sum(weights[ids] for ids in chosen)
        for size in range(len(weights) + 1)
        for chosen in combinations(weights, size)
        if fits(chosen)
    )
    assert len(bounded(owners, limit)) * max(len(ids) for ids in weights) >= most


@given(hypergraphs, st.randoms(use_true_random=False))
def test_the_order_of_owners_and_repetitions_do_not_matter(owners: list[list[int]], random: Any) -> None:
    shuffled: list[Any] = []
    for ids in owners:
        again = [*ids, *random.choices(ids, k=2)]
        random.shuffle(again)
        shuffled.append(random.choice([list, tuple, frozenset, np.array])(again))
    one, other = Partition.by_owners(owners), Partition.by_owners(shuffled)
    assert one.hash == other.hash
    assert one.names == other.names
    assert buckets(one) == buckets(other)


def test_a_small_case() -> None:
    partition = Partition.by_owners(MESSAGES, unit="user")
    assert partition.kept is not None
    assert partition.kept.tolist() == [0, 3, 4]
    assert partition.bucket_of.tolist() == [0, 0, 1]
    assert partition.names == ("user al and bo", "user dy")
    assert (partition.left_out, partition.buckets_per_unit) == (2, 1)
    assert partition.provenance is Provenance.OWNERS
    assert partition.conditional
    assert repr(partition) == "Partition(3 records, 2 buckets, unit='user', 2 records left out)"
    partition = Partition.by_owners(MESSAGES, buckets_per_owner=3, unit="user")
    assert (partition.left_out, partition.buckets_per_unit) == (0, 2)
    assert repr(partition) == "Partition(5 records, 4 buckets, unit='user', at most 2 per unit)"


FORMS: dict[str, Any] = {
    "lists": [[3, 1], [1, 3], [2, 2], [3, 2]],
    "table": np.array([[3, 1], [1, 3], [2, 2], [3, 2]]),
    "tensor": torch.tensor([[3, 1], [1, 3], [2, 2], [3, 2]]),
    "data frame": pd.DataFrame({"sender": [3, 1, 2, 3], "receiver": [1, 3, 2, 2]}),
    "masked": np.ma.array([[3, 1], [1, 3], [2, 2], [3, 2]], mask=np.zeros((4, 2))),
    "series of sets": pd.Series([{3, 1}, {1, 3}, {2}, {3, 2}], index=[7, 8, 9, 10]),
    "array of lists": np.array([[3, 1], [1, 3], [2], [3, 2]], dtype=object),
}


@pytest.mark.parametrize("owners", FORMS.values(), ids=FORMS)
def test_lists_and_tables_say_the_same(owners: Any) -> None:
    partition = Partition.by_owners(owners)
    assert partition.names == ("owner 1 and 3", "owner 2")
    assert buckets(partition) == [[0, 1], [2]]


MISSING: dict[str, Any] = {
    "None": [["a", "b"], ["b"], ["b", None]],
    "NaN": np.array([[1.0, 2.0], [1.0, 3.0], [np.nan, 1.0]]),
    "frame": pd.DataFrame({"sender": ["a", "b", "c"], "receiver": ["a", "b", None]}),
    "nullable integers": pd.DataFrame({"a": [1, 2, 3], "b": pd.Series([1, 2, None], dtype="Int64")}),
    "masked": np.ma.array([[1, 2], [1, 3], [1, 4]], mask=[[0, 0], [0, 0], [0, 1]]),
    "empty": [["a"], ["b", "c"], ["a", " "]],
}


@pytest.mark.parametrize("owners", MISSING.values(), ids=MISSING)
def test_a_missing_id_is_refused_with_its_record(owners: Any) -> None:
    with pytest.raises(ValueError, match=r"record 2 has no user: its id is .* records of one user"):
        Partition.by_owners(owners, unit="user")


REFUSED: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "no owners": (
        [["a"], [], ["b"]],
        {},
        ValueError,
        r"record 1 has no owner: its collection of ids is empty",
    ),
    "table without columns": (np.ones((2, 0)), {}, ValueError, r"record 0 has no owner"),
    "no records": ([], {}, ValueError, "the partition has 0 records"),
    "texts": (
        [["al"], "bo"],
        {},
        ValueError,
        r"record 1 has the owner 'bo', a text; .*\['bo'\]\. For one owner",
    ),
    "a column": (
        np.arange(3),
        {},
        ValueError,
        r"record 0 has the owner .*0.*, an integer; expected a collection",
    ),
    "None": ([["al"], None], {}, ValueError, "record 1 has the owner None"),
    "shape": (
        np.ones((2, 2, 2)),
        {},
        ValueError,
        r"owners of unit 'owner' have shape \(2, 2, 2\); expected N",
    ),
    "one text": ("al", {}, ValueError, r"owners of unit 'owner' have shape \(\)"),
    "types": (
        [["al"], ["bo", 3]],
        {},
        ValueError,
        r"of several types: record 0 has 'al', a text, and record 1 has 3, an integer",
    ),
    "zero": (MESSAGES, {"buckets_per_owner": 0}, ValueError, "buckets_per_owner must be at least 1, got 0"),
    "fraction": (
        MESSAGES,
        {"buckets_per_owner": 1.5},
        TypeError,
        "buckets_per_owner must be an integer, got 1.5",
    ),
    "too many": (
        MESSAGES,
        {"buckets_per_owner": 5},
        ValueError,
        "buckets_per_owner is 5, .* 4 different sets",
    ),
    "unit": (MESSAGES, {"unit": ""}, ValueError, "unit must say what one bucket is"),
}


@pytest.mark.parametrize(("owners", "options", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(owners: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Partition.by_owners(owners, **options)


def test_equal_names_are_not_equal_owners() -> None:
    partition = Partition.by_owners([["al", "bo"], ["al and bo"]])
    assert partition.num_buckets == 2
    assert len(set(partition.names)) == 1


def test_the_hash_covers_the_bound_and_what_was_kept() -> None:
    one = Partition.by_owners([["a", "b"], ["a", "c"], ["c"]], buckets_per_owner=3)
    assert one.buckets_per_unit == 2
    left = dataclasses.replace(one, left_out=1)
    others = [
        dataclasses.replace(one, buckets_per_unit=1),
        dataclasses.replace(one, buckets_per_unit=3),
        left,
        dataclasses.replace(left, kept=np.array([0, 1, 3])),
        dataclasses.replace(one, provenance=Provenance.RECORD),
    ]
    assert len({one.hash, *(other.hash for other in others)}) == 6
    # Nothing was left out, so it is the same partition of the same records.
    assert dataclasses.replace(one, kept=None).hash == one.hash


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"buckets_per_unit": 0}, "buckets_per_unit must be at least 1"),
        ({"buckets_per_unit": 4}, "buckets_per_unit is 4, but there are 3 buckets"),
        ({"left_out": -1}, "left_out must be at least 0"),
        ({"left_out": 2, "kept": None}, "kept does not say which records are left"),
        ({"kept": np.array([0, 1])}, "kept must be 3 ascending indices"),
        ({"kept": np.array([0, 1, 1])}, "kept must be 3 ascending indices"),
        ({"kept": np.array([-1, 1, 2])}, "kept must be 3 ascending indices"),
        ({"kept": np.array([0, 1, 4]), "left_out": 1}, "kept goes up to 4, but .* ends at 3"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(Partition.by_owners([["a"], ["b"], ["c"]]), **changed)


def test_a_graph_without_records_has_one_bucket_at_most() -> None:
    sets = OwnerSets.of([["a"], ["b"]], "owner")
    assert sets.most_per_owner(np.zeros(2, dtype=bool)) == 1


def test_planted_canaries_are_further_buckets_of_the_same_bound() -> None:
    partition = Partition.by_owners(MESSAGES, buckets_per_owner=2)
    data = TensorDataset(torch.randn(len(partition), 3), torch.zeros(len(partition), dtype=torch.long))
    canaries = PlantedCanaries.crafted(3, (3,), classes=2, seed=0)
    _, together = canaries.join(data, partition)
    assert together.buckets_per_unit == partition.buckets_per_unit == 2
    assert together.provenance is Provenance.OWNERS
    assert (together.kept, together.left_out) == (None, 0)


OWNERS = [["x", "y"], ["x"], ["x", "z"], ["w"], ["w"], ["y", "z"], ["x", "w"], ["z"]]
"""With three buckets per owner, x has the records 0, 1 and 2 in a bucket each, and only record 6 is left out."""


def contributions(inputs: torch.Tensor, partition: Partition, *, sampling_rate: float, steps: int) -> Any:
    """The sums of clipped gradients of every step without noise, (steps, 2): a record's gradient is its input."""
    model = nn.Linear(2, 1, bias=False)
    engine = PrivacyEngine()
    sums = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no noise
        module, optimizer, criterion, loader = engine.make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
            criterion=lambda outputs, _: outputs.sum(dim=1),
            data_loader=DataLoader(Subset(TensorDataset(inputs, inputs[:, 0]), partition.kept.tolist())),  # type: ignore[union-attr]
            partition=partition,
            sampling_rate=sampling_rate,
            noise_multiplier=0.0,
            max_grad_norm=0.5,
            seed=3,
            steps_per_epoch=steps,
        )
        before = model.weight.detach().clone()
        for x, y in loader:
            optimizer.zero_grad()
            criterion(module(x), y).mean().backward()
            optimizer.step()
            if optimizer.released:
                sums.append((before - model.weight.detach()) * sampling_rate * partition.num_buckets)
                before = model.weight.detach().clone()
    return torch.cat(sums).double().numpy()


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_replacing_an_owner_moves_the_sum_by_2_k_norms_and_no_further(limit: int) -> None:
    partition = Partition.by_owners(OWNERS, buckets_per_owner=limit)
    generator = torch.Generator().manual_seed(0)
    for owner in "xyzw":
        mine = torch.tensor([owner in ids for ids in OWNERS])
        direction = torch.tensor([30.0, -40.0])
        first = torch.where(mine[:, None], direction, torch.randn(8, 2, generator=generator))
        worst = torch.where(mine[:, None], -direction, first)
        other = torch.where(mine[:, None], torch.randn(8, 2, generator=generator), first)
        runs = [contributions(x, partition, sampling_rate=1.0, steps=1) for x in (first, worst, other)]
        owned = sum(owner in OWNERS[records[0]] for records in buckets(partition))
        assert owned <= partition.buckets_per_unit <= limit
        assert np.linalg.norm(runs[0] - runs[1]) == pytest.approx(2 * owned * 0.5, rel=1e-4)
        assert np.linalg.norm(runs[0] - runs[2]) <= 2 * owned * 0.5


def test_an_owners_buckets_are_drawn_separately() -> None:
    """As the pair of the accountant has it: j of k are drawn with the probability of a binomial distribution."""
    partition = Partition.by_owners(OWNERS, buckets_per_owner=3)
    k, q, steps = partition.buckets_per_unit, 0.4, 800
    assert (k, partition.left_out) == (3, 1)
    mine = torch.tensor(["x" in ids for ids in OWNERS])[:, None]
    found = [
        contributions(
            torch.where(mine, sign * 50.0, torch.ones(8, 2)), partition, sampling_rate=q, steps=steps
        )
        for sign in (1.0, -1.0)
    ]
    moved = np.linalg.norm(found[0] - found[1], axis=1)
    drawn = np.rint(moved).astype(int)  # each by 2 S = 1
    assert moved == pytest.approx(drawn, abs=2e-2)
    counts = np.bincount(drawn, minlength=k + 1)
    counts[0] += steps - len(drawn)  # empty draws, which the engine steps over by itself
    assert chisquare(counts, steps * binom.pmf(np.arange(k + 1), k, q)).pvalue > 1e-4


class TestTraining:
    """Forty messages of twelve users, at most three buckets each, through the engine."""

    N = 40
    X = torch.randn(N, 30, generator=torch.Generator().manual_seed(0))
    Y = torch.arange(N) % 3
    OWNERS = np.random.default_rng(0).integers(0, 12, (N, 2))

    @classmethod
    def wrapped(cls, partition: Partition, *, data: Any = None, **options: Any) -> tuple[Any, ...]:
        model, engine = nn.Linear(30, 3), PrivacyEngine()
        kept = [] if partition.kept is None else partition.kept.tolist()
        arguments: dict[str, Any] = {
            "module": model,
            "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
            "data_loader": DataLoader(data or Subset(TensorDataset(cls.X, cls.Y), kept)),
            "partition": partition,
            "sampling_rate": 0.5,
            "noise_multiplier": 4.0,
            "max_grad_norm": 1.0,
            "steps_per_epoch": 30,
            **options,
        }
        return engine, *engine.make_private(**arguments)

    @classmethod
    def trained(cls, partition: Partition, **options: Any) -> PrivacyEngine:
        engine, module, optimizer, loader = cls.wrapped(partition, **options)
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimizer.step()
        return engine  # type: ignore[no-any-return]

    @pytest.mark.parametrize("limit", [1, 3])
    def test_the_statement_is_for_an_owner(self, limit: int) -> None:
        partition = Partition.by_owners(self.OWNERS, buckets_per_owner=limit, unit="user")
        assert partition.buckets_per_unit == limit
        assert partition.left_out
        engine = self.trained(partition)
        for adjacency in ("replace", "add_remove"):
            direct = epsilon(
                sampling_rate=0.5,
                noise_multiplier=4.0,
                steps=30,
                delta=1e-3,
                unit="user",
                adjacency=adjacency,  # type: ignore[arg-type]
                buckets_per_unit=limit,
            )
            found = engine.guarantee(1e-3, adjacency=adjacency)  # type: ignore[arg-type]
            assert found.epsilon == direct.epsilon
            assert found.unit == "user"
        statement = engine.statement(1e-3)
        assert statement.markdown().startswith("# Privacy statement, conditional on who owns which record\n")
        again = Account.from_json(engine.account.to_json())
        assert again == engine.account
        assert again.buckets_per_unit == limit

    def test_the_whole_data_set_is_refused(self) -> None:
        partition = Partition.by_owners(self.OWNERS)
        message = rf"partition has {len(partition)} records, data_loader has 40; it left out {partition.left_out} of"
        with pytest.raises(ValueError, match=message + r" .*Subset\(data, partition\.kept\)"):
            self.wrapped(partition, data=TensorDataset(self.X, self.Y))

    def test_one_engine_takes_no_other_bound(self) -> None:
        engine, *_ = self.wrapped(Partition.by_owners(self.OWNERS, buckets_per_owner=2))
        other = Partition.by_owners(self.OWNERS, buckets_per_owner=3)
        model = nn.Linear(30, 3)
        with pytest.raises(ValueError, match=r"at most 3 per unit.*but this engine already accounts for"):
            engine.make_private(
                module=model,
                optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
                data_loader=DataLoader(TensorDataset(self.X, self.Y)),
                partition=other,
                sampling_rate=0.5,
                noise_multiplier=4.0,
                max_grad_norm=1.0,
            )

    def test_an_audit_measures_one_bucket_and_its_owner_is_stated_more(self) -> None:
        partition = Partition.by_owners(self.OWNERS, buckets_per_owner=3)
        engine = self.trained(partition, audit=Audit(canaries=4, seed=0))
        found = engine.finding()
        assert not found.violated
        (claimed, stated) = found.claimed.epsilon(1e-3, "replace"), engine.guarantee(1e-3).epsilon
        assert found.lower_bound(1e-3, "replace") < claimed < stated
        assert "Audit of one bucket, as a part of one owner: consistent" in engine.statement(1e-3).text()
