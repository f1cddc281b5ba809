"""Every name of Opacus's engine works with the same meaning, or is refused with what to use instead.

Modules: dpmi/privacy/from_opacus.py, dpmi/privacy/loader.py, dpmi/privacy/optimizer.py, dpmi/privacy/target.py.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import opacus
import pytest
import torch
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.utils import get_noise_multiplier
from opacus.data_loader import DPDataLoader
from opacus.grad_sample import get_gsm_class
from opacus.optimizers.adaclipoptimizer import AdaClipDPOptimizer
from opacus.schedulers import ExponentialGradClip, ExponentialNoise
from opacus.utils.batch_memory_manager import BatchMemoryManager
from opacus.validators import ModuleValidator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from accountants import epsilon
from accountants.recommender import recommend
from dpmi.privacy import (
    AdaptiveClipping,
    BallsInBinsSampling,
    FixedNumberSampling,
    GroupClipping,
    Partition,
    PrivacyEngine,
)
from dpmi.privacy.from_opacus import ARGUMENTS, VALUES, WithoutOpacusMethods

N = 24
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3
USERS = Partition.by_column((torch.arange(N) // 2).tolist(), unit="user")
TARGET = {"target_epsilon": 3.0, "target_delta": 1e-3}


def parts(**options: Any) -> dict[str, Any]:
    model = nn.Linear(4, 3)
    return {
        "module": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "data_loader": DataLoader(TensorDataset(X, Y), batch_size=6),
        "partition": USERS,
        "sampling_rate": 0.25,
        "max_grad_norm": 1.0,
        "seed": 0,
        **options,
    }


def private(engine: PrivacyEngine | None = None, **options: Any) -> tuple[Any, ...]:
    return (engine or PrivacyEngine()).make_private(**parts(**{"noise_multiplier": 2.0, **options}))


def targeted(engine: PrivacyEngine | None = None, **options: Any) -> tuple[Any, ...]:
    return (engine or PrivacyEngine()).make_private_with_epsilon(**parts(**TARGET, **options))


def passes(module: Any, optimizer: Any, loader: Any, number: int = 1) -> None:
    for _ in range(number):
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimizer.step()


#: What Opacus's methods do not name in their signatures: they hand keyword arguments on.
HANDED_ON = {
    name
    for place in (
        opacus.PrivacyEngine.make_private,
        AdaClipDPOptimizer,
        get_noise_multiplier,
        RDPAccountant.get_epsilon,
        PRVAccountant.get_epsilon,
    )
    for name in inspect.signature(place).parameters
}


@pytest.mark.parametrize("method", ["__init__", *(name for name in ARGUMENTS if name != "__init__")])
def test_every_argument_of_opacus_is_known(method: str) -> None:
    theirs = {*inspect.signature(getattr(opacus.PrivacyEngine, method)).parameters} - {"self", "kwargs"}
    mine = {*inspect.signature(getattr(PrivacyEngine, method)).parameters} | {*ARGUMENTS[method]}
    if method == "make_private_with_epsilon":
        mine |= {*inspect.signature(PrivacyEngine.make_private).parameters}
    assert theirs <= mine
    assert not {*ARGUMENTS[method]} & {*inspect.signature(getattr(PrivacyEngine, method)).parameters}
    handed_on = HANDED_ON if method.startswith("make_private") else set()
    assert {*ARGUMENTS[method]} - theirs <= handed_on, "Opacus has no such argument"


def test_every_method_of_opacus_is_known() -> None:
    theirs = {name for name in vars(opacus.PrivacyEngine) if not name.startswith("_")} | {"accountant"}
    mine = {name for name in vars(PrivacyEngine) if not name.startswith("_")}
    absent = {name for name in vars(WithoutOpacusMethods) if not name.startswith("_")}
    assert theirs == (theirs & mine) | absent
    assert not mine & absent


WORK: list[tuple[str, dict[str, Any]]] = [
    ("__init__", {"secure_mode": False}),
    *(
        (method, options)
        for method in ("make_private", "make_private_with_epsilon")
        for options in (
            {"batch_first": True},
            {"poisson_sampling": True},
            {"noise_generator": None},
            {"wrap_model": True},
            {"rand_on_empty": False},
            {"clipping": "flat"},
            {"loss_reduction": "mean"},
        )
    ),
]


def call(method: str, **options: Any) -> Any:
    if method == "__init__":
        return PrivacyEngine(**options)
    if method == "make_private":
        return private(**options)
    if method == "make_private_with_epsilon":
        return targeted(**{"steps": 4, **options})
    engine = PrivacyEngine()
    private(engine)
    return getattr(engine, method)("never.pt", **options)


@pytest.mark.parametrize(("method", "options"), WORK)
def test_what_opacus_does_by_default_changes_nothing(method: str, options: dict[str, Any]) -> None:
    with_it, without = call(method, **options), call(method)
    if method == "__init__":
        return
    for made in (with_it, without):
        nn.init.zeros_(made[0]._module.weight)
        nn.init.zeros_(made[0]._module.bias)
        passes(*made)
    assert with_it[1].plan == without[1].plan
    assert torch.equal(with_it[0]._module.weight, without[0]._module.weight)


OTHERS: dict[str, Any] = {
    "accountant": "prv",
    "secure_mode": True,
    "batch_first": False,
    "poisson_sampling": False,
    "noise_generator": torch.Generator(),
    "wrap_model": False,
    "rand_on_empty": True,
    "epochs": 3,
}
REFUSED = [
    (method, name, OTHERS.get(name, 0.5)) for method, arguments in ARGUMENTS.items() for name in arguments
]


@pytest.mark.parametrize(("method", "name", "value"), REFUSED)
def test_every_other_value_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, name: str, value: object
) -> None:
    monkeypatch.chdir(tmp_path)
    start = re.escape(f"{name}={value!r} is for Opacus's {method}, not for dpmi's: ")
    with pytest.raises(TypeError, match=f"^{start}") as error:
        call(method, **{name: value})
    assert ARGUMENTS[method][name].instead in str(error.value)
    assert re.search(r"leave it out|pass |use |choose |transpose ", str(error.value)), "what to do instead"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [
        {"sampling": FixedNumberSampling(3), "sampling_rate": None},
        {"sampling": BallsInBinsSampling(3), "sampling_rate": None},
    ],
)
def test_poisson_sampling_contradicts_other_draws(options: dict[str, Any]) -> None:
    private(**options)
    with pytest.raises(
        TypeError, match=r"poisson_sampling=True is for Opacus's .* leave poisson_sampling out"
    ):
        private(poisson_sampling=True, **options)


@pytest.mark.parametrize(("name", "value"), VALUES)
def test_values_of_opacus_are_refused_by_name(name: str, value: object) -> None:
    given = [1.0, 2.0] if value is list else value
    for make in (private, targeted):
        with pytest.raises(
            TypeError, match=re.escape(f"{name}={given!r} is for Opacus's make_private")
        ) as error:
            make(**{name: given})
        assert VALUES[name, value] in str(error.value)


def test_every_way_to_compute_gradients_is_known() -> None:
    modes = {"hooks", "ghost", *(mode for name, mode in VALUES if name == "grad_sample_mode")}
    with pytest.raises(ValueError, match="grad_sample_mode") as error:
        get_gsm_class("no-such")
    assert all(str(mode) in str(error.value) or get_gsm_class(str(mode)) for mode in modes)
    named = set(re.findall(r"'(\w+)'", str(error.value).partition("Allowed")[2]))
    assert named <= modes


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_modes_of_opacus_need_the_criterion(mode: str) -> None:
    with pytest.raises(ValueError, match=f"grad_sample_mode is '{mode}', .* pass criterion="):
        private(grad_sample_mode=mode)
    made = private(grad_sample_mode=mode, criterion=nn.CrossEntropyLoss())
    assert len(made) == 4


def test_what_is_named_instead_works() -> None:
    private(clipping=AdaptiveClipping(quantile=0.4, learning_rate=0.1, count_noise=5.0))
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    groups = torch.optim.SGD([{"params": layer.parameters()} for layer in model], lr=0.1)
    private(module=model, optimizer=groups, clipping=GroupClipping(relative_norms=[1.0, 1.0]))
    private(secure_mode=True, seed=None)
    private(clipping="automatic")


def test_unknown_arguments_are_those_of_python() -> None:
    for make in (private, lambda **options: targeted(steps=4, **options), PrivacyEngine):
        with pytest.raises(TypeError, match="unexpected keyword argument 'no_such'"):
            make(no_such=1)


@pytest.mark.parametrize("make", [private, targeted])
def test_a_missing_partition_is_explained(make: Callable[..., Any]) -> None:
    arguments = parts(**(TARGET if make is targeted else {"noise_multiplier": 1.0}))
    del arguments["partition"]
    method = "make_private_with_epsilon" if make is targeted else "make_private"
    with pytest.raises(
        TypeError, match=r"partition is missing: .*by_column\(users.*by_record\(len\(data\)\)"
    ):
        getattr(PrivacyEngine(), method)(**arguments)


# --- epochs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 12),
        ({"steps_per_epoch": 5}, 15),
        ({"sampling": FixedNumberSampling(4), "sampling_rate": None}, 9),
        ({"sampling": BallsInBinsSampling(6), "sampling_rate": None}, 18),
    ],
)
def test_epochs_are_passes_over_the_loader(options: dict[str, Any], steps: int) -> None:
    engine, same = PrivacyEngine(), PrivacyEngine()
    module, optimizer, loader = targeted(engine, epochs=3, **options)
    assert optimizer.noise_multiplier == targeted(same, steps=steps, **options)[1].noise_multiplier
    passes(module, optimizer, loader, 3)
    assert engine.ledger.steps == steps
    assert engine.guarantee(1e-3).epsilon <= 3.0
    with pytest.raises(RuntimeError, match="target"):
        passes(module, optimizer, loader)
    assert engine.ledger.steps == steps


def test_epochs_and_steps_say_the_same() -> None:
    with pytest.raises(ValueError, match="steps is 4 and epochs is 2, which both say how long to train"):
        targeted(steps=4, epochs=2)
    chosen = recommend(units=12, records_per_unit=2, classes=3, target_epsilon=3.0, delta=1e-3)
    arguments = {**parts(recommended=chosen, epochs=2), "sampling_rate": None, "max_grad_norm": None}
    with pytest.raises(ValueError, match="epochs is given twice, by itself and by recommended"):
        PrivacyEngine().make_private_with_epsilon(**arguments)


@pytest.mark.parametrize(
    ("epochs", "kind"), [(0, ValueError), (-1, ValueError), (2.5, TypeError), (True, TypeError)]
)
def test_epochs_are_counted(epochs: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="epochs must be"):
        targeted(epochs=epochs)


# --- methods and tools ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in vars(WithoutOpacusMethods) if not name.startswith("_")])
def test_absent_methods_say_what_to_use(name: str) -> None:
    for place in (PrivacyEngine, PrivacyEngine()):
        assert not hasattr(place, name)
        with pytest.raises(AttributeError, match=f"^{name} is of Opacus and not of PrivacyEngine: ") as error:
            getattr(place, name)
        assert re.search("[Uu]se |leave the call out", str(error.value))


def test_the_number_of_opacus_is_that_of_add_remove() -> None:
    """Opacus's get_epsilon of a record-level run, and what the message names for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = opacus.PrivacyEngine(accountant="rdp")
        model = nn.Linear(4, 3)
        made = theirs.make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            data_loader=DataLoader(TensorDataset(X, Y), batch_size=6),
            noise_multiplier=2.0,
            max_grad_norm=1.0,
        )
        passes(*made)
        stated = theirs.get_epsilon(delta=1e-3)
    engine = PrivacyEngine()
    passes(*private(engine, partition=Partition.by_record(N)))
    same, replaced = (
        engine.guarantee(delta=1e-3, adjacency=adjacency).epsilon for adjacency in ("add_remove", "replace")
    )
    assert 0.7 * stated < same <= stated < replaced, "moments are looser than the tight accountant"
    run = {"sampling_rate": 0.25, "noise_multiplier": 2.0, "steps": 4, "delta": 1e-3, "unit": "record"}
    assert replaced == epsilon(**run).epsilon  # type: ignore[arg-type]


@pytest.mark.parametrize("scheduler", [ExponentialNoise, ExponentialGradClip])
@pytest.mark.parametrize("clipping", ["flat", AdaptiveClipping()])
def test_schedulers_of_noise_and_norm_are_refused(scheduler: Any, clipping: Any) -> None:
    """They assign to the optimizer. The ledger charges the plan, so less noise would be charged as more."""
    engine = PrivacyEngine()
    module, optimizer, loader = private(engine, clipping=clipping)
    passes(module, optimizer, loader)
    with pytest.raises(AttributeError, match=r"is fixed within a run.* call make_private again"):
        scheduler(optimizer, gamma=0.5).step()
    for name in ("noise_multiplier", "max_grad_norm", "expected_batch_size"):
        before = getattr(optimizer, name)
        with pytest.raises(AttributeError, match=f"^{name} is fixed within a run"):
            setattr(optimizer, name, 0.0)
        assert getattr(optimizer, name) == before > 0


def test_more_steps_with_other_noise_are_charged_for_both() -> None:
    arguments, engine = parts(), PrivacyEngine()
    for noise in (4.0, 2.0):
        passes(*engine.make_private(**{**arguments, "noise_multiplier": noise}))
    assert [(run[0].noise_multiplier, run[1]) for run in engine.ledger.runs] == [(4.0, 4), (2.0, 4)]


def test_schedulers_of_the_learning_rate_work() -> None:
    module, optimizer, loader = private()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    passes(module, optimizer, loader)
    schedule.step()
    assert optimizer.original_optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


class Records(Dataset[Any]):
    """Not in one tensor, so that a loader fetches them one by one."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        return X[index], Y[index]


@pytest.mark.parametrize("data", [TensorDataset(X, Y), Records()], ids=["tensors", "records"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_memory_manager_is_refused(data: Any, workers: int) -> None:
    engine = PrivacyEngine()
    module, optimizer, loader = private(engine, data_loader=DataLoader(data, num_workers=workers))
    manager = BatchMemoryManager(data_loader=loader, max_physical_batch_size=2, optimizer=optimizer)
    with (
        manager as split,
        pytest.raises(AttributeError, match="pass max_physical_batch_size to make_private"),
    ):
        passes(module, optimizer, split)
    assert engine.ledger.steps == 0
    passes(module, optimizer, loader)
    assert engine.ledger.steps == 4, "the loader itself still works"


def test_the_physical_batch_size_replaces_it() -> None:
    module, optimizer, loader = private(max_physical_batch_size=1, sampling_rate=1.0)
    assert {len(x) for x, _ in _stepped(module, optimizer, loader)} == {1}


def _stepped(module: Any, optimizer: Any, loader: Any) -> Any:
    for x, y in loader:
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimizer.step()
        yield x, y


class Noisy(TensorDataset):
    """Tensors that its __getitem__ changes, as augmentation does."""

    def __getitem__(self, index: Any) -> Any:
        x, y = super().__getitem__(index)
        return x + 100.0, y


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_of_tensors_that_changes_them_is_asked_for_its_records(workers: int) -> None:
    made = private(data_loader=DataLoader(Noisy(X, Y), num_workers=workers))
    assert all(x.min() > 50 for x, _ in _stepped(*made))


def test_a_module_that_opacus_fixed_works() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"BatchNorm1d.*ModuleValidator\.fix\(module\)"):
        private(module=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    fixed = ModuleValidator.fix(model)
    made = private(module=fixed, optimizer=torch.optim.SGD(fixed.parameters(), lr=0.1))
    passes(*made)


def test_the_loader_of_opacus_is_refused() -> None:
    loader = DPDataLoader.from_data_loader(DataLoader(TensorDataset(X, Y), batch_size=6))
    with pytest.raises(
        ValueError, match=r"data_loader has a UniformWithReplacementSampler.*Pass a loader without"
    ):
        private(data_loader=loader)


def test_a_loader_has_no_length() -> None:
    with pytest.raises(TypeError, match="number of physical batches is random"):
        len(private()[2])


def test_a_checkpoint_needs_neither_module_nor_optimizer(tmp_path: Path) -> None:
    engine, again = PrivacyEngine(), PrivacyEngine()
    module, optimizer, loader = private(engine)
    passes(module, optimizer, loader)
    engine.save_checkpoint(path=tmp_path / "a.pt")
    resumed = private(again)[0]
    again.load_checkpoint(path=tmp_path / "a.pt")
    assert torch.equal(resumed._module.weight, module._module.weight)
    assert again.ledger == engine.ledger


def test_the_plain_module_has_the_trained_parameters() -> None:
    """What a user of wrap_model=False does with it: checks of its type, evaluation, methods of its own."""

    class Mine(nn.Linear):
        def generate(self) -> float:
            return float(self.weight.detach().sum())

    plain = Mine(4, 3)
    module, optimizer, loader = private(module=plain, optimizer=torch.optim.SGD(plain.parameters(), lr=0.1))
    passes(module, optimizer, loader)
    assert plain.generate() == pytest.approx(float(module._module.weight.detach().sum()))
    module.eval()
    assert torch.equal(plain(X), module(X))
    assert plain.state_dict().keys() == nn.Linear(4, 3).state_dict().keys()
