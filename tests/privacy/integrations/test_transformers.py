"""A ``PrivateTrainer`` is the plain loop, in whole language models and in adapters, and counts logical steps."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, SequentialSampler

os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
pytest.importorskip("peft", reason="the extra `peft` is not installed")

from peft import PeftModel
from transformers import GPT2LMHeadModel, Trainer, TrainerCallback, default_data_collator, get_scheduler

from dpmi.privacy import BallsInBinsSampling, FixedNumberSampling, Partition, PrivacyEngine
from dpmi.privacy.integrations.transformers import PrivateTrainer

from .language import PRIVACY, RATE, RECORDS, STEPS, WARM_UP, model, plain_loop, trained, trainer

ROOT = Path(__file__).parents[3]


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("kind", ["whole", "lora"])
def test_it_is_the_plain_loop(kind: str, tmp_path: Path) -> None:
    one = trainer(tmp_path, kind)
    one.train()
    net, engine = plain_loop(kind)
    assert not same(net, model(kind))
    for mine, theirs in zip(trained(one.model), trained(net), strict=True):
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-6)
    assert one.engine.ledger == engine.ledger
    assert one.engine.ledger.steps == STEPS
    assert one.engine.account.unit == "user"


def test_adapters_train_on_a_frozen_model_and_are_saved(tmp_path: Path) -> None:
    one = trainer(tmp_path, "lora")
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    one.train()
    moved = {name for name, value in one.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if "lora_" in name}
    one.save_model(str(tmp_path / "adapter"))
    assert {path.name for path in (tmp_path / "adapter").glob("*.safetensors")} == {
        "adapter_model.safetensors"
    }
    loaded = PeftModel.from_pretrained(model(), tmp_path / "adapter").eval()
    inputs = RECORDS[0]["input_ids"][None]
    with torch.no_grad():
        assert torch.equal(loaded(inputs).logits, one.model.eval()(inputs).logits)


class Counts(TrainerCallback):
    """What the trainer counts: the steps, the released ones, and the batches of each."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self.batches: list[int] = []
        self.trainer: PrivateTrainer | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        assert self.trainer is not None
        self.steps.append((state.global_step, self.trainer.engine.ledger.steps))


def counted(one: PrivateTrainer, counts: Counts) -> PrivateTrainer:
    counts.trainer = one
    plain = one.compute_loss

    def compute_loss(*args: Any, **options: Any) -> Tensor:
        counts.batches.append(one.state.global_step)
        loss: Tensor = plain(*args, **options)
        return loss

    one.compute_loss = compute_loss
    return one


def test_steps_and_schedule_count_released_steps(tmp_path: Path) -> None:
    counts = Counts()
    one = counted(trainer(tmp_path, callbacks=[counts]), counts)
    result = one.train()
    assert counts.steps == [(i, i) for i in range(1, STEPS + 1)]
    per_step = [counts.batches.count(i) for i in range(STEPS)]
    assert min(per_step) == 0, "a step with an empty draw"
    assert max(per_step) > 2, "a step of several batches"
    reference = SGD([nn.Parameter(torch.zeros(1))], lr=RATE)
    schedule = get_scheduler("cosine", reference, WARM_UP, STEPS)
    expected = []
    for _ in range(STEPS):
        expected.append(schedule.get_last_lr()[0])
        reference.step()
        schedule.step()
    logged = [entry["learning_rate"] for entry in one.state.log_history if "learning_rate" in entry]
    assert logged == pytest.approx(expected)
    assert result.global_step == STEPS
    assert one.optimizer.param_groups[0]["lr"] == pytest.approx(0.0)


def test_epochs_have_as_many_steps_as_draw_every_bucket_once(tmp_path: Path) -> None:
    one = trainer(tmp_path, max_steps=-1, num_train_epochs=2, eval_strategy="epoch")
    one.train()
    assert one.engine.ledger.steps == one.state.global_step == 20
    assert [entry["step"] for entry in one.state.log_history if "eval_loss" in entry] == [10, 20]


def test_a_fixed_number_of_buckets_has_epochs_too(tmp_path: Path) -> None:
    privacy = {"partition": PRIVACY["partition"], "noise_multiplier": 1.0, "seed": 0}
    one = trainer(
        tmp_path,
        privacy={**privacy, "sampling": FixedNumberSampling(5)},
        max_steps=-1,
        num_train_epochs=1,
    )
    one.train()
    assert one.engine.ledger.steps == 4


def test_the_noise_for_a_target_is_that_of_the_whole_training(tmp_path: Path) -> None:
    privacy = {"partition": PRIVACY["partition"], "sampling_rate": 0.1}
    one = trainer(tmp_path, privacy={**privacy, "target_epsilon": 3.0, "target_delta": 1e-3})
    one.train()
    found = one.engine.guarantee(1e-3)
    assert found.is_guarantee
    assert found.steps == STEPS
    assert 2.9 < found.epsilon <= 3.0


def test_evaluation_and_prediction_charge_nothing(tmp_path: Path) -> None:
    one = trainer(tmp_path, eval_strategy="steps", eval_steps=4)
    one.train()
    assert [entry["step"] for entry in one.state.log_history if "eval_loss" in entry] == [4, 8, 12]
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    plain = Trainer(model=one.model, args=one.args, eval_dataset=RECORDS[:7])
    assert one.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]
    assert one.predict(RECORDS[:7]).predictions.shape == (7, 8, 50)
    assert one.engine.ledger.steps == STEPS
    assert all(torch.equal(before[name], value) for name, value in one.model.state_dict().items())


def test_the_loss_of_private_records_is_not_logged(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    result = one.train()
    logged = set().union(*one.state.log_history)
    assert logged & {"loss", "train_loss", "grad_norm"} == set()
    assert math.isnan(result.training_loss)
    assert "train_loss" not in result.metrics
    assert "train_runtime" in result.metrics


def test_the_saved_model_is_a_plain_one(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    one.train()
    one.save_model(str(tmp_path / "saved"))
    assert same(GPT2LMHeadModel.from_pretrained(tmp_path / "saved"), one.model)
    text = one.model.generate(RECORDS[0]["input_ids"][None, :3], max_new_tokens=4, do_sample=False)
    assert text.shape == (1, 7)


def test_a_private_module_passes_on_what_evaluation_needs(tmp_path: Path) -> None:
    net = model()
    private, optimizer, loader = PrivacyEngine().make_private(
        module=net,
        optimizer=SGD(net.parameters(), lr=0.1),
        data_loader=DataLoader(RECORDS, collate_fn=default_data_collator),
        max_grad_norm=0.5,
        **PRIVACY,
    )
    assert private.config is net.config
    for batch in loader:
        private(**batch).loss.backward()
        text = private.generate(RECORDS[0]["input_ids"][None, :3], max_new_tokens=2, do_sample=False)
        assert text.shape == (1, 5), "also between backward() and step()"
        optimizer.step()
        optimizer.zero_grad()
    private.save_pretrained(tmp_path / "saved")
    assert same(GPT2LMHeadModel.from_pretrained(tmp_path / "saved"), net)
    with pytest.raises(AttributeError, match="loss_function"):
        _ = private.loss_function


def test_a_killed_run_of_adapters_resumes_bit_for_bit(tmp_path: Path) -> None:
    kind = "lora"
    uninterrupted = trainer(tmp_path, kind)
    uninterrupted.train()
    killed = subprocess.run(
        [sys.executable, "-m", "tests.privacy.integrations.language", kind, str(tmp_path), "7"],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-5"]
    resumed = trainer(tmp_path, kind)
    resumed.train(resume_from_checkpoint=True)
    assert same(resumed.model, uninterrupted.model)
    assert resumed.engine.ledger == uninterrupted.engine.ledger
    assert resumed.state.global_step == STEPS
    assert resumed.optimizer.state_dict() == {}, "the engine has the state"
    momentum = [
        list(one.engine._trained().optimizer.original_optimizer.state.values())
        for one in (resumed, uninterrupted)
    ]
    assert all(
        torch.equal(a["momentum_buffer"], b["momentum_buffer"]) for a, b in zip(*momentum, strict=True)
    )


def test_a_checkpoint_at_the_end_of_an_epoch_resumes_bit_for_bit(tmp_path: Path) -> None:
    uninterrupted = trainer(tmp_path, save_strategy="epoch")
    uninterrupted.train()
    resumed = trainer(tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
    assert same(resumed.model, uninterrupted.model)
    assert resumed.engine.ledger == uninterrupted.engine.ledger


def test_nothing_resumes_without_the_engines_checkpoint(tmp_path: Path) -> None:
    trainer(tmp_path, save_strategy="steps", save_steps=5, save_only_model=True).train()
    one = trainer(tmp_path)
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    with pytest.raises(FileNotFoundError):
        one.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert one.engine.ledger.steps == 0
    assert all(torch.equal(before[name], value) for name, value in one.model.state_dict().items())


def test_a_second_training_is_charged_to_the_same_account(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    one.train()
    one.train()
    assert one.engine.ledger.steps == 2 * STEPS


def test_every_training_of_a_model_init_is_charged(tmp_path: Path) -> None:
    one = PrivateTrainer(
        model_init=model, args=trainer(tmp_path, max_steps=3).args, train_dataset=RECORDS, privacy=PRIVACY
    )
    one.train()
    first = one.model
    one.train()
    assert one.model is not first
    assert same(one.model, first), "the same seed"
    assert one.engine.ledger.steps == 6


def test_a_trainer_that_counts_differently_releases_nothing(tmp_path: Path) -> None:
    class Skips(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            state.global_step += state.global_step == 3

    one = trainer(tmp_path, callbacks=[Skips()])
    with pytest.raises(RuntimeError, match="the trainer is at step 4, but 3 steps were released"):
        one.train()
    assert one.engine.ledger.steps == 3


def test_a_loss_function_gets_one_bucket_at_a_time(tmp_path: Path) -> None:
    seen: list[int] = []

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        assert num_items_in_batch is None
        seen.append(len(labels))
        return nn.functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    one = trainer(tmp_path, compute_loss_func=loss)
    one.train()
    assert set(seen) == {1, 2}, "three texts of a user in two batches"
    net, _ = plain_loop("whole")
    for mine, theirs in zip(trained(one.model), trained(net), strict=True):
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"bf16": True},
        {"activation_checkpointing": True},
        {"neftune_noise_alpha": 0.1},
        {"optim": "adamw_torch"},
    ],
    ids=str,
)
def test_what_works_as_in_any_trainer(options: dict[str, Any], tmp_path: Path) -> None:
    one = trainer(tmp_path, max_steps=4, **options)
    one.train()
    assert one.engine.ledger.steps == 4
    assert not same(one.model, model())


def test_the_trainers_own_optimizer_is_used(tmp_path: Path) -> None:
    one = trainer(tmp_path, max_steps=2)
    one.optimizer = None
    one.train()
    real = one.engine._trained().optimizer.original_optimizer
    assert type(real) is torch.optim.AdamW
    assert all(state["step"] == 2 for state in real.state.values())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("gradient_accumulation_steps", 2, "gradient_accumulation_steps=2.*per_device_train_batch_size"),
        ("auto_find_batch_size", True, "auto_find_batch_size=True.*per_device_train_batch_size"),
        ("torch_compile", True, "torch_compile=True.*before make_private"),
        ("label_smoothing_factor", 0.1, "label_smoothing_factor=0.1.*compute_loss_func"),
        ("train_sampling_strategy", "group_by_length", "train_sampling_strategy='group_by_length'.*privacy="),
        ("dataloader_drop_last", True, "dataloader_drop_last=True.*leave it out"),
        ("include_num_input_tokens_seen", "all", "include_num_input_tokens_seen='all'.*leave it out"),
        ("enable_jit_checkpoint", True, "enable_jit_checkpoint=True.*save_strategy='steps'"),
        ("hub_strategy", "all_checkpoints", "hub_strategy='all_checkpoints'.*'every_save'"),
        ("fp16", True, "fp16=True.*bf16=True"),
        ("optim", "galore_adamw_layerwise", "optim='galore_adamw_layerwise'.*'adamw_torch'"),
        ("optim", "lomo", "optim='lomo'.*'adamw_torch'"),
        ("max_grad_norm", 0.0, "max_grad_norm=0.0.*above 0"),
        ("_n_gpu", 2, "has 2 processes or devices.*CUDA_VISIBLE_DEVICES=0"),
    ],
)
def test_training_arguments_are_refused_by_name(name: str, value: Any, message: str, tmp_path: Path) -> None:
    one = trainer(tmp_path)
    setattr(one.args, name, value)
    with pytest.raises(ValueError, match=message):
        one.train()
    assert one.engine.ledger.steps == 0
    assert same(one.model, model())


def test_arguments_are_refused_before_training_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gradient_accumulation_steps=3"):
        trainer(tmp_path, gradient_accumulation_steps=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_grad_norm": 1.0}, "privacy has 'max_grad_norm', which the trainer sets"),
        ({"criterion": nn.CrossEntropyLoss()}, "'criterion'.*compute_loss_func"),
        ({"steps": 3}, "'steps'"),
        ({"partition": None}, "no 'partition'"),
        ({"sampling_rate": None}, "sampling_rate is missing"),
        ({"sampling_rate": None, "sampling": BallsInBinsSampling(4)}, "charged as one pass"),
    ],
    ids=str,
)
def test_wrong_privacy_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    privacy = {name: value for name, value in {**PRIVACY, **change}.items() if value is not None}
    with pytest.raises((TypeError, ValueError), match=message):
        trainer(tmp_path, privacy=privacy).train()


def test_a_sampler_of_the_users_is_refused(tmp_path: Path) -> None:
    class Own(PrivateTrainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return SequentialSampler(RECORDS)

    with pytest.raises(TypeError, match="Own has its own _get_train_sampler"):
        Own(model=model(), args=trainer(tmp_path).args, train_dataset=RECORDS, privacy=PRIVACY)


def test_a_partition_of_other_records_is_refused(tmp_path: Path) -> None:
    one = trainer(tmp_path, privacy={**PRIVACY, "partition": Partition.by_record(59)})
    with pytest.raises(ValueError, match="partition has 59 records, data_loader has 60"):
        one.train()


def test_several_processes_are_refused(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.privacy.integrations.language import trainer; "
        "trainer(Path(sys.argv[1]))"
    )
    group = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }
    answer = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, **group, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 1
    assert "MULTI_CPU), and PrivateTrainer trains in one process on one device" in answer.stderr


def test_a_step_whose_batches_do_not_fit_is_taken_in_smaller_ones(tmp_path: Path) -> None:
    def check(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if len(kwargs["input_ids"]) > 1:
            raise torch.OutOfMemoryError

    halved = trainer(tmp_path)
    given = trainer(tmp_path, per_device_train_batch_size=1)
    for one in (halved, given):  # the masks of dropout would differ from those of another batch size
        for layer in one.model.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
    handle = halved.model.register_forward_pre_hook(check, with_kwargs=True)
    halved.train()
    handle.remove()
    given.train()
    assert same(halved.model, given.model)
    assert halved.engine.ledger == given.engine.ledger
    assert halved.engine.ledger.steps == STEPS
