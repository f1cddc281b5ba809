"""Criteria: whatever they do with the records of one user, they see those of that user only."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .harness import Case
from .separate import Language, mlp, words_criterion
from .users import CLASSES, PADDING, VOCABULARY

Criterion = Callable[..., Tensor]
RARE = torch.tensor([1.0, 12.0, 80.0])
"""Weights of the three classes."""


def one_hot(y: Tensor) -> Tensor:
    return F.one_hot(y, CLASSES).float()


def supervised_contrastive(out: Tensor, y: Tensor) -> Tensor:
    z = F.normalize(out, dim=1)
    similar = (z @ z.T / 0.5).exp() * (1 - torch.eye(len(z)))
    positive = (similar * (y[:, None] == y)).sum(1)
    return -((positive + 1e-3) / (similar.sum(1) + 1e-2)).log().mean()


def info_nce(out: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(out @ out.T, torch.arange(len(y))) + F.cross_entropy(out, y)


def triplets(out: Tensor, y: Tensor) -> Tensor:
    apart = torch.cdist(out, out) + torch.eye(len(out))
    same = y[:, None] == y
    return (apart * same).amax(1).sub((apart + 10 * same).amin(1)).add(1).relu().mean() + out.square().mean()


def focal(out: Tensor, y: Tensor) -> Tensor:
    losses = F.cross_entropy(out, y, reduction="none")
    return ((1 - (-losses).exp()) ** 2 * losses).mean()


def shuffled_targets(out: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(out, y[y.argsort(descending=True)])


def ctc(out: Tensor, y: Tensor) -> Tensor:
    n = len(y)
    logs = out.log_softmax(2).transpose(0, 1)
    return F.ctc_loss(logs, y[:, :1].clamp(1), torch.full((n,), logs.shape[0]), torch.full((n,), 1))


def token_mean(out: Tensor, y: Tensor) -> Tensor:
    """As Hugging Face's causal models compute it."""
    return F.cross_entropy(out.reshape(-1, VOCABULARY), y.reshape(-1), ignore_index=PADDING)


class Storing(nn.Module):
    """Keeps its last outputs, for a metric that nobody asks for."""

    def forward(self, out: Tensor, y: Tensor) -> Tensor:
        self.last = out.detach()
        return F.cross_entropy(out, y)


class Remembering(nn.Module):
    """Compares outputs with those of all calls before."""

    def __init__(self) -> None:
        super().__init__()
        self.bank: list[Tensor] = []

    def forward(self, out: Tensor, y: Tensor) -> Tensor:
        before = torch.stack(self.bank).mean(0) if self.bank else torch.zeros(CLASSES)
        self.bank.append(out.detach().mean(0))
        return F.cross_entropy(out - 5 * before, y)


def remembering_outside() -> Criterion:
    """The same in a closure, which nobody can look into."""
    bank: list[Tensor] = []

    def criterion(out: Tensor, y: Tensor) -> Tensor:
        before = torch.stack(bank).mean(0) if bank else torch.zeros(CLASSES)
        bank.append(out.detach().mean(0))
        return F.cross_entropy(out - 5 * before, y)

    return criterion


class Scaling(nn.Module):
    """Divides by the largest value of itself so far, a Python number."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 1.0

    def forward(self, out: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(out, y)
        self.largest = max(self.largest, loss.item())
        return loss / self.largest


def over_constants() -> Criterion:
    """A closure over class prototypes."""
    prototypes = torch.randn(CLASSES, CLASSES, generator=torch.Generator().manual_seed(5))
    return lambda out, y: F.cross_entropy(out, y) + (out - prototypes[y]).square().mean()


def plain(criterion: Criterion) -> Callable[[], Criterion]:
    return lambda: criterion


WITHIN: dict[str, Criterion] = {
    "supervised contrastive": supervised_contrastive,
    "info nce": info_nce,
    "triplets": triplets,
    "square": lambda out, y: F.cross_entropy(out, y) ** 2,
    "logarithm": lambda out, y: (1 + F.cross_entropy(out, y)).log(),
    "times itself": lambda out, y: F.cross_entropy(out, y) * F.cross_entropy(out, y).detach(),
    "penalty on the mean output": lambda out, y: F.cross_entropy(out, y) + 3 * out.mean(0).square().sum(),
    "rolled outputs": lambda out, y: F.cross_entropy(out + 3 * out.roll(1, 0), y),
    "flipped targets": lambda out, y: F.cross_entropy(out, y.flip(0)),
    "sorted targets": shuffled_targets,
    "times len(y)": lambda out, y: F.cross_entropy(out, y) * len(y),
    "over std().item()": lambda out, y: F.cross_entropy(out, y) / (0.1 + out.std(unbiased=False).item()),
    "temperature of the batch": lambda out, y: F.cross_entropy(out / (0.1 + out.std(unbiased=False)), y),
    "hardest record": lambda out, y: F.cross_entropy(out, y, reduction="none").max(),
    "focal": focal,
    "binary": lambda out, y: F.binary_cross_entropy_with_logits(out, one_hot(y), pos_weight=RARE),
    "squared error": lambda out, y: F.mse_loss(out, one_hot(y)),
    "negative log likelihood": lambda out, y: F.nll_loss(out.log_softmax(1), y, weight=RARE),
    "one value per record": lambda out, y: F.cross_entropy(out, y, reduction="none").mean(),
}

LONGER = (
    "square",
    "logarithm",
    "times itself",
    "times len(y)",
    "over std().item()",
    "temperature of the batch",
)
SCALE = {name: {"max_grad_norm": 6.0 if name in ("square", "times itself") else 1.5} for name in LONGER}
"""S is above the norm of a user's gradient, so that its scale counts."""

TORCH: dict[str, Callable[[], Criterion]] = {
    "cross entropy": nn.CrossEntropyLoss,
    "class weights": lambda: nn.CrossEntropyLoss(weight=RARE),
    "label smoothing": lambda: nn.CrossEntropyLoss(label_smoothing=0.2),
    "class weights and smoothing": lambda: nn.CrossEntropyLoss(weight=RARE, label_smoothing=0.2),
    "ignored class": lambda: nn.CrossEntropyLoss(ignore_index=1),
    "multi margin": lambda: nn.MultiMarginLoss(weight=RARE),
    "functional": lambda: F.cross_entropy,
}


CASES = [
    *(Case(f"loss: {name}", mlp, criterion) for name, criterion in TORCH.items()),
    *(
        Case(f"loss: {name}", mlp, plain(criterion), options=SCALE.get(name, {}))
        for name, criterion in WITHIN.items()
    ),
    Case("loss: sum", mlp, lambda: nn.CrossEntropyLoss(reduction="sum"), options={"loss_reduction": "sum"}),
    Case("loss: closure over constants", mlp, over_constants),
    Case("loss: token mean", Language, plain(token_mean), data="tokens", options={"max_grad_norm": 1.0}),
    Case("loss: all tokens", Language, words_criterion, data="tokens", options={"max_grad_norm": 1.0}),
    Case(
        "loss: ctc",
        Language,
        plain(ctc),
        data="tokens",
    ),
    Case("loss: stores outputs", mlp, Storing, auto="runs", shared="either"),
    Case(
        "loss: remembers outputs",
        mlp,
        Remembering,
        alone="outside",
        auto="either",
        shared="either",
        exact=False,
    ),
    Case(
        "loss: remembers outputs in a closure",
        mlp,
        remembering_outside,
        alone="outside",
        auto="refused",
        shared="refused",
        exact=False,
    ),
    Case(
        "loss: remembers a number",
        mlp,
        Scaling,
        alone="outside",
        auto="refused",
        shared="refused",
        exact=False,
    ),
]
