"""Some records of a large bucket in its place: which they are, what is computed from them, and what is refused.

Modules: dpmi/privacy/plan.py, dpmi/privacy/sampling.py.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import Partition, PrivacyEngine
from dpmi.privacy.batch import PhysicalBatch
from dpmi.privacy.noise import NoiseSource
from dpmi.privacy.physical_limit import PhysicalLimit
from dpmi.privacy.plan import Plan
from dpmi.privacy.sampling import BucketSampler

from .reference import brute_force, private_run, relative_error

SIZES = (1, 3, 4, 5, 17, 40)
PARTITION = Partition.by_column(np.random.default_rng(0).permutation(np.repeat(np.arange(6), SIZES)))
MOST = 4


def sampler(
    partition: Partition = PARTITION, *, steps: int = 1, seed: int = 0, physical: int = 100, rate: float = 1.0
) -> BucketSampler:
    plan = Plan(
        partition=partition,
        sampling_rate=rate,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        max_records_per_bucket=MOST,
    )
    source = NoiseSource.of(seed, secure=False, device=torch.device("cpu"))
    return BucketSampler(plan, steps=steps, limit=PhysicalLimit(physical), source=source)


def drawn(draws: BucketSampler) -> list[tuple[PhysicalBatch, list[int]]]:
    return [(batch, draws.records(batch).tolist()) for batch in draws.batches()]


@pytest.mark.parametrize("max_buckets", [1, 6])
@pytest.mark.parametrize("physical", [2, 3, 100])
def test_of_every_drawn_bucket_as_many_records_as_asked_for(max_buckets: int, physical: int) -> None:
    draws = sampler(steps=50, physical=physical)
    draws.max_buckets = max_buckets
    step: list[int] = []
    for batch, records in drawn(draws):
        assert len(records) == batch.records <= max(physical, 1)
        assert PARTITION.bucket_of[records].tolist() == np.repeat(batch.buckets, batch.sizes).tolist()
        step += records
        if batch.completes_step:
            assert len(set(step)) == len(step), "a record was taken twice"
            counts = np.bincount(PARTITION.bucket_of[step])
            assert counts.tolist() == np.minimum(SIZES, MOST).tolist()
            step = []


def test_every_record_is_taken_equally_often() -> None:
    steps = 4000
    often = Counter(record for _, records in drawn(sampler(steps=steps)) for record in records)
    for bucket, size in enumerate(SIZES):
        counts = np.array([often[int(record)] for record in PARTITION.records(bucket)])
        if size <= MOST:
            assert (counts == steps).all()
            continue
        # Neighbours in the order are taken together, but each alone is binomial.
        low, high = stats.binom.interval(1 - 1e-6, steps, MOST / size)
        assert ((counts >= low) & (counts <= high)).all()


def test_records_taken_together_are_no_neighbours_in_the_data() -> None:
    ordered = Partition.by_column(np.repeat([0, 1], [1000, 2]))
    spans = [max(records) - min(records) for _, records in drawn(sampler(ordered, steps=200))]
    assert np.quantile(spans[::2], 0.1) > 200, "four neighbours span 3"


def test_what_is_taken_of_a_bucket_does_not_depend_on_the_others() -> None:
    """Or replacing one bucket would change what others add, and the sensitivity would be larger than S."""
    taken = []
    for other in (1, 7, 30):
        # A larger first bucket moves every record of the second to another index.
        ids = np.repeat([0, 1], [other, 20])
        every = (np.array(records) for _, records in drawn(sampler(Partition.by_column(ids), steps=20)))
        taken.append([(records - other).tolist() for records in every if records.min() >= other])
    assert taken[0] == taken[1] == taken[2]
    assert len({tuple(records) for records in taken[0]}) > 10, "others each time"


@pytest.mark.parametrize("mode", ["stream", "hooks", "ghost"])
@pytest.mark.parametrize("physical", [3, 512])
def test_the_update_is_that_of_the_records_taken(mode: str, physical: int) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(len(PARTITION), 5), torch.randint(3, (len(PARTITION),))
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    start = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    start.load_state_dict(model.state_dict())
    run = private_run(
        model,
        x,
        y,
        PARTITION,
        epochs=3,
        max_records_per_bucket=MOST,
        max_physical_batch_size=physical,
        grad_sample_mode=mode,
    )
    expected = brute_force(start, x, y, PARTITION, run.steps, max_records_per_bucket=MOST)
    assert relative_error(model, expected) < 1e-5
    assert max(Counter(PARTITION.bucket_of[run.steps[0]]).values()) <= MOST


def test_the_same_promise_as_with_all_records() -> None:
    engines = []
    for most in (None, MOST):
        torch.manual_seed(0)
        run = private_run(
            nn.Linear(2, 2),
            torch.randn(len(PARTITION), 2),
            torch.arange(len(PARTITION)) % 2,
            PARTITION,
            noise_multiplier=1.0,
            max_records_per_bucket=most,
        )
        engines.append(run.engine)
    everything, some = (engine.guarantee(delta=1e-3) for engine in engines)
    assert everything.epsilon == some.epsilon > 0


@pytest.mark.parametrize("most", [0, -3])
def test_none_is_refused(most: int) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=f"max_records_per_bucket is {most}; it must be at least 1"):
        PrivacyEngine().make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            data_loader=DataLoader(TensorDataset(torch.zeros(4, 2), torch.zeros(4))),
            partition=Partition.by_record(4),
            sampling_rate=0.5,
            noise_multiplier=1.0,
            max_grad_norm=1.0,
            max_records_per_bucket=most,
        )


def test_a_part_of_a_bucket_has_nearly_its_mean_gradient() -> None:
    """What it is for: the update of 64 of 3,000 records points where that of all points."""
    torch.manual_seed(0)
    x = torch.randn(3000, 20) + 0.5
    partition = Partition.by_column(np.zeros(3000, dtype=np.int64))
    updates = []
    for most in (None, 64):
        torch.manual_seed(1)
        model = nn.Linear(20, 2)
        before = model.weight.detach().clone()
        private_run(
            model, x, torch.zeros(3000, dtype=torch.int64), partition,
            sampling_rate=1.0, max_records_per_bucket=most, max_grad_norm=10.0,
        )  # fmt: skip
        updates.append((model.weight.detach() - before).flatten())
    assert F.cosine_similarity(updates[0], updates[1], dim=0) > 0.95
