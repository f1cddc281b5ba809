"""The unit game: margins, statistic and AUC by brute force, exact chance, and the bound in a case that attains it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from accountants import BucketMechanism, Ledger, reconstruction_bound
from dpmi.metrics import margins, unit_auc, unit_statistics


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_margins_are_the_logits_of_probabilities() -> None:
    logits, labels = 3 * numbers(50, 7).float(), torch.arange(50) % 7
    found = margins(nn.Flatten(), logits[:, :, None, None], labels, batch_size=16)
    p = logits.double().softmax(dim=1).gather(1, labels[:, None])[:, 0]
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, (p / (1 - p)).log(), rtol=1e-9, atol=1e-9)


def test_margins_of_a_sure_model_are_exact() -> None:
    """The probability is 1 in float64, and its logit would be infinite."""
    logits = torch.tensor([[500.0, 0.0, 0.0]])
    found = margins(nn.Flatten(), logits[:, :, None, None], torch.tensor([0]))
    assert found.item() == pytest.approx(500 - math.log(2), abs=1e-12)


def test_statistics_by_brute_force() -> None:
    units = torch.tensor([2, 0, 1, 0, 2, 2, 1, 3])
    target, references = numbers(8), numbers(5, 8, seed=1)
    out = numbers(5, 8, seed=2) > 0
    out[3] = True
    found = unit_statistics(target, references, out, units)
    for unit in range(4):
        records = (units == unit).nonzero()[:, 0].tolist()
        expected = [target[i] - references[out[:, i], i].mean() for i in records]
        assert found[unit].item() == pytest.approx(sum(expected) / len(expected))


@pytest.mark.parametrize("seed", range(5))
def test_auc_by_brute_force(seed: int) -> None:
    """With ties, and groups of several sizes, of which one is all in."""
    statistics = (3 * numbers(40, seed=seed)).round()
    groups = torch.arange(40) % 4
    inside = (numbers(40, seed=seed + 100) > 0) | (groups == 3)
    pairs = [
        (statistics[i] > statistics[j]).double() + (statistics[i] == statistics[j]).double() / 2
        for i, j in itertools.product(range(40), range(40))
        if groups[i] == groups[j] and inside[i] and not inside[j]
    ]
    assert unit_auc(statistics, inside, groups) == pytest.approx(float(torch.stack(pairs).mean()), abs=1e-12)


def test_auc_needs_no_table_of_pairs() -> None:
    """Of 400,000 units there are 40 billion pairs."""
    statistics = numbers(400_000)
    inside = torch.arange(400_000) % 2 == 0
    groups = torch.zeros(400_000, dtype=torch.int64)
    # The standard deviation is sqrt((n + 1) / (12 n^2 / 4)).
    assert unit_auc(statistics, inside, groups) == pytest.approx(0.5, abs=4e-3)
    assert unit_auc(statistics + 10 * inside, inside, groups) == 1.0


def test_chance_is_exact() -> None:
    """Whatever the numbers are, the mean over all halves of every group is 1/2."""
    statistics = torch.tensor([5.0, -1.0, 5.0, 2.0, 100.0, 3.0, 3.0])
    groups = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    found = []
    for first, second in itertools.product(
        itertools.combinations(range(4), 2), itertools.combinations(range(4, 7), 1)
    ):
        inside = torch.zeros(7, dtype=torch.bool)
        inside[[*first, *second]] = True
        found.append(unit_auc(statistics, inside, groups))
    assert sum(found) / len(found) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_the_bound_is_attained_and_kept(sigma: float) -> None:
    """One step with the Gaussian mechanism: a unit adds its own number to a noisy sum.

    Of two units that add 1 and -1, the sum tells which is in with probability Phi(1 / sigma), which is B(1/2). Units
    that add 1 to sums of their own are told apart with probability Phi(1 / (sigma sqrt 2)).
    """
    ledger = Ledger().record(BucketMechanism(sampling_rate=1.0, noise_multiplier=sigma), 1)
    bound = float(reconstruction_bound(ledger, 0.5))
    assert bound == pytest.approx(norm.cdf(1 / sigma), abs=2e-3)

    runs, pairs = torch.arange(20_000), torch.tensor([[True, False]])
    inside = torch.where(torch.arange(20_000)[:, None] % 2 == 0, pairs, ~pairs)
    signs = torch.where(inside[:, 0], 1.0, -1.0)
    noisy = signs + sigma * numbers(20_000)
    opposite = torch.stack([noisy, -noisy], dim=1)
    found = unit_auc(opposite.flatten(), inside.flatten(), runs.repeat_interleave(2))
    assert found == pytest.approx(bound, abs=0.01)

    apart = inside + sigma * numbers(20_000, 2, seed=1)
    found = unit_auc(apart.flatten(), inside.flatten(), runs.repeat_interleave(2))
    assert found == pytest.approx(norm.cdf(1 / (sigma * math.sqrt(2))), abs=0.01)
    assert found < bound


FOUR, TWO_IN = numbers(4), torch.tensor([True, False, True, False])


@pytest.mark.parametrize(
    ("statistics", "inside", "groups", "message"),
    [
        (FOUR[:3], TWO_IN, torch.zeros(4), "one entry per unit; got shapes"),
        (FOUR / 0, TWO_IN, torch.zeros(4), "statistics must be finite; check that the training"),
        (FOUR, TWO_IN, torch.tensor([0, 1, 0, 1]), "in some group, a unit that is in and one that is out"),
    ],
)
def test_auc_refuses(statistics: Tensor, inside: Tensor, groups: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unit_auc(statistics, inside, groups)


def test_statistics_refuse() -> None:
    units, references = torch.arange(4), numbers(2, 4)
    out = torch.tensor([[True, False, True, True], [True, False, False, True]])
    with pytest.raises(ValueError, match=r"every record needs a reference .*; record 1 has none"):
        unit_statistics(FOUR, references, out, units)
    with pytest.raises(ValueError, match=r"references and out \(R, N\); got shapes \(4,\), \(2, 3\)"):
        unit_statistics(FOUR, references[:, :3], out, units)


def test_margins_refuse() -> None:
    logits = numbers(3, 2).float()[:, :, None, None]
    with pytest.raises(ValueError, match="labels must be in"):
        margins(nn.Flatten(), logits, torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="not finite"):
        margins(nn.Flatten(), logits / 0, torch.tensor([0, 1, 1]))
