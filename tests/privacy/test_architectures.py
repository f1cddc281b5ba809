"""Architectures that people train, several buckets at a time: the steps are those of one bucket at a time.

Modules: dpmi/privacy/gradients/capture.py, dpmi/privacy/gradients/spread.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("peft", reason="the extra `peft` is not installed")
pytest.importorskip("transformers", reason="the extra `transformers` is not installed")

from peft import LoraConfig, get_peft_model
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    SwinConfig,
    SwinForImageClassification,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from dpmi.privacy import Partition, PrivacyEngine

N, CLASSES, VOCABULARY = 24, 3, 50
DRAWS = torch.Generator().manual_seed(0)
LABELS = torch.arange(N) % CLASSES
SEQUENCES = torch.randn(N, 6, 8, generator=DRAWS)
TEXTS = torch.randint(1, VOCABULARY, (N, 6), generator=DRAWS)
IMAGES = torch.rand(N, 1, 16, 16, generator=DRAWS)
SMALL: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
NO_DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
GPT2: dict[str, Any] = {
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "vocab_size": VOCABULARY,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


class Encoder(nn.Module):
    """Torch's encoder, with a class token and positions."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=batch_first)
        self.inputs = nn.Linear(8, 16)
        self.token = nn.Parameter(torch.randn(1, 1, 16) * 0.1)
        self.positions = nn.Parameter(torch.randn(1, 7, 16) * 0.1)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, CLASSES)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.inputs(x)], 1) + self.positions
        if self.batch_first:
            return self.head(self.layers(x)[:, 0])
        return self.head(self.layers(x.transpose(0, 1))[0])


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = kind(8, 16, batch_first=True)  # type: ignore[call-arg]
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class Logits(nn.Module):
    """The logits of a model of transformers, for inputs of these names."""

    def __init__(self, model: nn.Module, *names: str) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, x: Tensor) -> Tensor:
        return self.model(**dict.fromkeys(self.names, x)).logits


def next_words(logits: Tensor, texts: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].reshape(-1, VOCABULARY), texts[:, 1:].reshape(-1))


def lora(model: nn.Module) -> nn.Module:
    config = LoraConfig(
        task_type="CAUSAL_LM", r=2, lora_dropout=0.0, target_modules=["c_attn"], fan_in_fan_out=True
    )
    return get_peft_model(model, config)


def bert() -> nn.Module:
    config = BertConfig(**SMALL, **NO_DROPOUT, num_hidden_layers=2, vocab_size=VOCABULARY, num_labels=CLASSES)
    return Logits(BertForSequenceClassification(config), "input_ids")


def gpt2(around: Callable[[nn.Module], nn.Module] = lambda model: model) -> nn.Module:
    return Logits(around(GPT2LMHeadModel(GPT2Config(**GPT2))), "input_ids")


def llama() -> nn.Module:
    config = LlamaConfig(**SMALL, num_hidden_layers=2, num_key_value_heads=1, vocab_size=VOCABULARY)
    return Logits(LlamaForCausalLM(config), "input_ids")


def t5() -> nn.Module:
    config = T5Config(
        d_model=16, num_layers=2, num_heads=2, d_kv=8, d_ff=32, vocab_size=VOCABULARY, dropout_rate=0.0
    )
    return Logits(T5ForConditionalGeneration(config), "input_ids", "decoder_input_ids")


def vit() -> nn.Module:
    config = ViTConfig(
        **SMALL,
        **NO_DROPOUT,
        num_hidden_layers=2,
        image_size=16,
        patch_size=4,
        num_channels=1,
        num_labels=CLASSES,
    )
    return Logits(ViTForImageClassification(config), "pixel_values")


def swin() -> nn.Module:
    config = SwinConfig(
        embed_dim=8,
        depths=[2, 2],  # every second layer shifts its windows
        num_heads=[2, 2],
        window_size=2,
        image_size=16,
        patch_size=2,
        num_channels=1,
        num_labels=CLASSES,
        drop_path_rate=0.0,
        **NO_DROPOUT,
    )
    return Logits(SwinForImageClassification(config), "pixel_values")


Case = tuple[Callable[[], nn.Module], Tensor, Tensor, Callable[[Tensor, Tensor], Tensor]]
CASES: dict[str, Case] = {
    "encoder": (lambda: Encoder(batch_first=True), SEQUENCES, LABELS, F.cross_entropy),
    "encoder, time first": (lambda: Encoder(batch_first=False), SEQUENCES, LABELS, F.cross_entropy),
    "lstm": (lambda: Recurrent(nn.LSTM), SEQUENCES, LABELS, F.cross_entropy),
    "gru": (lambda: Recurrent(nn.GRU), SEQUENCES, LABELS, F.cross_entropy),
    "rnn": (lambda: Recurrent(nn.RNN), SEQUENCES, LABELS, F.cross_entropy),
    "bert": (bert, TEXTS, LABELS, F.cross_entropy),
    "gpt-2": (gpt2, TEXTS, TEXTS, next_words),
    "gpt-2 with lora": (partial(gpt2, lora), TEXTS, TEXTS, next_words),
    "llama": (llama, TEXTS, TEXTS, next_words),
    "t5": (t5, TEXTS, TEXTS, next_words),
    "vit": (vit, IMAGES, LABELS, F.cross_entropy),
    "swin": (swin, IMAGES, LABELS, F.cross_entropy),
}


def trained(case: str, mode: str) -> tuple[Tensor, int]:
    """What two steps change, (parameters,), and the largest physical batch."""
    make, x, y, loss = CASES[case]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().train()
    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    several = mode != "stream"
    module, optimizer, *criterion, loader = PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0),
        criterion=loss if several else None,
        data_loader=DataLoader(TensorDataset(x, y)),
        partition=Partition.by_column((torch.arange(N) // 2).tolist(), unit="user"),
        sampling_rate=1.0,
        noise_multiplier=0.0,
        max_grad_norm=0.5,
        grad_sample_mode=mode,
        seed=0,
    )
    largest = 0
    for _ in range(2):
        for inputs, targets in loader:
            optimizer.zero_grad()
            (criterion[0] if several else loss)(module(inputs), targets).backward()
            optimizer.step()
            largest = max(largest, len(inputs))
    return torch.cat([p.detach().flatten() for p in model.parameters()]) - start, largest


@pytest.mark.filterwarnings("ignore:noise_multiplier")
@pytest.mark.parametrize("case", CASES)
def test_several_buckets_at_a_time_are_one_at_a_time(case: str, caplog: pytest.LogCaptureFixture) -> None:
    expected, alone = trained(case, "stream")
    assert alone == 2
    caplog.set_level(logging.INFO, logger="dpmi")
    for mode in ("hooks", "ghost"):
        found, largest = trained(case, mode)
        assert largest > 2
        assert float((found - expected).norm()) < 1e-5 * float(expected.norm())
