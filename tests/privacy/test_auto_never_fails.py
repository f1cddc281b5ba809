"""The default mode works wherever one bucket at a time does, and gives the same parameters.

Modules: dpmi/privacy/dry_run.py, dpmi/privacy/engine.py, dpmi/privacy/gradients/strategy.py.
"""

from __future__ import annotations

import warnings
from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dpmi.privacy import Partition, PrivacyEngine

from .promise import loops
from .promise.harness import Session, plain_loop
from .promise.separate import Siamese, checkpointed, mlp
from .promise.users import CLASSES, FEATURES

N, STEPS = 30, 3
X = torch.randn(N, FEATURES, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % CLASSES
Loop = Callable[[Session], None]


def train(
    mode: str,
    model: Callable[[], nn.Module] = mlp,
    loop: Loop = plain_loop,
    *,
    dataset: Dataset[Any] | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    with_criterion: bool = False,
) -> Tensor:
    """The parameters after some logical steps without noise, (n,)."""
    torch.manual_seed(1)
    module = model()
    sgd = torch.optim.SGD(module.parameters(), lr=0.5)
    data = DataLoader(dataset or TensorDataset(X, Y), batch_size=8, collate_fn=collate)
    engine, criterion = PrivacyEngine(), nn.CrossEntropyLoss()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # noise_multiplier = 0 warns, and is what is wanted here
        private = engine.make_private(
            module=module,
            optimizer=sgd,
            data_loader=data,
            partition=Partition.by_column(np.arange(N) // 4),
            sampling_rate=0.6,
            noise_multiplier=0.0,
            max_grad_norm=0.5,
            steps_per_epoch=STEPS,
            grad_sample_mode=mode,
            seed=0,
            **({"criterion": criterion} if with_criterion else {}),
        )
    loop(
        Session(
            private[0],
            private[1],
            private[2] if with_criterion else criterion,
            private[-1],
            module,
            sgd,
            data,
            epochs=1,
        )
    )
    assert engine.ledger.steps == STEPS
    return torch.cat([p.detach().flatten() for p in module.parameters()])


class Encoding(UserDict[str, Tensor]):
    """What Hugging Face's tokenizers return: a mapping that is no dict."""

    def to(self, device: str) -> Encoding:
        return Encoding({name: value.to(device) for name, value in self.items()})


def encoded(records: list[tuple[Tensor, Tensor]]) -> Encoding:
    x, y = zip(*records, strict=True)
    return Encoding(x=torch.stack(x), labels=torch.stack(y))


def encoding_loop(s: Session) -> None:
    for batch in s.loader:
        moved = batch.to("cpu")
        s.optimizer.zero_grad()
        s.criterion(s.model(moved["x"]), moved["labels"]).backward()
        s.optimizer.step()


class Texts(Dataset[tuple[str, int]]):
    """A word for every record, of which the model counts letters."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[str, int]:
        return "abc"[int(Y[i])] * (1 + i % 3) + "d" * (i % 2), int(Y[i])


class Letters(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(FEATURES, CLASSES)

    def forward(self, texts: list[str]) -> Tensor:
        counts = [[float(text.count(letter)) for letter in "abcdef"] for text in texts]
        return self.body(torch.tensor(counts))


def as_lists(records: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    x, y = zip(*records, strict=True)
    return list(x), list(y)


def stacking_loop(s: Session) -> None:
    for x, y in s.loader:
        s.optimizer.zero_grad()
        s.criterion(s.model(torch.stack(x)), torch.stack(y)).backward()
        s.optimizer.step()


@dataclass
class Graph:
    """A batch of one's own."""

    nodes: Tensor
    labels: Tensor


def as_graph(records: list[tuple[Tensor, Tensor]]) -> Graph:
    x, y = zip(*records, strict=True)
    return Graph(torch.stack(x), torch.stack(y))


def graph_loop(s: Session) -> None:
    for batch in s.loader:
        s.optimizer.zero_grad()
        s.criterion(s.model(batch.nodes), batch.labels).backward()
        s.optimizer.step()


class InPairs(nn.Module):
    """Takes (3, records, 2): the second dimension is the records."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)).sum(0))


def time_major(records: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    x, y = zip(*records, strict=True)
    return torch.stack(x).view(len(x), 3, 2).transpose(0, 1).contiguous(), torch.stack(y)


class Views(nn.Module):
    """Takes two views of every record, one after another: (2 n, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.body(x).chunk(2)
        return one + two


def two_views(records: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    x, y = zip(*records, strict=True)
    return torch.cat([torch.stack(x), -torch.stack(x)]), torch.stack(y)


class OnGrid(nn.Module):
    """The first argument is the same for all records, (4, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, CLASSES)

    def forward(self, grid: Tensor, x: Tensor) -> Tensor:
        return self.body(torch.tanh(x @ grid.T))


GRID = torch.randn(4, FEATURES, generator=torch.Generator().manual_seed(2))


def grid_loop(s: Session) -> None:
    for x, y in s.loader:
        s.optimizer.zero_grad()
        s.criterion(s.model(GRID, x), y).backward()
        s.optimizer.step()


def with_grid(records: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    x, y = zip(*records, strict=True)
    return GRID, torch.stack(x), torch.stack(y)


def grid_in_batch_loop(s: Session) -> None:
    for grid, x, y in s.loader:
        s.optimizer.zero_grad()
        s.criterion(s.model(grid, x), y).backward()
        s.optimizer.step()


class EmptyWeights(nn.Module):
    """A layer of no inputs, one of no outputs, and a parameter without elements."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch: nothing to initialize
            self.from_nothing = nn.Linear(0, CLASSES)
            self.to_nothing = nn.Linear(FEATURES, 0)
        self.nothing = nn.Parameter(torch.zeros(5, 0))
        self.body = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.from_nothing(self.to_nothing(x)) + self.nothing.sum()


class WithLoss(nn.Module):
    """Computes its own loss, as Hugging Face's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        out = self.body(x)
        return {"loss": F.cross_entropy(out, labels), "logits": out}


def inner_loss_loop(s: Session) -> None:
    for x, y in s.loader:
        s.optimizer.zero_grad()
        s.model(x, labels=y)["loss"].backward()
        s.optimizer.step()


def unevenly_collated(records: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Tensors, Python numbers and nothing, nested."""
    x, y = zip(*records, strict=True)
    return {"data": [(torch.stack(x), None)], "labels": torch.stack(y), "count": len(x)}


def nested_loop(s: Session) -> None:
    for batch in s.loader:
        ((x, _),) = batch["data"]
        assert batch["count"] == len(x)
        s.optimizer.zero_grad()
        s.criterion(s.model(x), batch["labels"]).backward()
        s.optimizer.step()


RUNS: dict[str, dict[str, Any]] = {
    "GradScaler": {"loop": loops.scaled},
    "gradient penalty": {"loop": loops.gradient_penalty},
    "penalty on the gradient of parameters": {"loop": loops.parameter_gradient_penalty},
    "SAM": {"loop": loops.sharpness_aware},
    "gradients by hand": {"loop": loops.gradients_by_hand},
    "checkpointing": {"model": checkpointed(use_reentrant=False)},
    "checkpointing, reentrant": {"model": checkpointed(use_reentrant=True)},
    "BatchEncoding": {"loop": encoding_loop, "collate": encoded},
    "list of strings": {"model": Letters, "dataset": Texts()},
    "tuple of lists": {"loop": stacking_loop, "collate": as_lists},
    "an object of one's own": {"loop": graph_loop, "collate": as_graph},
    "nested": {"loop": nested_loop, "collate": unevenly_collated},
    "time first": {"model": InPairs, "collate": time_major},
    "twice the batch inside": {"model": Siamese},
    "twice the batch from the loader": {"model": Views, "collate": two_views},
    "a constant first": {"model": OnGrid, "loop": grid_loop},
    "a constant first, from the loader": {
        "model": OnGrid,
        "loop": grid_in_batch_loop,
        "collate": with_grid,
    },
    "weights of size zero": {"model": EmptyWeights},
    "loss inside the module": {"model": WithLoss, "loop": inner_loss_loop},
}


@pytest.mark.parametrize("with_criterion", [False, True], ids=["plain", "criterion"])
@pytest.mark.parametrize("name", RUNS)
def test_auto_is_stream(name: str, with_criterion: bool) -> None:
    found = train("auto", **RUNS[name], with_criterion=with_criterion)
    expected = train("stream", **RUNS[name])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.manual_seed(1)
    start = torch.cat([p.detach().flatten() for p in RUNS[name].get("model", mlp)().parameters()])
    assert float((found - start).norm()) > 0.1
