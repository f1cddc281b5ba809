"""A tiny language model, twenty users with three texts each, and the trainings that the tests compare.

As a program it trains under a ``PrivateTrainer`` and kills itself: ``python -m ... KIND FOLDER STEP``.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    get_scheduler,
    set_seed,
)

from dpmi.privacy import Partition, PrivacyEngine
from dpmi.privacy.integrations.transformers import PrivateTrainer

STEPS, WARM_UP, RATE = 12, 3, 0.1
USERS = [f"user {i // 3}" for i in range(60)]
TEXTS = torch.randint(0, 50, (60, 8), generator=torch.Generator().manual_seed(0))
RECORDS = [{"input_ids": text, "labels": text} for text in TEXTS]
#: With this seed some of the steps have an empty draw, and some users need two batches.
PRIVACY: dict[str, Any] = {
    "partition": Partition.by_column(USERS, unit="user"),
    "sampling_rate": 0.1,
    "noise_multiplier": 0.8,
    "seed": 5,
}


def model(kind: str = "whole") -> nn.Module:
    """GPT-2 with dropout and tied embeddings; "lora" trains adapters on the frozen rest."""
    torch.manual_seed(0)
    gpt = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
        )
    )
    if kind == "whole":
        return gpt
    adapters = LoraConfig(
        task_type="CAUSAL_LM", r=4, target_modules=["c_attn"], lora_dropout=0.1, fan_in_fan_out=True
    )
    return get_peft_model(gpt, adapters)


def trained(net: nn.Module) -> list[nn.Parameter]:
    return [p for p in net.parameters() if p.requires_grad]


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    return TrainingArguments(
        **{
            "output_dir": str(folder),
            "use_cpu": True,
            "disable_tqdm": True,
            "save_strategy": "no",
            "max_steps": STEPS,
            "warmup_steps": WARM_UP,
            "lr_scheduler_type": "cosine",
            "learning_rate": RATE,
            "logging_steps": 1,
            "max_grad_norm": 0.5,
            "per_device_train_batch_size": 2,
            "dataloader_pin_memory": False,
            "report_to": [],
            **options,
        }
    )


def trainer(
    folder: Path, kind: str = "whole", *, privacy: dict[str, Any] | None = None, **options: Any
) -> PrivateTrainer:
    """A trainer with SGD and momentum over the parameters in the order of the model."""
    made = {
        name: options.pop(name) for name in ("callbacks", "compute_loss_func", "engine") if name in options
    }
    net = model(kind)
    return PrivateTrainer(
        model=net,
        args=arguments(folder, **options),
        train_dataset=RECORDS,
        eval_dataset=RECORDS[:7],
        optimizers=(torch.optim.SGD(trained(net), lr=RATE, momentum=0.5), None),
        privacy=PRIVACY if privacy is None else privacy,
        **made,
    )


def plain_loop(kind: str) -> tuple[nn.Module, PrivacyEngine]:
    """The same training by a loop over what make_private returns."""
    net, engine = model(kind), PrivacyEngine()
    private, optimizer, loader = engine.make_private(
        module=net,
        optimizer=torch.optim.SGD(trained(net), lr=RATE, momentum=0.5),
        data_loader=DataLoader(RECORDS, collate_fn=default_data_collator),  # type: ignore[arg-type]
        max_grad_norm=0.5,
        max_physical_batch_size=2,
        steps_per_epoch=STEPS,
        **PRIVACY,
    )
    schedule = get_scheduler("cosine", optimizer.original_optimizer, WARM_UP, STEPS)
    optimizer.original_optimizer.register_step_post_hook(lambda *_: schedule.step())
    set_seed(42)  # of the dropout; the trainer's default
    private.train()
    for batch in loader:
        private(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return net, engine


class Kill(TrainerCallback):
    """Kills the process after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    kind, folder, step = sys.argv[1:]
    trainer(Path(folder), kind, save_strategy="steps", save_steps=5, callbacks=[Kill(int(step))]).train()
