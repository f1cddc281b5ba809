"""Criteria: whatever they do with the records of one user, they see those of that user only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .harness import Case, Session
from .separate import Around, Tied, mlp, words_criterion
from .users import CLASSES, FEATURES, PADDING, VOCABULARY

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
    """Pulls outputs towards those of the call before."""

    def __init__(self) -> None:
        super().__init__()
        self.bank: list[Tensor] = []

    def forward(self, out: Tensor, y: Tensor) -> Tensor:
        before = self.bank[-1] if self.bank else torch.zeros(CLASSES)
        self.bank.append(out.detach().mean(0))
        return F.cross_entropy(out, y) + 2 * (out - before).square().mean()


class Averaging(nn.Module):
    """Divides by a running mean of itself, a Python number."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = 1.0

    def forward(self, out: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(out, y)
        self.mean = 0.5 * self.mean + 0.5 * loss.item()
        return loss / self.mean


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
SCALE = {name: {"max_grad_norm": 1.5} for name in LONGER}
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


def on_loss(change: Callable[[Tensor], Tensor]) -> Callable[[Session], None]:
    """What the loop does with the scalar."""

    def loop(s: Session) -> None:
        for _ in range(s.epochs):
            for x, y in s.loader:
                s.optimizer.zero_grad()
                change(s.criterion(s.model(x), y)).backward()
                s.optimizer.step()

    return loop


def on_batch(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Callable[[Session], None]:
    """What the loop does with outputs and targets before the criterion."""

    def loop(s: Session) -> None:
        for _ in range(s.epochs):
            for x, y in s.loader:
                s.optimizer.zero_grad()
                s.criterion(*change(s.model(x), y)).backward()
                s.optimizer.step()

    return loop


def outside_the_criterion(extra: Callable[[Tensor], Tensor]) -> Callable[[Session], None]:
    def loop(s: Session) -> None:
        for _ in range(s.epochs):
            for x, y in s.loader:
                s.optimizer.zero_grad()
                out = s.model(x)
                (s.criterion(out, y) + extra(out)).backward()
                s.optimizer.step()

    return loop


def running_mean(s: Session) -> None:
    """Carries a number from batch to batch by itself."""
    mean = 1.0
    for _ in range(s.epochs):
        for x, y in s.loader:
            s.optimizer.zero_grad()
            loss = s.criterion(s.model(x), y)
            mean = 0.5 * mean + 0.5 * loss.item()
            (loss / mean).backward()
            s.optimizer.step()


def penalty_on_parameters(s: Session) -> None:
    for _ in range(s.epochs):
        for x, y in s.loader:
            s.optimizer.zero_grad()
            loss = s.criterion(s.model(x), y)
            (loss + 0.01 * sum(p.square().sum() for p in s.model.parameters())).backward()
            s.optimizer.step()


def distillation(s: Session) -> None:
    torch.manual_seed(9)
    teacher = nn.Linear(FEATURES, CLASSES)
    for _ in range(s.epochs):
        for x, _ in s.loader:
            with torch.no_grad():
                soft = teacher(x).softmax(1)
            s.optimizer.zero_grad()
            s.criterion(s.model(x), soft).backward()
            s.optimizer.step()


def activation_by_hook(s: Session) -> None:
    """A loss on what a hook took out of the forward pass, beside the criterion."""
    seen: list[Tensor] = []
    handle = s.old_model.first.register_forward_hook(lambda _, __, out: seen.append(out))  # type: ignore[union-attr, operator]
    for _ in range(s.epochs):
        for x, y in s.loader:
            seen.clear()
            s.optimizer.zero_grad()
            loss = s.criterion(s.model(x), y)
            (loss + 3 * seen[-1].mean(0).square().sum()).backward()
            s.optimizer.step()
    handle.remove()


def activation_by_attribute(s: Session) -> None:
    for _ in range(s.epochs):
        for x, y in s.loader:
            s.optimizer.zero_grad()
            loss = s.criterion(s.model(x), y)
            (loss + 3 * s.old_model.features.mean(0).square().sum()).backward()  # type: ignore[union-attr, operator]
            s.optimizer.step()


def keeps(m: Any, h: Tensor) -> Tensor:
    m.features = h
    return h


def couples(name: str, loop: Callable[[Session], None], **options: Any) -> Case:
    """What the loop does would mix users who share a batch."""
    return Case(name, mlp, loop=loop, auto="either", shared="either", exact=False, options=options)


CASES = [
    *(Case(f"loss: {name}", mlp, criterion) for name, criterion in TORCH.items()),
    *(
        Case(f"loss: {name}", mlp, plain(criterion), options=SCALE.get(name, {}))
        for name, criterion in WITHIN.items()
    ),
    Case("loss: sum", mlp, lambda: nn.CrossEntropyLoss(reduction="sum"), options={"loss_reduction": "sum"}),
    Case("loss: closure over constants", mlp, over_constants),
    Case("loss: token mean", Tied, plain(token_mean), data="tokens", options={"max_grad_norm": 4.0}),
    Case("loss: all tokens", Tied, words_criterion, data="tokens", options={"max_grad_norm": 4.0}),
    Case(
        "loss: ctc",
        Tied,
        plain(ctc),
        data="tokens",
    ),
    Case(
        "loss: flattened by the loop",
        Tied,
        nn.CrossEntropyLoss,
        on_batch(lambda out, y: (out.reshape(-1, VOCABULARY), y.reshape(-1))),
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
        "loss: remembers a number",
        mlp,
        Averaging,
        alone="outside",
        auto="outside",
        shared="outside",
        exact=False,
    ),
    Case(
        "loop: running mean of the loss",
        mlp,
        loop=running_mean,
        alone="outside",
        auto="either",
        shared="either",
        exact=False,
    ),
    Case("loop: constant factor", mlp, loop=on_loss(lambda loss: loss / 4)),
    couples("loop: loss ** 2", on_loss(lambda loss: loss**2), max_grad_norm=1.5),
    couples("loop: loss.log()", on_loss(lambda loss: loss.add(1).log()), max_grad_norm=1.5),
    couples("loop: loss * loss.detach()", on_loss(lambda loss: loss * loss.detach()), max_grad_norm=1.5),
    couples(
        "loop: loss over loss.item()", on_loss(lambda loss: loss / (0.1 + loss.item())), max_grad_norm=1.5
    ),
    couples("loop: floor of the loss", on_loss(lambda loss: (loss - 1).abs() + 1)),
    couples("loop: rolled outputs", on_batch(lambda out, y: (out + 3 * out.roll(1, 0), y))),
    couples("loop: centred outputs", on_batch(lambda out, y: (out - out.mean(0), y))),
    couples(
        "loop: scaled outputs",
        on_batch(lambda out, y: (out / (0.1 + out.detach().abs().max()), y)),
        max_grad_norm=1.5,
    ),
    couples("loop: flipped targets", on_batch(lambda out, y: (out, y.flip(0)))),
    couples("loop: shuffled targets", on_batch(lambda out, y: (out, y[torch.randperm(len(y))]))),
    couples("loop: rare records dropped", on_batch(lambda out, y: (out[y < 3], y[y < 3]))),
    couples(
        "loop: penalty on the mean output", outside_the_criterion(lambda out: 3 * out.mean(0).square().sum())
    ),
    couples("loop: penalty on parameters", penalty_on_parameters),
    couples("loop: distillation", distillation),
    Case(
        "loop: activation by a hook",
        Around,
        loop=activation_by_hook,
        auto="either",
        shared="either",
        exact=False,
    ),
    Case(
        "loop: activation by an attribute",
        lambda: Around(keeps),
        loop=activation_by_attribute,
        alone="either",
        auto="either",
        shared="either",
        exact=False,
    ),
]
