"""Physical batches that do not fit are halved and nothing is lost; and "auto" finds what suits the device.

Modules: dpmi/privacy/physical_limit.py, dpmi/privacy/loader.py, dpmi/privacy/optimizer.py, dpmi/privacy/sampling.py.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import BallsInBinsSampling, Partition, PrivacyEngine
from dpmi.privacy.batch import Draw, PhysicalBatch
from dpmi.privacy.loader import repeated
from dpmi.privacy.physical_limit import (
    FIRST,
    FORWARD_BYTES,
    LEAST,
    MARGIN,
    MOST,
    PhysicalLimit,
    is_out_of_memory,
)

N, STEPS = 60, 6
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3
EVEN = Partition.by_column((torch.arange(N) // 6).numpy())  # ten users of six records
UNEVEN = Partition.by_column((torch.arange(N).double().sqrt().long()).numpy())  # of 1, 3, 5, ... 11 records
MODES = ("stream", "hooks", "ghost")


class Device:
    """A device with little memory: a forward pass needs so many bytes for the pass and for each record.

    It is read as torch's allocator is.
    """

    def __init__(self, capacity: int, *, per_pass: int = 0, per_record: int = 1) -> None:
        self.capacity, self.per_pass, self.per_record = capacity, per_pass, per_record
        self.failures = self.used = 0

    @property
    def free(self) -> int:
        return self.capacity

    def begin(self) -> None:
        self.used = 0

    def take(self, records: int) -> None:
        needed = self.per_pass + records * self.per_record
        if needed > self.capacity:
            self.failures += 1
            raise torch.OutOfMemoryError(f"tried to allocate {needed} bytes")
        self.used = max(self.used, needed)


def layers(device: Device) -> nn.Module:
    """Return two layers on a device, which is no part of the module: it changes in every pass."""

    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            device.take(len(x))
            return self.two(torch.tanh(self.one(x)))

    return Layers()


class Run:
    """A private training on a small device; its loop starts again when memory did not suffice."""

    def __init__(
        self, device: Device, mode: str, *, partition: Partition = EVEN, criterion: Any = None, **options: Any
    ) -> None:
        torch.default_generator.manual_seed(0)
        self.module = layers(device)
        self.engine = PrivacyEngine()
        arguments: dict[str, Any] = {
            "sampling_rate": 0.4,
            "noise_multiplier": 0.0,
            "max_grad_norm": 0.5,
            "steps_per_epoch": STEPS,
            "seed": 0,
            "grad_sample_mode": mode,
            **({} if mode == "stream" else {"criterion": criterion or nn.CrossEntropyLoss()}),
            **options,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # noise_multiplier = 0
            self.private, self.optimizer, *wrapped, self.loader = self.engine.make_private(
                module=self.module,
                optimizer=torch.optim.SGD(self.module.parameters(), lr=0.1),
                data_loader=DataLoader(TensorDataset(X, Y, torch.arange(N))),
                partition=partition,
                **arguments,
            )
        self.criterion: Any = wrapped[0] if wrapped else F.cross_entropy
        self.taken: list[int] = []
        self.steps: list[list[int]] = []
        self.sizes: list[int] = []
        self.errors: list[BaseException] = []
        self.optimizer.original_optimizer.register_step_post_hook(self._released)

    def _released(self, *_: Any) -> None:
        self.steps.append(sorted(self.taken))
        self.taken = []

    def one_pass(self) -> None:
        self.taken = []  # a draw that did not fit starts again
        for x, y, index in self.loader:
            if not self.optimizer.rehearsing:
                self.taken = [*self.taken, *index.tolist()]
            self.criterion(self.private(x), y).backward()
            self.optimizer.step()
            if not self.optimizer.rehearsing:
                self.sizes.append(len(index))

    def train(self, failures: int = 100) -> Run:
        """Make one pass, as a user does who starts the loop again."""
        while True:
            try:
                self.one_pass()
                return self
            except torch.OutOfMemoryError as error:
                self.errors.append(error)
                if len(self.errors) == failures:
                    return self

    def weights(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.module.parameters()])


LARGE = 10**6


@pytest.mark.parametrize("mode", MODES)
def test_the_training_is_bit_for_bit_one_that_began_with_smaller_batches(mode: str) -> None:
    """The first batch of the run fails, so both runs have added the same noise."""
    failed = Run(Device(5), mode, max_physical_batch_size=6, noise_multiplier=1.0).train()
    small = Run(Device(LARGE), mode, max_physical_batch_size=3, noise_multiplier=1.0).train()
    assert len(failed.errors) == 1
    assert not small.errors
    assert failed.sizes == small.sizes
    assert set(failed.sizes) == {3}
    assert failed.steps == small.steps
    assert torch.equal(failed.weights(), small.weights())
    assert failed.engine.ledger == small.engine.ledger
    assert failed.engine.ledger.steps == STEPS


@pytest.mark.parametrize("options", [{}, {"sampling_rate": None, "sampling": BallsInBinsSampling(STEPS)}])
@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_lost_when_later_batches_of_a_step_fail(mode: str, options: dict[str, Any]) -> None:
    """Buckets of 1 to 11 records, packed in this order: some batches of a step were summed when one did not fit."""
    failed = Run(Device(7), mode, partition=UNEVEN, max_physical_batch_size=11, **options).train()
    whole = Run(Device(LARGE), mode, partition=UNEVEN, max_physical_batch_size=11, **options).train()
    assert failed.errors
    assert failed.steps == whole.steps
    assert len(failed.steps) == failed.engine.ledger.steps == STEPS
    torch.testing.assert_close(failed.weights(), whole.weights(), rtol=1e-5, atol=1e-6)
    assert max(whole.sizes) > 7 >= max(failed.sizes)


@pytest.mark.parametrize("mode", MODES)
def test_the_next_loop_is_the_rest_of_the_pass(mode: str) -> None:
    device = Device(LARGE)
    failed = Run(device, mode, partition=UNEVEN, max_physical_batch_size=11)

    def shrink(*_: Any) -> None:
        device.capacity = 4 if len(failed.steps) >= 2 else LARGE

    failed.optimizer.original_optimizer.register_step_post_hook(shrink)
    failed.train()
    assert failed.errors
    whole = Run(Device(LARGE), mode, partition=UNEVEN, max_physical_batch_size=11).train()
    assert failed.steps == whole.steps
    torch.testing.assert_close(failed.weights(), whole.weights(), rtol=1e-5, atol=1e-6)


def test_the_error_and_the_log_say_what_happened(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(Device(5), "hooks", max_physical_batch_size=6)
    with caplog.at_level(logging.WARNING, logger="dpmi"):
        run.train()
    (message,) = caplog.messages
    for said in ("6 records", "at most 3", "released or charged", "draw is kept", "Start the loop again"):
        assert said in message
    if sys.version_info >= (3, 11):
        assert run.errors[0].__notes__ == [message]


def test_a_loop_that_swallows_the_error_does_not_release_the_rest() -> None:
    device = Device(5)
    run = Run(device, "stream", max_physical_batch_size=6)
    with pytest.raises(RuntimeError, match="incomplete"):
        for x, y, _ in run.loader:
            with pytest.raises(torch.OutOfMemoryError):
                run.private(x)
            device.capacity = LARGE
            run.criterion(run.private(x), y).backward()
            run.optimizer.step()
    assert run.engine.ledger.steps == 0
    assert run.train().engine.ledger.steps == STEPS


@pytest.mark.parametrize("mode", MODES)
def test_an_error_of_the_backward_pass_halves_too(mode: str) -> None:
    """Under "stream" the engine does not see the user's backward pass, but ``repeated`` does."""
    left = [1]

    def criterion(outputs: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(outputs, labels)
        if loss.requires_grad:
            loss.register_hook(backward)
        return loss

    def backward(_: Tensor) -> None:
        if not run.optimizer.rehearsing and left:
            left.pop()
            raise torch.OutOfMemoryError("tried to allocate a gradient")

    run = Run(Device(LARGE), mode, max_physical_batch_size=6, criterion=criterion)
    if mode == "stream":
        run.criterion = criterion
        repeated(run.loader, run.one_pass)
    else:
        run.train()
        assert len(run.errors) == 1
    small = Run(Device(LARGE), mode, max_physical_batch_size=3).train()
    assert not left
    assert run.sizes == small.sizes
    assert run.steps == small.steps


def test_a_loop_is_repeated_until_its_batches_fit_and_not_after_other_errors() -> None:
    run = Run(Device(1), "stream", max_physical_batch_size=6)
    repeated(run.loader, run.one_pass)
    assert set(run.sizes) == {1}
    assert len(run.steps) == STEPS

    def other() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        repeated(run.loader, other)

    def not_private() -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        repeated(DataLoader(TensorDataset(X)), not_private)


def test_one_record_that_does_not_fit_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(Device(0), "stream", max_physical_batch_size=2)
    with pytest.raises(torch.OutOfMemoryError):
        repeated(run.loader, run.one_pass)
    assert "batch of 1 records" in caplog.messages[-1]
    assert "smaller model" in caplog.messages[-1]
    assert run.engine.ledger.steps == 0


def test_a_dry_run_that_does_not_fit_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(Device(1), "hooks", max_physical_batch_size=6)
    with pytest.raises(torch.OutOfMemoryError):
        repeated(run.loader, run.one_pass)
    assert "dry run" in caplog.messages[-1]
    assert run.loader.draws.limit.records == 6


def test_a_step_that_was_charged_is_not_taken_again(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(Device(LARGE), "stream", max_physical_batch_size=6)
    left = [1]

    def fail(*_: Any) -> None:
        if left:
            left.pop()
            raise torch.OutOfMemoryError

    run.optimizer.original_optimizer.register_step_pre_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        repeated(run.loader, run.one_pass)
    assert run.engine.ledger.steps == 1
    assert "was charged, and is lost" in caplog.messages[-1]
    run.train()  # the rest of the pass
    assert run.engine.ledger.steps == STEPS
    assert len(run.steps) == STEPS - 1


@pytest.mark.parametrize("continued", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_checkpoint_after_a_failure_resumes(mode: str, continued: bool, tmp_path: Path) -> None:
    options = {"partition": UNEVEN, "max_physical_batch_size": 11}
    whole = Run(Device(LARGE), mode, **options).train()
    device = Device(LARGE)
    failed = Run(device, mode, **options)

    def shrink(*_: Any) -> None:
        device.capacity = 4 if len(failed.steps) == 2 else LARGE

    failed.optimizer.original_optimizer.register_step_post_hook(shrink)
    failed.train(failures=1)
    assert len(failed.steps) == len(failed.errors) + 1 == 2
    device.capacity = LARGE
    if continued:
        for x, y, _ in failed.loader:
            failed.criterion(failed.private(x), y).backward()
            failed.optimizer.step()
            if failed.optimizer.released:
                break
    failed.engine.save_checkpoint(tmp_path / "run.pt")
    resumed = Run(Device(LARGE), mode, **options)
    resumed.engine.load_checkpoint(tmp_path / "run.pt")
    at = resumed.engine.ledger.steps
    resumed.train()
    assert at == (3 if continued else 2)
    assert resumed.steps[: STEPS - at] == whole.steps[at:]
    if not continued:  # the rest of the pass; a loop that was left by `break` makes a whole one
        assert resumed.engine.ledger.steps == STEPS
        torch.testing.assert_close(resumed.weights(), whole.weights(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_a_step_keeps_the_limit_that_it_was_packed_with(mode: str) -> None:
    """A loop of single batches packs its draw again for each; an index into other batches would lose records."""
    run = Run(Device(LARGE), mode, partition=UNEVEN, max_physical_batch_size=5)
    whole = Run(Device(LARGE), mode, partition=UNEVEN, max_physical_batch_size=5).train()
    taken: list[int] = []
    steps: list[list[int]] = []
    for _ in range(400):
        if len(steps) == 4:
            break
        x, y, index = next(iter(run.loader))
        run.criterion(run.private(x), y).backward()
        run.optimizer.step()
        if run.optimizer.rehearsing:
            continue
        taken += index.tolist()
        run.loader.draws.limit.records = 2 + len(taken) % 7
        if run.optimizer.released:
            steps.append(sorted(taken))
            taken = []
    assert steps == [step for step in whole.steps if step][:4]


def batch(records: int) -> PhysicalBatch:
    return PhysicalBatch(
        buckets=(0,),
        sizes=(records,),
        bucket_records=(records,),
        draw=Draw(buckets=EVEN.bucket_of[:1], starts=EVEN.bucket_of[:1], digest=0),
    )


def test_auto_on_a_gpu_plans_for_the_memory_of_a_record() -> None:
    """What a pass needs besides its records counts as theirs, less and less with every larger batch."""
    device = Device(100_000, per_pass=900, per_record=100)
    limit = PhysicalLimit("auto", memory=device)
    assert limit.records == FIRST
    found = []
    for records in (3, 60, 600, 30):
        limit.begin()
        device.take(records)
        limit.end(batch(records))
        found.append(limit.records)
    assert found == [
        int(MARGIN * 100_000 / (100 + 900 / 3)),
        int(MARGIN * 100_000 / (100 + 900 / 60)),
        int(MARGIN * 100_000 / (100 + 900 / 600)),
        found[2],  # a smaller batch says less
    ]
    device.take(limit.records)  # it fits
    for capacity, expected in ((10**9, MOST), (1, 1)):
        device.capacity = capacity
        limit.end(batch(600))
        assert limit.records == expected


def test_a_limit_that_was_halved_does_not_grow_again_and_a_given_one_never_does() -> None:
    device = Device(10_000)
    for limit in (PhysicalLimit("auto", memory=device), PhysicalLimit(8, memory=device)):
        limit.halve(batch(8))
        limit.begin()
        device.take(4)
        limit.end(batch(4))
        limit.suit(1)
        assert limit.records == 4


@pytest.mark.parametrize("mode", MODES)
def test_auto_fills_a_small_gpu_and_trains_as_before(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(60, per_pass=4, per_record=2)
    monkeypatch.setattr(PhysicalLimit, "of", lambda size, _: PhysicalLimit(size, memory=device))
    found = Run(device, mode, max_physical_batch_size="auto").train()
    monkeypatch.undo()
    given = Run(Device(LARGE), mode, max_physical_batch_size=6).train()
    assert not found.errors
    assert found.steps == given.steps
    torch.testing.assert_close(found.weights(), given.weights(), rtol=1e-5, atol=1e-6)
    # A pass of n records takes 4 + 2 n of 60 bytes; the largest batches have 6 records in "stream", and 18 otherwise.
    largest = max(found.sizes)
    assert largest == (6 if mode == "stream" else 18)
    assert found.loader.draws.limit.records == int(MARGIN * 60 * largest / (4 + 2 * largest))


def test_an_allocation_that_failed_unseen_halves_at_the_next_loop() -> None:
    """The backward pass of "stream" is the user's own, but torch counts the allocations that fail on a GPU."""
    device = Device(LARGE)
    run = Run(device, "stream", max_physical_batch_size=6)
    run.optimizer.limit._memory = device
    for x, y, _ in run.loader:
        loss = F.cross_entropy(run.private(x), y)
        device.failures += 1
        del loss
        break
    assert set(run.train().sizes) == {3}
    assert len(run.steps) == STEPS


@pytest.mark.parametrize("width", [2_000, 30_000])
def test_auto_on_a_cpu_takes_what_malloc_keeps(width: int) -> None:
    def made(size: Any) -> Any:
        model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))
        private, optimizer, criterion, loader = PrivacyEngine().make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            criterion=nn.CrossEntropyLoss(),
            data_loader=DataLoader(TensorDataset(X, Y)),
            partition=EVEN,
            sampling_rate=0.4,
            noise_multiplier=1.0,
            max_grad_norm=1.0,
            max_physical_batch_size=size,
            grad_sample_mode="ghost",
        )
        for x, y in loader:
            criterion(private(x), y).backward()
            optimizer.step()
        return loader.draws.limit.records

    bytes_per_record = 4 * (width + width + 3)
    assert made("auto") == max(LEAST, FORWARD_BYTES // bytes_per_record)
    assert made(77) == 77


def test_other_devices_and_limits() -> None:
    cpu = torch.device("cpu")
    assert PhysicalLimit.of("auto", cpu).most == MOST
    assert PhysicalLimit.of("auto", cpu).records == 512
    assert PhysicalLimit.of("auto", torch.device("meta")).most == 512
    assert PhysicalLimit.of(9000, cpu).most == 9000
    limit = PhysicalLimit("auto")
    limit.suit(0)  # unknown
    assert limit.records == 512
    limit.suit(1)
    assert limit.records == MOST


OUT_OF_MEMORY = """
import resource, torch
from dpmi.privacy.physical_limit import is_out_of_memory
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
try:
    torch.ones(2**28)
except RuntimeError as error:
    assert is_out_of_memory(error), error
    print("noticed")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits the memory of a process on Linux")
def test_an_allocation_that_fails_on_the_cpu_is_noticed() -> None:
    child = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, check=False)
    assert child.stdout == "noticed\n", child.stderr
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert not is_out_of_memory(RuntimeError("no"))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator"))
