"""A run that is killed and resumed is the uninterrupted run, and its checkpoint cannot be used for another."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dpmi.privacy import Partition, PrivacyEngine, checkpoint

N, STEPS = 60, 7
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 4
USERS = torch.arange(N).sqrt().long()  # eight users with 1, 3, 5, ... records


class Records(Dataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return X[i], Y[i]


def seed_all(device: str, seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    if device == "cuda":
        torch.cuda.manual_seed(seed)


class Run:
    """A private training with momentum, a schedule, dropout, parts of buckets and empty draws."""

    def __init__(self, **options: Any) -> None:
        device = options.pop("device", "cpu")
        seed_all(device, 1)
        data = options.pop("data", None) or DataLoader(
            TensorDataset(X.to(device), Y.to(device)), batch_size=8
        )
        self.model = options.pop("module", None) or nn.Sequential(
            nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4)
        ).to(device)
        self.engine = PrivacyEngine()
        sgd = torch.optim.SGD(self.model.parameters(), lr=0.3, momentum=0.9)
        arguments: dict[str, Any] = {
            "partition": Partition.by_column(USERS.numpy()),
            "sampling_rate": 0.3,
            "noise_multiplier": 0.7,
            "max_grad_norm": 0.5,
            "max_physical_batch_size": 10,
            "steps_per_epoch": STEPS,
            "seed": 4,
            **options,
        }
        if arguments.get("grad_sample_mode") is not None:
            arguments["criterion"] = F.cross_entropy
        self.module, self.optimizer, *criterion, self.loader = self.engine.make_private(
            module=self.model, optimizer=sgd, data_loader=data, **arguments
        )
        self.criterion = criterion[0] if criterion else F.cross_entropy
        self.schedule = torch.optim.lr_scheduler.StepLR(sgd, step_size=3, gamma=0.5)
        sgd.register_step_post_hook(lambda *_: self.schedule.step())

    def train(self, epochs: int, *, stop_after: int | None = None, save: Path | None = None) -> Run:
        for _ in range(self.engine.ledger.steps // STEPS, epochs):
            for x, y in self.loader:
                self.optimizer.zero_grad()
                self.criterion(self.module(x), y).backward()
                self.optimizer.step()
                if self.optimizer.released and self.engine.ledger.steps == stop_after:
                    assert save is not None
                    self.engine.save_checkpoint(save, schedule=self.schedule)
                    return self
        return self

    def resume(self, path: Path) -> Run:
        self.engine.load_checkpoint(path, schedule=self.schedule)
        return self

    @property
    def weights(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])


WAYS: dict[str, dict[str, Any]] = {
    "tensors": {},
    "hooks": {"grad_sample_mode": "hooks"},
    "ghost": {"grad_sample_mode": "ghost"},
    "some records": {"max_records_per_bucket": 4},
    "map-style": {"data": DataLoader(Records(), batch_size=4)},
    "workers": {"data": DataLoader(Records(), batch_size=4, num_workers=2)},
}


@pytest.mark.parametrize(
    ("way", "stop_after", "device"),
    [
        *(("tensors", steps, "cpu") for steps in (1, 5, STEPS, STEPS + 2)),
        *((way, 5, "cpu") for way in WAYS),
        *(pytest.param(way, 5, "cuda", marks=pytest.mark.gpu) for way in ("tensors", "hooks", "ghost")),
    ],
)
def test_resumed_equals_uninterrupted_bit_for_bit(
    way: str, stop_after: int, device: str, tmp_path: Path
) -> None:
    options = {**WAYS[way], "device": device}
    whole = Run(**options).train(3)
    # Draws are random: the loop sees this step only if it is not empty.
    path = tmp_path / "run.pt"
    stopped = Run(**options).train(3, stop_after=stop_after, save=path)
    assert path.exists(), "choose another seed: the draw of this step is empty"
    resumed = Run(**options).resume(path)
    assert torch.equal(resumed.weights, stopped.weights)
    assert resumed.engine.ledger == stopped.engine.ledger
    seed_all(device, 99)  # what else happened in the new process
    resumed = Run(**options).resume(path).train(3)
    assert torch.equal(resumed.weights, whole.weights)
    assert resumed.engine.account == whole.engine.account
    assert resumed.optimizer.released_steps == whole.optimizer.released_steps == 3 * STEPS
    assert resumed.schedule.get_last_lr() == whole.schedule.get_last_lr()


def test_a_pass_may_be_saved_between_two_loops(tmp_path: Path) -> None:
    whole = Run().train(3)
    first = Run().train(2)
    first.engine.save_checkpoint(tmp_path / "run.pt", schedule=first.schedule)
    assert torch.equal(Run().resume(tmp_path / "run.pt").train(3).weights, whole.weights)


PROGRAM = """
import sys
from pathlib import Path
from torch.nn import functional as F
from tests.privacy.test_checkpoint import Run
run, path = Run(), Path(sys.argv[1])
for _ in range(1000):
    for x, y in run.loader:
        run.optimizer.zero_grad()
        F.cross_entropy(run.module(x), y).backward()
        run.optimizer.step()
        if run.optimizer.released:
            run.engine.save_checkpoint(path, schedule=run.schedule)
"""


def test_a_killed_process_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)], cwd=Path(__file__).parents[2])
    try:
        while not path.exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.3)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    resumed = Run().resume(path)
    steps = resumed.engine.ledger.steps
    epochs = steps // STEPS + 1
    assert steps > 0
    resumed.train(epochs)
    whole = Run().train(epochs)
    assert torch.equal(resumed.weights, whole.weights)
    assert resumed.engine.account == whole.engine.account


def test_a_target_is_kept_across_a_checkpoint(tmp_path: Path) -> None:
    def run() -> tuple[PrivacyEngine, Any, Any, Any]:
        model, engine = nn.Linear(6, 4), PrivacyEngine()
        return engine, *engine.make_private_with_epsilon(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            data_loader=DataLoader(TensorDataset(X, Y)),
            partition=Partition.by_column(USERS.numpy()),
            sampling_rate=0.3,
            steps=4,
            target_epsilon=3.0,
            target_delta=1e-3,
            max_grad_norm=1.0,
            steps_per_epoch=2,
            seed=0,
        )

    def one_pass(module: Any, optimizer: Any, loader: Any) -> None:
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimizer.step()

    engine, *first = run()
    one_pass(*first)
    engine.save_checkpoint(tmp_path / "run.pt")
    engine, *second = run()
    engine.load_checkpoint(tmp_path / "run.pt")
    one_pass(*second)
    assert engine.ledger.steps == 4
    assert engine.guarantee(1e-3).epsilon <= 3.0
    with pytest.raises(RuntimeError, match="all 4 steps"):
        one_pass(*second)


def saved(tmp_path: Path, **options: Any) -> Path:
    run = Run(**options).train(1)
    run.engine.save_checkpoint(tmp_path / "run.pt", schedule=run.schedule)
    return tmp_path / "run.pt"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampling_rate": 0.2}, ["sampling_rate", "0.3 there", "0.2 here"]),
        ({"noise_multiplier": 0.8}, ["noise_multiplier", "0.7 there", "0.8 here"]),
        ({"max_grad_norm": 1.0}, ["max_grad_norm", "0.5 there", "1.0 here"]),
        ({"max_records_per_bucket": 4}, ["max_records_per_bucket", "None there", "4 here"]),
        ({"partition": Partition.by_class(Y.numpy())}, ["buckets", "8 there", "4 here"]),
        ({"partition": Partition.by_column(USERS.flip(0).numpy())}, ["partition"]),
        ({"partition": Partition.by_column(USERS.numpy(), unit="patient")}, ["unit", "user", "patient"]),
        (
            {"partition": replace(Partition.by_column(USERS.numpy()), buckets_per_unit=2)},
            ["partition is"],
        ),
        ({"steps_per_epoch": 8}, ["steps_per_epoch", "7 there", "8 here"]),
        ({"loss_reduction": "sum"}, ["loss_reduction", "mean", "sum"]),
        ({"seed": None}, ["noise", "SEEDED", "ORDINARY"]),
        ({"module": nn.Linear(6, 4)}, ["another model", "0.bias", "None here"]),
    ],
)
def test_another_run_is_refused_and_nothing_is_changed(
    options: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    path = saved(tmp_path)
    other = Run(**options)
    before, steps = other.weights, other.engine.ledger.steps
    with pytest.raises(ValueError, match="there") as error:
        other.resume(path)
    for word in words:
        assert word in str(error.value)
    assert torch.equal(other.weights, before)
    assert other.engine.ledger.steps == steps == 0


def test_an_engine_that_has_billed_steps_does_not_forget_them(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with pytest.raises(ValueError, match="has charged 7 steps"):
        Run().train(1).resume(path)


def test_other_objects_are_asked_for_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="schedule"):
        Run().engine.load_checkpoint(saved(tmp_path))


def test_a_step_under_way_is_not_saved(tmp_path: Path) -> None:
    run = Run(sampling_rate=0.9)
    for x, y in run.loader:
        if not run.optimizer.rehearsing:
            with pytest.raises(RuntimeError, match="logical step is incomplete"):
                run.engine.save_checkpoint(tmp_path / "run.pt")
        run.optimizer.zero_grad()
        F.cross_entropy(run.module(x), y).backward()
        run.optimizer.step()
        if not run.optimizer.released and not run.optimizer.rehearsing:
            with pytest.raises(RuntimeError, match="logical step is incomplete"):
                run.engine.save_checkpoint(tmp_path / "run.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 100, -1000])
def test_a_truncated_file_is_refused(size: int, tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="damaged"):
        Run().resume(path)


def test_a_changed_ledger_or_parameter_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    content = torch.load(path, weights_only=True)
    content["model"]["0.weight"][0, 0] += 1e-3
    torch.save(content, path)
    with pytest.raises(ValueError, match="changed after it was saved"):
        Run().resume(path)
    content = torch.load(saved(tmp_path), weights_only=True)
    content["facts"]["account"] = Run().engine.account.to_json()
    torch.save(content, path)
    with pytest.raises(ValueError, match="changed after it was saved"):
        Run().resume(path)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    torch.save({"facts": Path(tmp_path)}, path)
    with pytest.raises(ValueError, match="damaged, or not a checkpoint"):
        Run().resume(path)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)
    before = path.read_bytes()

    def full(content: Any, file: io.BufferedWriter) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    run = Run().train(1)
    with pytest.raises(OSError, match="No space"):
        run.engine.save_checkpoint(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_secure_mode_goes_on_with_new_randomness(tmp_path: Path) -> None:
    path = saved(tmp_path, seed=None, secure_mode=True)
    one, other = (Run(seed=None, secure_mode=True).resume(path) for _ in range(2))
    assert torch.equal(one.weights, other.weights)
    assert not torch.equal(one.train(2).weights, other.train(2).weights)
    assert one.engine.ledger.steps == 2 * STEPS
