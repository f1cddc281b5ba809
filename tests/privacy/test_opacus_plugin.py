"""dpmi's accountants inside a stock Opacus engine."""

from __future__ import annotations

import importlib
import math
import warnings
from pathlib import Path
from typing import Any

import opacus
import pytest
import torch
from opacus.accountants import create_accountant
from opacus.accountants.utils import get_noise_multiplier
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import BucketPLDAccountant, Lemma3Accountant, Partition, PrivacyEngine
from dpmi.privacy import opacus_plugin as opacus_accountants

NAMES = {"bucket-pld": BucketPLDAccountant, "lemma3": Lemma3Accountant}
N = 20
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3

# q, sigma, T, delta; the last column is `tight`, add_remove in the published table of checked values.
CHECKED = [
    (0.2, 1.6, 200, 1e-3, 7.448),
    (0.2, 3.0, 137, 1e-3, 2.452),
    (0.2, 3.65, 148, 1e-3, 1.994),
    (0.33, 0.8, 307, 1e-2, 56.32),
    (0.33, 1.6, 524, 1e-2, 23.40),
    (0.01, 1.0, 1000, 1e-5, 1.828),
    (0.1, 2.0, 1000, 1e-5, 8.279),
]
PRV_ERROR = 0.01


def spent(name: str, q: float, sigma: float, steps: int, delta: float, **settings: Any) -> float:
    accountant = create_accountant(name)
    accountant.history = [(sigma, q, steps)]
    return float(accountant.get_epsilon(delta, **settings))


def trained(
    engine: opacus.PrivacyEngine, *, passes: int = 2, **options: Any
) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    make = engine.make_private_with_epsilon if "target_epsilon" in options else engine.make_private
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus: its noise is not from a secure generator, hooks, ...
        model, optimizer, loader = make(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            data_loader=DataLoader(TensorDataset(X, Y), batch_size=4),
            max_grad_norm=1.0,
            **options,
        )
        for _ in range(passes):
            for x, y in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
    return model, optimizer


@pytest.mark.parametrize(("q", "sigma", "steps", "delta", "published"), CHECKED)
def test_removal_of_one_record_costs_what_opacus_says_within_its_error(
    q: float, sigma: float, steps: int, delta: float, published: float
) -> None:
    ours = spent("bucket-pld", q, sigma, steps, delta)
    prv = spent("prv", q, sigma, steps, delta)
    assert ours == pytest.approx(published, rel=2e-4, abs=1e-3)
    # PRV answers with the upper end of its interval, one error above the estimate and two above the lower end.
    assert prv - 2 * PRV_ERROR <= ours <= prv
    assert spent("lemma3", q, sigma, steps, delta) >= prv
    # Opacus's RDP takes the same moments at fewer orders.
    rdp = spent("rdp", q, sigma, steps, delta)
    assert spent("lemma3", q, sigma, steps, delta) == pytest.approx(rdp, rel=5e-2)


@pytest.mark.parametrize(("name", "published"), [("bucket-pld", 15.924), ("lemma3", 28.36)])
def test_replacement_on_request(name: str, published: float) -> None:
    assert spent(name, 0.2, 1.6, 200, 1e-3, adjacency="replace") == pytest.approx(published, abs=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_the_ends(name: str) -> None:
    accountant = create_accountant(name)
    assert (accountant.get_epsilon(1e-5), len(accountant), accountant.mechanism()) == (0, 0, name)
    with pytest.warns(UserWarning, match="noise_multiplier is 0"):
        assert spent(name, 0.1, 0.0, 3, 1e-5) == math.inf


@pytest.mark.parametrize("name", NAMES)
def test_the_history_is_that_of_opacus(name: str) -> None:
    ours, theirs = create_accountant(name), create_accountant("prv")
    for noise, rate, times in ((1.0, 0.1, 3), (2.0, 0.1, 2), (1.0, 0.1, 1), (1.0, 0.2, 1)):
        for _ in range(times):
            ours.step(noise_multiplier=noise, sample_rate=rate)
            theirs.step(noise_multiplier=noise, sample_rate=rate)
    assert ours.history == theirs.history == [(1.0, 0.1, 3), (2.0, 0.1, 2), (1.0, 0.1, 1), (1.0, 0.2, 1)]
    assert len(ours) == 7
    prv = theirs.get_epsilon(1e-3)
    assert ours.get_epsilon(1e-3) >= prv - 2 * PRV_ERROR
    if name == "bucket-pld":
        assert ours.get_epsilon(1e-3) <= prv


@pytest.mark.parametrize("name", NAMES)
def test_a_stock_engine_trains_bills_and_resumes_from_its_checkpoint(name: str, tmp_path: Path) -> None:
    engine = opacus.PrivacyEngine(accountant=name)
    assert type(engine.accountant) is NAMES[name]
    model, optimizer = trained(engine, noise_multiplier=1.2)
    assert engine.accountant.history == [(1.2, 0.2, 10)]
    assert engine.get_epsilon(1e-3) == spent(name, 0.2, 1.2, 10, 1e-3)
    engine.save_checkpoint(path=tmp_path / "run.pt", module=model, optimizer=optimizer)

    resumed = opacus.PrivacyEngine(accountant=name)
    again, again_optimizer = trained(resumed, passes=0, noise_multiplier=1.2)
    resumed.load_checkpoint(path=tmp_path / "run.pt", module=again, optimizer=again_optimizer)
    assert resumed.accountant.history == [(1.2, 0.2, 10)]
    assert resumed.get_epsilon(1e-3) == engine.get_epsilon(1e-3)
    for loaded, saved in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(loaded, saved)
    resumed.accountant.step(noise_multiplier=1.2, sample_rate=0.2)
    assert resumed.accountant.history == [(1.2, 0.2, 11)]

    other = opacus.PrivacyEngine(accountant="rdp")
    with pytest.raises(ValueError, match=f"state_dict of {name} cannot be loaded .* mechanism rdp"):
        other.load_checkpoint(path=tmp_path / "run.pt", module=again, optimizer=again_optimizer)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_another_accountant_is_refused(name: str) -> None:
    foreign = create_accountant("prv")
    foreign.step(noise_multiplier=1.0, sample_rate=0.1)
    with pytest.raises(ValueError, match=f"state_dict of prv cannot be loaded .* mechanism {name}"):
        create_accountant(name).load_state_dict(foreign.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_a_stock_engine_calibrates_its_noise(name: str) -> None:
    engine = opacus.PrivacyEngine(accountant=name)
    trained(engine, target_epsilon=3.0, target_delta=1e-3, epochs=2, epsilon_tolerance=0.1)
    ((noise, rate, steps),) = engine.accountant.history
    assert (rate, steps) == (0.2, 10)
    # Opacus stops below the target, within the tolerance.
    assert 2.9 <= engine.get_epsilon(1e-3) < 3.0
    assert spent(name, 0.2, noise * 0.99, 10, 1e-3) > engine.get_epsilon(1e-3)


def test_calibration_by_opacus_takes_its_settings_and_needs_less_noise_than_its_own() -> None:
    def sigma(accountant: str, **settings: Any) -> float:
        return float(
            get_noise_multiplier(
                target_epsilon=2.0,
                target_delta=1e-5,
                sample_rate=0.02,
                steps=500,
                accountant=accountant,
                epsilon_tolerance=0.01,
                **settings,
            )
        )

    ours = sigma("bucket-pld", alphas=[2, 3], eps_error=0.1, delta_error=1e-9)
    assert ours < sigma("prv") < sigma("rdp")
    assert 1.99 <= spent("bucket-pld", 0.02, ours, 500, 1e-5) < 2.0
    # Replacing one record costs more than removing it.
    assert sigma("bucket-pld", adjacency="replace") > ours


def test_sampling_that_it_cannot_price_is_refused() -> None:
    with pytest.raises(ValueError, match=r"poisson is False, but bucket-pld .* poisson_sampling=True"):
        spent("bucket-pld", 0.1, 1.0, 10, 1e-5, poisson=False)
    with pytest.raises(ValueError, match=r"sampling_rate must be in \(0, 1\], got 1.5"):
        spent("bucket-pld", 1.5, 1.0, 10, 1e-5)


@pytest.mark.parametrize("misspelt", ["adjacancy", "adjecency", "Adjacency"])
def test_a_misspelt_adjacency_does_not_lower_epsilon_in_silence(misspelt: str) -> None:
    with pytest.raises(TypeError, match=f"got {misspelt}='replace'; use the argument adjacency"):
        spent("bucket-pld", 0.1, 1.0, 10, 1e-5, **{misspelt: "replace"})


@pytest.mark.parametrize("delta", [0.0, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_delta_out_of_range(name: str, delta: float) -> None:
    with pytest.raises(ValueError, match=r"delta must be in \(0, 1\)"):
        spent(name, 0.1, 1.0, 10, delta)


def test_singleton_buckets_cost_what_records_cost_in_opacus() -> None:
    """The same run twice: dpmi's engine with a bucket per record, and Opacus's with its Poisson loader."""
    theirs = opacus.PrivacyEngine(accountant="bucket-pld")
    trained(theirs, noise_multiplier=1.2)

    ours = PrivacyEngine()
    model: Any = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    module, optimizer, loader = ours.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(TensorDataset(X, Y), batch_size=4),
        partition=Partition.by_record(N),
        sampling_rate=0.2,
        noise_multiplier=1.2,
        max_grad_norm=1.0,
    )
    for _ in range(2):
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimizer.step()
    for name, accountant in (("bucket-pld", "tight"), ("lemma3", "lemma3")):
        engine = create_accountant(name)
        engine.history = theirs.accountant.history
        for adjacency in ("add_remove", "replace"):
            found = ours.guarantee(1e-3, adjacency=adjacency, accountant=accountant)
            assert (found.unit, found.steps) == ("record", 10)
            assert found.epsilon == engine.get_epsilon(1e-3, adjacency=adjacency)
    prv = create_accountant("prv")
    prv.history = theirs.accountant.history
    assert prv.get_epsilon(1e-3) == pytest.approx(theirs.get_epsilon(1e-3) + PRV_ERROR, abs=PRV_ERROR)


def test_registering_twice_does_not_fail() -> None:
    try:
        importlib.reload(opacus_accountants)
        assert opacus.PrivacyEngine(accountant="lemma3").accountant.mechanism() == "lemma3"
    finally:
        for name, accountant in NAMES.items():
            opacus.accountants.register_accountant(name, accountant, force=True)
