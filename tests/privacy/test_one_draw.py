"""What is drawn is released: leaving a loop, an error or a new process does not get another draw.

Modules: dpmi/privacy/checkpoint.py, dpmi/privacy/loader.py, dpmi/privacy/optimizer.py, dpmi/privacy/sampling.py.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dpmi.privacy import NonFiniteGradientError, Partition, PrivacyEngine

from .test_engine import weights

N, STEPS = 60, 40
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3
USERS = torch.arange(N) // 6  # ten users of six records


class Records(Dataset[tuple[Tensor, Tensor, int]]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, int]:
        return X[i], Y[i], i


class Run:
    """A private training that notes the records of every released step."""

    def __init__(self, **options: Any) -> None:
        torch.default_generator.manual_seed(0)
        self.model = nn.Linear(4, 3)
        self.engine = PrivacyEngine()
        arguments: dict[str, Any] = {
            "data_loader": DataLoader(TensorDataset(X, Y, torch.arange(N))),
            "partition": Partition.by_column(USERS.numpy()),
            "sampling_rate": 0.2,
            "noise_multiplier": 0.0,
            "max_grad_norm": 1.0,
            "max_physical_batch_size": 4,
            "steps_per_epoch": STEPS,
            "grad_sample_mode": "stream",
            "seed": 0,
            **options,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.module, self.optimizer, *criterion, self.loader = self.engine.make_private(
                module=self.model,
                optimizer=torch.optim.SGD(self.model.parameters(), lr=0.1),
                **arguments,
            )
        self.criterion = criterion[0] if criterion else F.cross_entropy
        self.taken: list[int] = []
        self.steps: list[list[int]] = []
        self.optimizer.original_optimizer.register_step_post_hook(self._released)

    def _released(self, *_: Any) -> None:
        self.steps.append(self.taken)
        self.taken = []

    def step(self, x: Tensor, y: Tensor, index: Tensor) -> None:
        if not self.optimizer.rehearsing:
            self.taken = [*self.taken, *index.tolist()]
        self.criterion(self.module(x), y).backward()
        self.optimizer.step()

    def train(self, steps: int = STEPS, leave: Callable[[Run, Tensor, bool], bool] = lambda *_: False) -> Run:
        """The user's loop, which ``leave`` says to leave, before or after a batch is stepped; then it comes back."""
        while len(self.steps) < steps:
            for x, y, index in self.loader:
                if leave(self, index, False):
                    self.taken = []
                    break
                self.step(x, y, index)
                if len(self.steps) == steps:
                    break
                if not self.optimizer.released and leave(self, index, True):
                    self.taken = []
                    break
        return self


def once(choose: Callable[[set[int]], bool], *, stepped: bool) -> Callable[[Run, Tensor, bool], bool]:
    """Leave at a batch whose users are chosen, once for every logical step and user."""
    seen: set[tuple[int, ...]] = set()

    def leave(run: Run, index: Tensor, was_stepped: bool) -> bool:
        users = set(USERS[index].tolist())
        key = (len(run.steps), *users)
        if was_stepped is not stepped or key in seen or not choose(users):
            return False
        seen.add(key)
        return True

    return leave


WAYS: dict[str, dict[str, Any]] = {
    "tensors": {},
    "workers": {"data_loader": DataLoader(Records(), num_workers=2)},
    "some records": {"max_records_per_bucket": 3, "max_physical_batch_size": 2},
    "hooks": {"grad_sample_mode": "hooks", "criterion": F.cross_entropy, "max_physical_batch_size": 12},
}


@pytest.mark.parametrize("stepped", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_who_is_in_does_not_depend_on_when_the_loop_is_left(way: str, stepped: bool) -> None:
    steps = 12 if way == "workers" else STEPS
    whole = Run(**WAYS[way]).train(steps)
    left: list[int] = []

    def choose(users: set[int]) -> bool:
        left.append(1)
        return 5 in users or 2 in users

    broken = Run(**WAYS[way]).train(steps, leave=once(choose, stepped=stepped))
    assert broken.steps == whole.steps
    assert torch.equal(weights(broken.model), weights(whole.model))
    assert broken.engine.ledger.steps == broken.optimizer.released_steps == steps
    assert [] in whole.steps, "otherwise empty draws were not tested"
    assert any(5 in set(USERS[s].tolist()) for s in whole.steps)
    assert left


@pytest.mark.parametrize("way", ["tensors", "workers", "hooks"])
def test_a_loop_of_single_batches_trains_the_same_model(way: str) -> None:
    """Through the dry run, steps of several physical batches, and empty draws."""
    steps = 4 if way == "workers" else STEPS
    options = {**WAYS[way], "noise_multiplier": 1.0}
    whole, single = Run(**options).train(steps), Run(**options)
    batches = 0
    while len(single.steps) < steps:
        x, y, index = next(iter(single.loader))
        single.step(x, y, index)
        batches += not single.optimizer.rehearsing
    assert batches > steps - whole.steps.count([])
    assert single.steps[:steps] == whole.steps[:steps]
    assert single.engine.ledger.steps == len(single.steps)
    assert torch.equal(weights(single.model), weights(whole.model)) or way == "workers"


def test_a_loop_goes_on_after_a_single_batch() -> None:
    whole, run = (Run(sampling_rate=0.9, steps_per_epoch=4) for _ in range(2))
    whole.train(4)
    run.step(*next(iter(run.loader)))
    for batch in run.loader:
        run.step(*batch)
    assert run.steps == whole.steps
    assert torch.equal(weights(run.model), weights(whole.model))


def test_a_batch_that_is_only_looked_at_changes_nothing() -> None:
    whole, looking = Run().train(), Run()
    while len(looking.steps) < STEPS:
        assert len(next(iter(looking.loader))[0]) <= 4
        looking.train(min(STEPS, len(looking.steps) + 3))
    assert looking.steps == whole.steps
    assert torch.equal(weights(looking.model), weights(whole.model))


def test_a_pass_has_as_many_steps_after_a_loop_that_was_left() -> None:
    run = Run(steps_per_epoch=5, sampling_rate=0.9)
    for x, y, index in run.loader:
        run.step(x, y, index)
        if run.optimizer.released_steps == 2 and not run.optimizer.released:
            break
    assert len(run.steps) == 2
    for x, y, index in run.loader:
        run.step(x, y, index)
    assert len(run.steps) == 7


def test_an_error_in_a_step_gets_no_other_draw() -> None:
    x = X.clone()
    run, whole = (Run(data_loader=DataLoader(TensorDataset(data, Y, torch.arange(N)))) for data in (x, X))
    whole.train()
    for place in (31, 5, 47):
        x[place] = torch.nan
        with pytest.raises(NonFiniteGradientError):
            run.train(STEPS - 1)
        run.taken = []
        x[place] = X[place]
    run.train()
    assert run.steps == whole.steps
    assert torch.equal(weights(run.model), weights(whole.model))


def test_a_loop_that_swallows_an_error_does_not_go_on_without_the_dropped_buckets() -> None:
    """The other buckets of the step would be released because of what is in this one."""
    x = X.clone()
    x[31] = torch.nan
    run = Run(data_loader=DataLoader(TensorDataset(x, Y, torch.arange(N))), sampling_rate=1.0)
    errors = []
    with pytest.raises(RuntimeError, match="The pass has ended"):
        for inputs, y, index in run.loader:
            try:
                run.step(inputs, y, index)
            except NonFiniteGradientError as error:
                errors.append(error)
    assert len(errors) == 1
    assert run.steps == []
    assert run.engine.ledger.steps == 0


def test_a_step_that_was_billed_is_not_released_again() -> None:
    """Not even if it failed while it was: its buckets would be in two steps that are billed as independent ones."""

    whole, run = Run(sampling_rate=0.9).train(3), Run(sampling_rate=0.9).train(1)

    def crash(*_: Any) -> None:
        raise OSError("disk full")

    handle = run.optimizer.original_optimizer.register_step_pre_hook(crash)
    with pytest.raises(OSError, match="disk full"):
        run.train(2)
    handle.remove()
    run.taken = []
    run.train(2)
    assert run.engine.ledger.steps == 3
    assert run.steps == [whole.steps[0], whole.steps[2]]


@pytest.mark.parametrize("way", ["tensors", "hooks"])
def test_two_loops_at_a_time_are_refused(way: str) -> None:
    """Also in the dry run."""
    run = Run(**{**WAYS[way], "sampling_rate": 1.0})
    older = iter(run.loader)
    run.step(*next(older))
    newer = iter(run.loader)
    run.step(*next(newer))
    assert run.optimizer.rehearsing == (way == "hooks")
    with pytest.raises(RuntimeError, match="another loop over this loader was started"):
        next(older)


def test_an_old_loop_that_is_collected_later_drops_nothing() -> None:
    """An error keeps a loop alive as long as its traceback."""
    whole, run = (Run(sampling_rate=0.9, steps_per_epoch=3) for _ in range(2))
    whole.train(3)
    older = iter(run.loader)
    run.step(*next(older))
    run.taken = []
    for i, batch in enumerate(run.loader):
        run.step(*batch)
        if i == 1:
            del older
            gc.collect()
    assert run.steps == whole.steps
    assert torch.equal(weights(run.model), weights(whole.model))


def test_a_loop_that_ends_in_a_dry_run_sets_no_generator() -> None:
    """Garbage collection may end it at any moment, also while PyTorch holds the lock of the generator."""
    run = Run(**WAYS["hooks"])
    loop = iter(run.loader)
    next(loop)
    assert run.optimizer.rehearsing
    torch.rand(3)
    state = torch.get_rng_state()
    del loop
    gc.collect()
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("left", ["pending", "after a part"])
@pytest.mark.parametrize("secure", [False, True])
def test_a_checkpoint_after_a_loop_that_was_left_has_the_draw(
    left: str, secure: bool, tmp_path: Path
) -> None:
    options = {"sampling_rate": 0.5, "secure_mode": secure, "seed": None if secure else 0}
    run = Run(**options).train(2)
    for x, y, index in run.loader:
        if left == "after a part":
            run.step(x, y, index)
        break
    run.taken = []
    run.engine.save_checkpoint(tmp_path / "run.pt")
    resumed = Run(**options)
    next(iter(resumed.loader))
    resumed.engine.load_checkpoint(tmp_path / "run.pt")
    with pytest.raises(RuntimeError, match="without a batch of the private loader"):
        resumed.optimizer.step()
    one, other = run.train(3 if secure else 6), resumed.train(1 if secure else 4)
    assert one.steps[2:] == other.steps
    assert one.engine.ledger == other.engine.ledger
    assert torch.equal(weights(one.model), weights(other.model))


def test_a_checkpoint_after_a_single_batch_is_at_the_end_of_a_pass(tmp_path: Path) -> None:
    options = {"sampling_rate": 0.9, "max_physical_batch_size": 60, "steps_per_epoch": 3}
    run, resumed = Run(**options), Run(**options)
    while not run.optimizer.released:
        run.step(*next(iter(run.loader)))
    run.engine.save_checkpoint(tmp_path / "run.pt")
    resumed.engine.load_checkpoint(tmp_path / "run.pt")
    for one in (run, resumed):
        for batch in one.loader:
            one.step(*batch)
    assert resumed.steps == run.steps[1:]
    assert len(resumed.steps) == 3


def test_a_checkpoint_holds_what_workers_drew_ahead(tmp_path: Path) -> None:
    options = {"sampling_rate": 0.5, "secure_mode": True, "seed": None, **WAYS["workers"]}
    run = Run(**options)
    for x, y, index in run.loader:
        run.step(x, y, index)
        if run.optimizer.released:
            run.engine.save_checkpoint(tmp_path / "run.pt")
            ahead = [draw.buckets.tolist() for draw in run.loader.draws.pending]
            break
    assert ahead
    resumed = Run(**options)
    resumed.engine.load_checkpoint(tmp_path / "run.pt")
    resumed.train(len(ahead))
    assert [sorted(set(USERS[step].tolist())) for step in resumed.steps] == ahead
