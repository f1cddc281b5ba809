"""One user replaced: how far does what the engine releases move?

A case is a user's code: a module, a criterion, a loop. It runs twice, on data that differ in one user (content, number
of records, labels), without noise and with every user drawn at every step. The parameters are set back after every
released step (which is post-processing), so that each step of the two runs starts at the same place, and what the
parameters moved by, times K, is the clipped sum. The promise for one replaced user is a difference of at most 2 S.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dpmi.privacy import Partition, PrivacyEngine

from .users import USERS, Kind, largest_user, users

PROMISE = 2 * (1 + 1e-5)
"""In units of S; the rest is rounding."""

EPOCHS, STEPS_PER_EPOCH = 2, 1
MAX_GRAD_NORM = 0.5
"""About the norm of a user's gradient, so that scale and direction both count."""

UNNOISED = 1e-4
"""Most by which a buffer or a frozen parameter may differ: what no noise covers must not depend on the records. Power
iterations of spectral_norm converge to this."""

MODES: dict[str, tuple[str, bool]] = {
    "auto": ("auto", False),
    "stream": ("stream", False),
    "auto+criterion": ("auto", True),
    "hooks+criterion": ("hooks", True),
    "ghost+criterion": ("ghost", True),
}
"""grad_sample_mode, and whether make_private is given the criterion."""

Expectation = Literal["shares", "runs", "refused", "either", "outside"]
"""shares: runs, with several users in one physical batch. either: runs or is refused. outside: the loop itself carries
values from one batch to the next, which the stated assumption excludes."""


@dataclass
class Session:
    """What a user's loop works with; ``old_*`` are the objects from before ``make_private``."""

    model: nn.Module
    optimizer: Any
    criterion: Callable[..., Any]
    loader: Any
    old_model: nn.Module
    old_optimizer: SGD
    old_loader: Any
    epochs: int = EPOCHS


Loop = Callable[[Session], None]


def plain_loop(s: Session) -> None:
    for _ in range(s.epochs):
        for x, y in s.loader:
            s.optimizer.zero_grad()
            s.criterion(s.model(x), y).backward()
            s.optimizer.step()


@dataclass(frozen=True)
class Case:
    """A user's code, and whether the engine has to run it.

    Args:
        name: unique.
        model: makes the module.
        criterion: makes the criterion.
        loop: the user's loop.
        data: which records.
        alone: expectation where one bucket is computed at a time ("auto" and "stream" without a criterion).
        auto: expectation of "auto" with a criterion.
        shared: expectation of "hooks" and "ghost" with a criterion.
        exact: every mode that runs gives the sums of "stream".
        options: of make_private.
    """

    name: str
    model: Callable[[], nn.Module]
    criterion: Callable[[], Callable[..., Any]] = nn.CrossEntropyLoss
    loop: Loop = plain_loop
    data: Kind = "vectors"
    alone: Expectation = "runs"
    auto: Expectation = "shares"
    shared: Expectation = "shares"
    exact: bool = True
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def max_grad_norm(self) -> float:
        """S."""
        return float(self.options.get("max_grad_norm", MAX_GRAD_NORM))

    def expectation(self, mode: str) -> Expectation:
        if not MODES[mode][1]:
            return self.alone
        return self.auto if mode.startswith("auto") else self.shared


@dataclass
class Run:
    """What was released: K times the update of every step, (n,), and what is not trained after it."""

    sums: list[Tensor]
    fixed: list[Tensor]
    left: Tensor
    """K times what moved the trained parameters besides released steps, (n,)."""
    refusal: Exception | None
    largest_batch: int
    billed: int


@dataclass
class Outcome:
    """Two runs that differ in one user."""

    first: Run
    other: Run
    max_grad_norm: float

    @property
    def runs(self) -> tuple[Run, Run]:
        return self.first, self.other

    @property
    def refusal(self) -> Exception | None:
        return self.first.refusal or self.other.refusal

    @property
    def moved(self) -> float:
        """Largest difference of what was released, in units of S."""
        pairs = [*zip(self.first.sums, self.other.sums, strict=False), (self.first.left, self.other.left)]
        worst = max(float((a - b).norm()) for a, b in pairs) / self.max_grad_norm
        for a, b in zip(self.first.fixed, self.other.fixed, strict=False):
            if not torch.allclose(a, b, atol=UNNOISED, rtol=UNNOISED):
                return math.inf
        return worst if math.isfinite(worst) else math.inf


class _Watched:
    """The loader, and how many records its batches had, dry runs aside."""

    def __init__(self, loader: Any, optimizer: Any) -> None:
        self.loader, self.optimizer, self.largest = loader, optimizer, 0

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            if not self.optimizer.rehearsing:
                first = next(leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))
                self.largest = max(self.largest, len(first))
            yield batch


def run(case: Case, mode: str, *, replaced: bool) -> Run:
    """Train with one user as it is, or replaced."""
    model, old, loader, partition = _before(case, replaced=replaced)
    grad_sample_mode, takes_criterion = MODES[mode]
    trained = [p for p in model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in trained]
    sums: list[Tensor] = []
    fixed: list[Tensor] = []

    def moved() -> Tensor:
        return torch.cat([(p.detach() - s).flatten() for p, s in zip(trained, start, strict=True)]) * USERS

    def released(*_: object) -> None:
        if not bool((update := moved()).any()):
            return  # a step without gradients, which releases nothing
        sums.append(update)
        others = [p for p in model.parameters() if not p.requires_grad] + list(model.buffers())
        fixed.append(torch.cat([torch.zeros(1), *(o.detach().flatten().float() for o in others)]))
        with torch.no_grad():
            for p, s in zip(trained, start, strict=True):
                p.copy_(s)
        _seed(
            len(sums)
        )  # the replaced user draws more random numbers than it did; its successors must not see it

    old.register_step_post_hook(released)
    engine, watched, refusal = PrivacyEngine(), None, None
    criterion = case.criterion()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # noise_multiplier = 0 warns, and is what is wanted here
        try:
            private = engine.make_private(
                module=model,
                optimizer=old,
                data_loader=loader,
                partition=partition,
                **{
                    "sampling_rate": 1.0,
                    "noise_multiplier": 0.0,
                    "max_grad_norm": case.max_grad_norm,
                    "steps_per_epoch": STEPS_PER_EPOCH,
                    "grad_sample_mode": grad_sample_mode,
                    "seed": 0,
                    **({"criterion": criterion} if takes_criterion else {}),
                    **case.options,
                },
            )
            criterion = private[2] if takes_criterion else criterion
            watched = _Watched(private[-1], private[1])
            case.loop(Session(private[0], private[1], criterion, watched, model, old, loader))
        except (ValueError, TypeError, RuntimeError, AssertionError) as error:  # the last one is GradScaler's
            if "unexpected keyword" in str(error):
                raise
            refusal = error
    return Run(sums, fixed, moved(), refusal, watched.largest if watched else 0, engine.ledger.steps)


def run_without_privacy(case: Case) -> None:
    """The same code on plain torch: whatever the private run raises, the engine raises."""
    model, optimizer, loader, _ = _before(case, replaced=False)
    case.loop(Session(model, optimizer, case.criterion(), loader, model, optimizer, loader, epochs=1))


def outcome(case: Case, mode: str) -> Outcome:
    return Outcome(run(case, mode, replaced=False), run(case, mode, replaced=True), case.max_grad_norm)


def has_shared(found: Run) -> bool:
    """Whether some physical batch held several users."""
    return found.largest_batch > largest_user()


def _before(case: Case, *, replaced: bool) -> tuple[nn.Module, SGD, DataLoader[Any], Partition]:
    _seed(1)
    model = case.model()
    records = users(case.data, replaced=replaced)
    dataset: Dataset[Any] = TensorDataset(
        torch.cat([x for x, _ in records]), torch.cat([y for _, y in records])
    )
    ids = np.concatenate([np.full(len(x), i) for i, (x, _) in enumerate(records)])
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    return model, optimizer, DataLoader(dataset, batch_size=7), Partition.by_column(ids)


def _seed(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - users' code draws from it
