"""The attacked model as an attack sees it: what it answers, every record of it counted, within a budget."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dpmi.models import FEATURES, Adaptation, IdentityLoss, observe
from dpmi.models.adaptation import Penalty

#: Public images that an adaptation is made with, at most.
ADAPTED_ON = 4096


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What an attack may spend; None is without limit.

    An attack that has spent it stops, and returns the best that it has found.

    Args:
        queries: records forwarded through the target, at most.
        grad_calls: records for which a gradient is taken through the target, at most.
        seconds: of wall clock; what is found in them depends on the machine.

    Raises:
        ValueError: a limit that is not above 0.

    >>> Budget(queries=0)
    Traceback (most recent call last):
    ValueError: queries must be at least 1; got 0
    """

    queries: int | None = None
    grad_calls: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Check every limit once."""
        for name in ("queries", "grad_calls"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1; got {limit!r}")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"seconds must be above 0; got {self.seconds!r}")


class LabelsOnly(nn.Module):
    """A classifier behind an interface that answers with the class and nothing else.

    An attack that asks it for more is refused.

    Args:
        model: maps images (n, C, H, W) to logits (n, K).
    """

    def __init__(self, model: nn.Module) -> None:
        """Hide the model."""
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the class as a one-hot float32 (n, K), without a gradient."""
        with torch.no_grad():
            logits: Tensor = self.model(images)
        return nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).float()


class Target:
    """A frozen classifier that counts what it is asked.

    Args:
        module: maps images (n, C, H, W) to logits (n, K); in evaluation mode, parameters frozen.
        loss: the identity loss of the attack that searches on it; None for one that takes no gradient.
        budget: what may be spent on it.
        reserve: queries of the budget that are kept for the end.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        loss: IdentityLoss | None = None,
        budget: Budget | None = None,
        reserve: int = 0,
    ) -> None:
        """Start counting at zero."""
        self._module = module
        self._loss = loss
        self._penalty: Penalty | None = None
        self._asks = 1
        self._features_of: nn.Module | None = None
        self._memory_format = torch.channels_last
        self._budget = budget or Budget()
        self._reserve = reserve
        self._started = time.monotonic()
        self.queries = 0
        self.grad_calls = 0
        self.stopped_by: str | None = None
        """The limit of the budget that the attack has met, by its name; None if it has met none."""

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next((p.device for p in self._module.parameters()), torch.device("cpu"))

    def affords(self, *, queries: int, grad_calls: int = 0) -> bool:
        """Whether so much more may be spent; an attack that may not stops."""
        spent = {
            "queries": (self.queries + self._asks * queries + self._reserve, self._budget.queries),
            "grad_calls": (self.grad_calls + self._asks * grad_calls, self._budget.grad_calls),
            "seconds": (time.monotonic() - self._started, self._budget.seconds),
        }
        for name, (amount, limit) in spent.items():
            if limit is not None and amount > limit:
                self.stopped_by = name
                return False
        return True

    def probe(self, image_shape: tuple[int, int, int], device: torch.device) -> Tensor:
        """Return the logits of two black images; 2 queries, or 4 if the module needs contiguous images.

        Convolutions and pooling are a fifth faster on channels_last images, but a module that reshapes with
        ``view`` refuses them. Which it is is found out here, once; the numbers are the same up to rounding.
        """
        black = torch.zeros(2, *image_shape, device=device)
        try:
            return self.logits(black)
        except RuntimeError:
            self._memory_format = torch.contiguous_format
            return self.logits(black)

    @contextmanager
    def adapted(
        self, adaptation: Adaptation | None, public: Tensor, *, features: bool = False
    ) -> Iterator[None]:
        """Answer as a model that an attacker who knows the defence has made of it, for as long as the block lasts.

        Args:
            adaptation: what that attacker does; None for an attacker who does not know it.
            public: (M, C, H, W); up to :data:`ADAPTED_ON` of them, evenly spread, are what it is made with.
            features: whether the attack looks at features. Those are the released model's, which is run for them once
                more where another answers.

        Raises:
            ValueError: the target answers with the class alone, or there are no public images to make it with.
        """
        if adaptation is None:
            yield
            return
        if isinstance(self._module, LabelsOnly):
            raise ValueError(
                f"adaptation {adaptation.name!r} needs the target's weights, and it answers with labels only"
            )
        if adaptation.learns and len(public) == 0:
            raise ValueError(f"adaptation {adaptation.name!r} needs public images, and there are none")
        own = self._module, self._loss, self._penalty, self._asks, self._features_of
        some = public[:: max(1, math.ceil(len(public) / ADAPTED_ON))].to(self.device)
        self.queries += len(some) * adaptation.learns
        if adaptation.penalty is not None:
            self._penalty = adaptation.penalty(self._module, some)
        if adaptation.stand_in is not None:
            self._features_of = self._module
            self._module = adaptation.stand_in(self._module, some).eval().requires_grad_(False)
        self._loss = adaptation.loss or self._loss
        self._asks = adaptation.asks + (features and self._features_of is not None)
        try:
            yield
        finally:
            self._module, self._loss, self._penalty, self._asks, self._features_of = own

    def logits(self, images: Tensor) -> Tensor:
        """Return logits (n, K) for images (n, C, H, W); n queries, and n gradient calls if a gradient is asked for.

        A gradient is asked for where the images need one: whoever calls it with such images takes it. An adapted target
        may be asked more than once for an answer.
        """
        self.queries += self._asks * len(images)
        if torch.is_grad_enabled() and images.requires_grad:
            self.grad_calls += self._asks * len(images)
        # `images.to` sees no difference where there is one channel, but the kernels look at the strides.
        arranged = torch.empty(
            images.shape, dtype=images.dtype, device=images.device, memory_format=self._memory_format
        )
        logits: Tensor = self._module(arranged.copy_(images))
        return logits

    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (n, K) and what the classification head gets, (n, d); costs what the logits cost.

        Raises:
            ValueError: the model has no linear layer to take for its head.
        """
        with observe(self._features_of or self._module, [FEATURES]) as found:
            logits = self.logits(images)
            if self._features_of is not None:
                self._features_of(images)
        return logits, found[FEATURES]

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the identity loss (n,) of logits (n, K): the attack's own, or what the adaptation has in its place."""
        assert self._loss is not None, "an attack that searches by gradients names its loss"
        return self._loss(logits, labels)

    def identity(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return what the search lowers (n,), small where images are taken for their labels; costs what logits cost."""
        return self.loss(self.logits(images), labels) + self._added(images)

    def identity_and_features(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return that, and what the classification head gets, (n, d), of one forward pass."""
        logits, features = self.logits_and_features(images)
        return self.loss(logits, labels) + self._added(images), features

    def _added(self, images: Tensor) -> Tensor | float:
        return 0.0 if self._penalty is None else self._penalty(images)

    def labels(self, images: Tensor) -> Tensor:
        """Return the class int64 (n,) that each image is given; n queries."""
        with torch.no_grad():
            return self.logits(images).argmax(dim=1)

    def confidence(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return p_y (n,), the softmax probability of each label (n,) in its image; n queries.

        Of a target that answers with the class alone it is 1 where the class is the label, and 0 elsewhere.
        """
        with torch.no_grad():
            logits = self.logits(images)
            if isinstance(self._module, LabelsOnly):
                return (logits.argmax(dim=1) == labels).float()
            return _pick(logits, labels)

    def identity_and_gradient(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the identity loss (n,), its gradient by the images (n, C, H, W), and p_y (n,).

        n queries, n gradient calls. The network treats the images one by one (evaluation mode), so one backward pass
        serves all of them.
        """
        images = images.detach().requires_grad_()
        logits = self.logits(images)
        losses = self.loss(logits, labels) + self._added(images)
        # Only the images' gradient: parameter gradients would cost a fifth more and be thrown away.
        (gradient,) = torch.autograd.grad(losses.sum(), images)
        return losses.detach(), gradient, _pick(logits.detach(), labels)

    def digest(self) -> bytes:
        """A hash of the architecture and of all weights and buffers."""
        found = hashlib.sha256(repr(self._module).encode())
        for name, value in self._module.state_dict().items():
            found.update(name.encode())
            found.update(value.detach().contiguous().cpu().numpy().tobytes())
        return found.digest()


def _pick(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.softmax(dim=1).gather(1, labels[:, None])[:, 0]
