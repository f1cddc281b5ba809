"""``PrivateTraining`` is the plain loop, counts logical steps, resumes bit for bit, and refuses what it cannot keep."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("lightning", reason="the extra `lightning` is not installed")

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from dpmi.privacy import Partition, PrivacyEngine
from dpmi.privacy.integrations.lightning import PrivateTraining

ROOT = Path(__file__).parents[3]
STEPS, N = 12, 60
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 4
LOADER = DataLoader(TensorDataset(X, Y))
#: With this seed some of the steps have an empty draw, and a user needs two batches.
PRIVACY: dict[str, Any] = {
    "partition": Partition.by_column([i // 3 for i in range(N)], unit="user"),
    "sampling_rate": 0.1,
    "noise_multiplier": 0.8,
    "max_grad_norm": 0.5,
    "max_physical_batch_size": 2,
    "seed": 5,
}


class Classifier(LightningModule):
    """A classifier with dropout, momentum and a schedule, which logs its loss as most do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 4))
        self.sizes: tuple[int, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(x)
        return found

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, on_epoch=True, prog_bar=True)
        self.log_dict({"twice": 2 * loss})
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        sgd = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.5)
        return {"optimizer": sgd, "lr_scheduler": {"scheduler": schedule(sgd), "interval": "step"}}


def schedule(optimizer: torch.optim.Optimizer) -> LinearLR:
    return LinearLR(optimizer, start_factor=0.1, total_iters=STEPS)


def trainer(*callbacks: Callback, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    none = (
        {} if any(isinstance(one, ModelCheckpoint) for one in callbacks) else {"enable_checkpointing": False}
    )
    return Trainer(
        **{"max_steps": STEPS, "accelerator": "cpu", **quiet, **none, "callbacks": list(callbacks), **options}
    )


def fit(
    module: LightningModule | None = None,
    *callbacks: Callback,
    privacy: dict[str, Any] = PRIVACY,
    ckpt_path: Path | None = None,
    val: Any = None,
    **options: Any,
) -> tuple[LightningModule, PrivateTraining, Trainer]:
    private = PrivateTraining(LOADER, privacy=privacy)
    module = module or Classifier()
    one = trainer(private, *callbacks, **options)
    one.fit(module, private.steps, val, ckpt_path=ckpt_path)
    return module, private, one


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def plain_loop() -> tuple[nn.Module, PrivacyEngine]:
    module, engine = Classifier(), PrivacyEngine()
    private, optimizer, loader = engine.make_private(
        module=module.net,
        optimizer=torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.5),
        data_loader=LOADER,
        steps_per_epoch=STEPS,
        **PRIVACY,
    )
    rates = schedule(optimizer.original_optimizer)
    optimizer.original_optimizer.register_step_post_hook(lambda *_: rates.step())
    for x, y in loader:
        nn.functional.cross_entropy(private(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return module, engine


class Steps(Callback):
    """What Lightning counts after each step, and the rate it was taken with."""

    def __init__(self) -> None:
        self.counts: list[tuple[int, int]] = []
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, *others: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Trainer, *others: Any) -> None:
        (private,) = (one for one in trainer.callbacks if isinstance(one, PrivateTraining))
        self.counts.append((trainer.global_step, private.engine.ledger.steps))


def test_it_is_the_plain_loop_and_counts_released_steps() -> None:
    counts = Steps()
    module, private, one = fit(None, counts)
    expected, engine = plain_loop()
    assert same(module, expected)
    assert not same(module, Classifier())
    assert private.engine.ledger == engine.ledger
    assert counts.counts == [(i, i) for i in range(1, STEPS + 1)]
    assert counts.rates == pytest.approx([0.01 + 0.09 * i / STEPS for i in range(STEPS)])
    assert one.current_epoch == 2, "an epoch of ten steps, and a part of the next"
    assert private.engine.account.unit == "user"
    assert vars(module).keys() & {"training_step", "optimizer_step"} == set(), "the module is itself again"


def test_some_steps_have_no_batch_and_some_several() -> None:
    batches: list[int] = []

    class Watched(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            batches.append(self.global_step)
            assert self.training
            return super().training_step(batch, batch_idx)

    fit(Watched())
    per_step = [batches.count(i) for i in range(STEPS)]
    assert min(per_step) == 0
    assert max(per_step) > 2


def test_nothing_of_the_training_step_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="dpmi"):
        _, _, one = fit(val=LOADER)
    assert set(one.logged_metrics) == {"val_loss"}
    assert "'train_loss' of training_step is not logged" in caplog.text


def test_validation_charges_nothing_and_sees_the_trained_module() -> None:
    module, private, one = fit(val=LOADER)
    assert private.engine.ledger.steps == STEPS
    found = one.validate(module, LOADER, verbose=False)
    with torch.no_grad():
        expected = nn.functional.cross_entropy(module.eval()(X), Y)
    assert found[0]["val_loss"] == pytest.approx(float(expected), rel=1e-5)
    assert private.engine.ledger.steps == STEPS


def test_the_noise_for_a_target_is_that_of_the_whole_training() -> None:
    privacy = {name: PRIVACY[name] for name in ("partition", "sampling_rate", "max_grad_norm")}
    _, private, _ = fit(
        privacy={**privacy, "target_epsilon": 3.0, "target_delta": 1e-3}, max_steps=-1, max_epochs=2
    )
    found = private.engine.guarantee(1e-3)
    assert (found.steps, found.is_guarantee) == (20, True)
    assert 2.9 < found.epsilon <= 3.0


def test_a_killed_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-m", "tests.privacy.integrations.test_lightning", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    (path,) = tmp_path.glob("*.ckpt")
    expected, uninterrupted, _ = fit()
    module, private, one = fit(ckpt_path=path)
    assert same(module, expected)
    assert private.engine.ledger == uninterrupted.engine.ledger
    assert one.global_step == STEPS
    plain = Classifier.load_from_checkpoint(path)
    assert not same(plain, expected), "of an earlier step"
    assert plain.state_dict().keys() == Classifier().state_dict().keys()


def test_a_checkpoint_without_the_account_is_refused(tmp_path: Path) -> None:
    one = trainer(ModelCheckpoint(tmp_path, every_n_train_steps=1), max_steps=1)
    one.fit(Classifier(), LOADER)  # not private
    (path,) = tmp_path.glob("*.ckpt")
    with pytest.raises(ValueError, match="ckpt_path is a checkpoint without a private training"):
        fit(ckpt_path=path)


def test_a_second_fit_of_one_trainer_releases_nothing() -> None:
    module, private, one = fit()
    one.fit_loop.epoch_loop.max_steps = 2 * STEPS
    with pytest.raises(RuntimeError, match=f"the trainer is at step {STEPS}, but 0 steps were released"):
        one.fit(module, private.steps)
    assert private.engine.ledger.steps == STEPS
    assert "training_step" not in vars(module)


def test_bfloat16_works() -> None:
    module, private, _ = fit(precision="bf16-mixed")
    expected, _ = plain_loop()
    assert private.engine.ledger.steps == STEPS
    for mine, theirs in zip(module.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-2)


class Leaks(Classifier):
    """Keeps the loss of one bucket for the next."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.before = loss.item()
        return loss


class Looks(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) * self.trainer.callback_metrics["train_loss"]


def test_a_training_step_that_carries_over_releases_nothing() -> None:
    private = PrivateTraining(LOADER, privacy=PRIVACY)
    with pytest.raises(RuntimeError, match=r"'module.before': the stored value of one bucket could reach"):
        trainer(private).fit(Leaks(), private.steps)
    with pytest.raises(AttributeError, match="callback_metrics"):
        trainer(private).fit(Looks(), private.steps)


def test_the_step_may_take_no_index_and_return_a_dict() -> None:
    class Short(Classifier):
        def training_step(self, batch: Any) -> dict[str, Tensor]:  # type: ignore[override]
            return {"loss": super().training_step(batch, 0)}

    module, _, _ = fit(Short())
    assert same(module, plain_loop()[0])


class Manual(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Clips(Classifier):
    def configure_gradient_clipping(self, *others: Any) -> None: ...


class Reads(Classifier):
    def training_step(self, dataloader_iter: Iterator[Any]) -> Tensor:  # type: ignore[override]
        return super().training_step(next(dataloader_iter), 0)


class Normalises(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (Classifier, {"accumulate_grad_batches": 2}, "accumulate_grad_batches=2.*max_physical_batch_size"),
        (Classifier, {"gradient_clip_val": 1.0}, "gradient_clip_val=1.0.*max_grad_norm"),
        (Classifier, {"overfit_batches": 3}, "overfit_batches=3"),
        (Manual, {}, "Manual has automatic_optimization=False"),
        (Clips, {}, "Clips has configure_gradient_clipping"),
        (Reads, {}, "Reads takes dataloader_iter"),
        (Normalises, {}, "BatchNorm1d"),
        (lambda: torch.compile(Classifier()), {}, "module is compiled"),
    ],
)
def test_what_does_not_go_with_private_steps_is_refused(
    module: Any, options: dict[str, Any], message: str
) -> None:
    made, private = module(), PrivateTraining(LOADER, privacy=PRIVACY)
    with pytest.raises(ValueError, match=message):
        trainer(private, **options).fit(made, private.steps)
    assert private.engine.ledger.steps == 0


def test_several_devices_are_refused() -> None:
    private = PrivateTraining(LOADER, privacy=PRIVACY)
    with pytest.raises(ValueError, match=r"strategy=DDPStrategy.*devices=1"):
        private.on_train_start(trainer(private, strategy="ddp", devices=2), Classifier())


def test_the_plain_loader_is_refused_as_training_data() -> None:
    private = PrivateTraining(LOADER, privacy=PRIVACY)
    module = Classifier()
    with pytest.raises(ValueError, match=r"training data are DataLoader.*fit\(module, private.steps\)"):
        trainer(private).fit(module, LOADER)
    assert same(module, Classifier())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"criterion": nn.CrossEntropyLoss()}, "privacy has 'criterion'.*training_step returns the loss"),
        ({"steps_per_epoch": 3}, "'steps_per_epoch'"),
        ({"sampling_rate": None}, "sampling_rate is missing"),
        ({"sampling_rate": 1.5}, "sampling_rate"),
    ],
    ids=str,
)
def test_wrong_privacy_is_refused_at_once(change: dict[str, Any], message: str) -> None:
    privacy = {name: value for name, value in {**PRIVACY, **change}.items() if value is not None}
    with pytest.raises((TypeError, ValueError), match=message):
        PrivateTraining(LOADER, privacy=privacy)


class Kill(Callback):
    """Kills the process after step 7."""

    def on_train_batch_end(self, trainer: Trainer, *others: Any) -> None:
        if trainer.global_step == 7:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    fit(None, Kill(), ModelCheckpoint(sys.argv[1], every_n_train_steps=5, save_top_k=-1))


def test_a_step_whose_batches_do_not_fit_is_taken_in_smaller_ones() -> None:
    class Small(Classifier):
        """Has memory for one record, and no dropout, whose masks would differ from those of another batch size."""

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            if len(batch[0]) > 1:
                raise torch.OutOfMemoryError
            return super().training_step(batch, batch_idx)

    halved, given = Small(), Classifier()
    for one in (halved, given):
        one.net[2].p = 0.0
    _, private, _ = fit(halved)
    _, other, _ = fit(given, privacy={**PRIVACY, "max_physical_batch_size": 1})
    assert same(halved.net, given.net)
    assert private.engine.ledger == other.engine.ledger
    assert private.engine.ledger.steps == STEPS
