"""The rows of the table: a model, users with records, the peers, and the limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from dpmi.privacy import Partition

from ..problems import PROBLEMS
from ..steps import Data
from .gpt import Gpt

ORDINARY, OPACUS, VMAP, JAX, PFL = (
    "non-private",
    "Opacus, grouped",
    "torch.func",
    "jax_privacy",
    "pfl-research",
)
PEERS = (ORDINARY, OPACUS, VMAP, JAX, PFL)


@dataclass(frozen=True, eq=False)
class Row:
    """One row.

    Args:
        name: name in the table.
        model: makes the model; every call gives the same weights.
        draw: makes n records, of a generator: inputs (n, ...) and targets (n, ...).
        sizes: records of every user, (K,).
        max_grad_norm: about the median norm of the users' gradients, so that some are clipped and some are not.
        batch_sizes: candidate batch sizes of non-private training.
        private_batch: maximum physical batch of dpmi.
        record_batch: batch size of Opacus, which holds one gradient per record.
        users_at_once: users in one call of torch.func and of jax_privacy; it divides the number of users.
        network: name in `jax_networks`.
        peers: what the row is compared with.
        tolerance: largest distance of a peer's weights from dpmi's after one step, divided by the length of the step.
            Smooth networks agree to 1e-5 in float32. In others, rounding decides which side of a ReLU or of a maximum
            a few of millions of activations are on: a step of the MNIST CNN is as far as 2e-4 from float64.
        first: only the first so many users take part in the comparison with a peer that is slow.
        most_time: maximum of time of dpmi / time of non-private training.
        least_speed: minimum of time of a peer / time of dpmi.
    """

    name: str
    model: Callable[[], nn.Module]
    draw: Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
    sizes: np.ndarray
    max_grad_norm: float
    batch_sizes: tuple[int, ...]
    private_batch: int
    record_batch: int
    users_at_once: int
    network: str = ""
    peers: tuple[str, ...] = PEERS
    tolerance: float = 1e-4
    first: Mapping[str, int] = field(default_factory=dict)
    most_time: float | None = None
    least_speed: Mapping[str, float] = field(default_factory=dict)

    def users(self, peer: str) -> int:
        """Number of users in the comparison with a peer."""
        return self.first.get(peer, len(self.sizes))

    def data(self, users: int) -> Data:
        """Records of the first users, in random order."""
        owners = np.repeat(np.arange(users), self.sizes[:users])
        partition = Partition.by_column(np.random.default_rng(0).permutation(owners))
        return *self.draw(len(partition), torch.Generator().manual_seed(0)), partition


def _images(
    shape: tuple[int, ...], classes: int, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    inputs = torch.rand(n, *shape, generator=generator)
    return inputs, torch.randint(classes, (n,), generator=generator)


def _features(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 64, generator=generator), torch.randint(10, (n,), generator=generator)


def _texts(words: int, length: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    texts = torch.randint(words, (n, length + 1), generator=generator)
    return texts[:, :-1].contiguous(), texts[:, 1:].contiguous()


def _seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def zipf(users: int, most: int) -> np.ndarray:
    """Draw sizes (users,), n with a probability proportional to 1 / n, up to ``most``; the first user has ``most``."""
    sizes = np.arange(1, most + 1)
    drawn = np.random.default_rng(0).choice(sizes, users, p=(1 / sizes) / (1 / sizes).sum())
    drawn[0] = most
    return drawn


_CNN, _, _, _RESNET, _TINY = PROBLEMS
_MNIST = Row(
    name="MNIST CNN 26 k, 100 x 120",
    model=_CNN.classifier,
    draw=partial(_images, _CNN.image_shape, 10),
    sizes=np.full(100, 120),
    max_grad_norm=0.19,
    batch_sizes=_CNN.batch_sizes,
    private_batch=_CNN.private_batch,
    record_batch=_CNN.record_batch,
    users_at_once=4,
    network="cnn",
    tolerance=1e-3,
    most_time=1.10,
    least_speed={JAX: 6.0, OPACUS: 3.5},
)
_WORDS, _LENGTH = 1000, 64

#: By the names that the command takes.
ROWS = {
    "equal": _MNIST,
    "ragged": replace(
        _MNIST,
        name="MNIST CNN 26 k, 400 users, Zipf 1 to 200",
        sizes=zipf(400, 200),
        max_grad_norm=0.56,
        users_at_once=2,
        first={JAX: 100},
        most_time=1.3,
        least_speed={JAX: 50.0, VMAP: 5.0},
    ),
    "tiny": replace(
        _MNIST,
        name="MNIST CNN 26 k, 3,000 x 4",
        sizes=np.full(3000, 4),
        max_grad_norm=1.0,
        private_batch=_TINY.private_batch,
        users_at_once=100,
        first={PFL: 500},
        most_time=None,
        least_speed={},
    ),
    "resnet": Row(
        name="ResNet-18 GroupNorm 32 x 32, 20 x 32",
        model=partial(_seeded, _RESNET.classifier),
        draw=partial(_images, _RESNET.image_shape, 10),
        sizes=np.full(20, 32),
        max_grad_norm=8.0,
        batch_sizes=_RESNET.batch_sizes,
        private_batch=_RESNET.private_batch,
        record_batch=_RESNET.record_batch,
        users_at_once=1,
        peers=(ORDINARY, OPACUS),
        tolerance=1e-2,
        first={ORDINARY: 10, OPACUS: 5},
        most_time=1.05,
        least_speed={OPACUS: 4.5},
    ),
    "transformer": Row(
        name="GPT-2-like, 6 layers, 256 wide, 200 users x 8 x 64",
        model=partial(_seeded, partial(Gpt, words=_WORDS, length=_LENGTH, width=256, layers=6, heads=4)),
        draw=partial(_texts, _WORDS, _LENGTH),
        sizes=np.full(200, 8),
        max_grad_norm=1.7,
        batch_sizes=(16, 32),
        private_batch=64,
        record_batch=32,
        users_at_once=5,
        network="gpt",
        first={ORDINARY: 50, **dict.fromkeys(PEERS[1:], 25)},
        most_time=1.15,
        least_speed={OPACUS: 3.0},
    ),
    "head": Row(
        name="head of 640 on 64 features, 6,000 x 10",
        model=partial(_seeded, lambda: nn.Sequential(nn.Linear(64, 10))),
        draw=_features,
        sizes=np.full(6000, 10),
        max_grad_norm=2.5,
        batch_sizes=(1024, 8192, 60_000),
        private_batch=8192,
        record_batch=8192,
        users_at_once=500,
        network="head",
        first={PFL: 1000},
        most_time=1.3,
        least_speed=dict.fromkeys(PEERS[1:], 5.0),
    ),
}
