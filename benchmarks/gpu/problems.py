"""The models and buckets of the benchmark on a GPU, and the limits of time and memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from dpmi.models import build
from dpmi.privacy import Partition

from .models import GPT2, resnet, vit


@dataclass(frozen=True)
class Problem:
    """A model, the buckets of one logical step, and the limits.

    Args:
        name: name in the table.
        model: makes the model.
        record: shape of one input; of type int64 if ``vocabulary`` is given.
        buckets: number of buckets in one logical step.
        size: records of each bucket.
        classes: number of classes.
        vocabulary: number of different tokens of a text, whose targets are its next tokens; None for images.
        bfloat16: whether it trains under autocast.
        batch_sizes: candidate batch sizes of ordinary training.
        physical: largest physical batch of the private step.
        most_time: limit of private time / ordinary time.
        most_memory: limit of private peak / ordinary peak at the same physical batch.
        share: share of the time of the whole benchmark.
    """

    name: str
    model: Callable[[], nn.Module]
    record: tuple[int, ...]
    buckets: int
    size: int
    batch_sizes: tuple[int, ...]
    physical: int
    most_time: float
    most_memory: float
    share: float
    classes: int = 10
    vocabulary: int | None = None
    bfloat16: bool = False

    def data(self, device: str) -> tuple[Tensor, Tensor, Partition]:
        """Random records in random order, made on the device; speed does not depend on their content."""
        generator = torch.Generator(device).manual_seed(0)
        n = self.buckets * self.size
        partition = Partition.by_column(
            np.random.default_rng(0).permutation(np.repeat(np.arange(self.buckets), self.size))
        )
        if self.vocabulary is not None:
            text = torch.randint(self.vocabulary, (n, self.record[0] + 1), generator=generator, device=device)
            return text[:, :-1].contiguous(), text[:, 1:].contiguous(), partition
        images = torch.rand(n, *self.record, generator=generator, device=device)
        return images, torch.randint(self.classes, (n,), generator=generator, device=device), partition


def _cnn() -> nn.Module:
    return build("cnn", image_shape=(1, 28, 28), num_classes=10, seed=0)


def problems(*, small: bool) -> list[Problem]:
    """Return the problems, or the same with so little work that a CPU takes seconds."""
    sizes = (
        [(3, 4), (6, 2), (6, 2), (4, 5), (12, 2)]
        if small
        else [(64, 32), (256, 4), (256, 4), (100, 120), (3000, 4)]
    )
    side = 32 if small else 224
    tokens, vocabulary = (6, 50) if small else (128, 50257)
    networks: list[Callable[[], nn.Module]] = [resnet, vit, GPT2]
    if small:
        tiny = {"layers": 2, "heads": 2, "width": 16}
        networks = [
            partial(resnet, block=BasicBlock, layers=(1, 1, 1, 1), classes=10),
            partial(vit, image_size=side, classes=10, **tiny),
            partial(GPT2, tokens=tokens, vocabulary=vocabulary, **tiny),
        ]
    convolutional, transformer, language = networks

    def batches(*full: int) -> tuple[int, ...]:
        return (4, 8) if small else full

    return [
        Problem(
            name=_name(f"ResNet-50 GroupNorm {side} px, bf16", sizes[0]),
            model=convolutional,
            record=(3, side, side),
            buckets=sizes[0][0],
            size=sizes[0][1],
            batch_sizes=batches(64, 128, 256),
            physical=8 if small else 256,
            most_time=1.08,
            most_memory=1.1,
            share=0.22,
            bfloat16=True,
        ),
        Problem(
            name=_name("ViT-B/16 LoRA, bf16", sizes[1]),
            model=transformer,
            record=(3, side, side),
            buckets=sizes[1][0],
            size=sizes[1][1],
            batch_sizes=batches(64, 128, 256),
            physical=8 if small else 256,
            most_time=1.25,
            most_memory=1.3,
            share=0.26,
            bfloat16=True,
        ),
        Problem(
            name=_name("GPT-2 124 M LoRA, bf16", sizes[2]),
            model=language,
            record=(tokens,),
            vocabulary=vocabulary,
            buckets=sizes[2][0],
            size=sizes[2][1],
            batch_sizes=batches(32, 64, 128),
            physical=8 if small else 128,
            most_time=1.25,
            most_memory=1.3,
            share=0.26,
            bfloat16=True,
        ),
        Problem(
            name=_name("MNIST CNN 26 k", sizes[3]),
            model=_cnn,
            record=(1, 28, 28),
            buckets=sizes[3][0],
            size=sizes[3][1],
            batch_sizes=batches(512, 1024, 2048, 4096),
            physical=8 if small else 4096,
            most_time=2.0,
            most_memory=1.5,
            share=0.1,
        ),
        Problem(
            name=_name("MNIST CNN 26 k", sizes[4]),
            model=_cnn,
            record=(1, 28, 28),
            buckets=sizes[4][0],
            size=sizes[4][1],
            batch_sizes=batches(512, 1024, 2048, 4096),
            physical=8 if small else 4096,
            most_time=2.0,
            most_memory=1.5,
            share=0.16,
        ),
    ]


def _name(model: str, sizes: tuple[int, int]) -> str:
    return f"{model}, {sizes[0]} x {sizes[1]}"
