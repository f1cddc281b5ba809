"""The attacked model as an attack sees it: every query is counted and charged to a budget."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dpmi.data import Images
from dpmi.models import FEATURES, Adaptation, IdentityLoss, device_of, observe
from dpmi.models.adaptation import Penalty

#: Maximum number of public images from which an adaptation is computed.
ADAPTED_ON = 4096


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The limits on an attack's use of the target; None means no limit.

    An attack that has spent its budget stops and returns its best images so far.

    Args:
        queries: maximum number of records forwarded through the target.
        grad_calls: maximum number of records for which a gradient is taken through the target.
        seconds: maximum wall-clock time; the result then depends on the machine.

    Raises:
        ValueError: a limit is not above 0.

    >>> Budget(queries=0)
    Traceback (most recent call last):
    ValueError: queries must be at least 1; got 0
    """

    queries: int | None = None
    grad_calls: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("queries", "grad_calls"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1; got {limit!r}")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"seconds must be above 0; got {self.seconds!r}")


class LabelsOnly(nn.Module):
    """A classifier behind an interface that returns only the predicted class.

    An attack that needs more than labels refuses to run on it.

    Args:
        model: maps images (n, C, H, W) to logits (n, K).

    >>> from dpmi import attacks, models
    >>> hidden = LabelsOnly(models.build("softmax", image_shape=(1, 8, 8), num_classes=3, seed=0))
    >>> hidden(torch.zeros(2, 1, 8, 8)).sum(1)  # one-hot rows, whatever the confidence
    tensor([1., 1.])
    >>> try:
    ...     attacks.MIFace().run(hidden, torch.arange(3), image_shape=(1, 8, 8), generator=torch.Generator())
    ... except ValueError as error:
    ...     print(str(error).partition(";")[0])
    miface needs white_grad of the target, but the target returns labels only
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the predicted class as a one-hot float32 (n, K), without a gradient."""
        with torch.no_grad():
            logits: Tensor = self.model(images)
        return nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).float()


class Target:
    """A frozen classifier that counts its queries and gradient calls.

    Args:
        module: maps images (n, C, H, W) to logits (n, K); in evaluation mode, parameters frozen.
        loss: the identity loss of the attack; None for an attack that takes no gradient.
        budget: limits on queries, gradient calls and time.
        reserve: number of queries of the budget that are kept for the final scores.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval().requires_grad_(False)
    >>> target = Target(model, budget=Budget(queries=10))
    >>> target.confidence(torch.rand(4, 1, 8, 8), torch.tensor([0, 0, 1, 2])).shape, target.queries
    (torch.Size([4]), 4)
    >>> target.affords(queries=6), target.affords(queries=7), target.stopped_by
    (True, False, 'queries')
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        loss: IdentityLoss | None = None,
        budget: Budget | None = None,
        reserve: int = 0,
    ) -> None:
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
        """The name of the budget's limit that the attack reached; None if it reached none."""

    @property
    def device(self) -> torch.device:
        """The device of its parameters."""
        return device_of(self._module)

    @property
    def labels_only(self) -> bool:
        """Whether it returns predicted classes and no confidence."""
        return isinstance(self._module, LabelsOnly)

    def affords(self, *, queries: int, grad_calls: int = 0) -> bool:
        """Whether the budget covers this further use; if not, the attack must stop."""
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

    def affordable(self, images: int, *, queries: int = 1, grad_calls: int = 0) -> int:
        """Return how many images the budget covers: all, or the largest of a half, a quarter, ... of them; 0 if none.

        Args:
            images: at least 1.
            queries, grad_calls: use of the target for each image.
        """
        while images and not self.affords(queries=queries * images, grad_calls=grad_calls * images):
            images //= 2
        return images

    def probe(self, image_shape: tuple[int, int, int], device: torch.device) -> Tensor:
        """Return the logits of two black images; 2 queries, or 4 if the module needs contiguous images.

        Convolutions and pooling are a fifth faster on channels_last images, but a module that reshapes with ``view``
        fails on them. This method selects the memory format for all later queries. The logits of both formats are
        equal up to rounding.
        """
        black = torch.zeros(2, *image_shape, device=device)
        try:
            return self.logits(black)
        except RuntimeError:
            self._memory_format = torch.contiguous_format
            return self.logits(black)

    @contextmanager
    def adapted(
        self, adaptation: Adaptation | None, public: Images, *, features: bool = False
    ) -> Iterator[None]:
        """Replace the target by the model of an adaptive attack inside the block.

        Args:
            adaptation: the adaptive attack against the target's defence; None changes nothing.
            public: (M, C, H, W); the adaptation is computed from at most :data:`ADAPTED_ON` of them, evenly spaced.
            features: whether the attack reads features. Features always come from the released model; if another model
                computes the logits, the released model is run once more for the features.

        Raises:
            ValueError: the target returns labels only, or the adaptation needs public images and there are none.
        """
        if adaptation is None:
            yield
            return
        if self.labels_only:
            raise ValueError(
                f"adaptation {adaptation.name!r} needs the target's weights, but the target returns labels only"
            )
        if adaptation.learns and len(public) == 0:
            raise ValueError(f"adaptation {adaptation.name!r} needs public images, but there are none")
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
        """Return logits (n, K) for images (n, C, H, W).

        It costs n queries, and n gradient calls if the images require a gradient. An adapted target may need several
        queries for each image.
        """
        self.queries += self._asks * len(images)
        if torch.is_grad_enabled() and images.requires_grad:
            self.grad_calls += self._asks * len(images)
        # With one channel `images.to` would not change the strides, which select the kernel.
        arranged = torch.empty(
            images.shape, dtype=images.dtype, device=images.device, memory_format=self._memory_format
        )
        logits: Tensor = self._module(arranged.copy_(images))
        return logits

    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (n, K) and the input of the classification head (n, d), at the cost of :meth:`logits`.

        Raises:
            ValueError: the model has no linear layer that could be its head.
        """
        with observe(self._features_of or self._module, [FEATURES]) as found:
            logits = self.logits(images)
            if self._features_of is not None:
                self._features_of(images)
        return logits, found[FEATURES]

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the identity loss (n,) of logits (n, K): that of the adaptation if it has one, else the attack's."""
        assert self._loss is not None, "an attack that takes gradients must declare its loss"
        return self._loss(logits, labels)

    def identity(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the objective of the search (n,): the identity loss plus the penalty of an adaptation.

        It is small for images that the target assigns to their labels. The cost is that of :meth:`logits`.
        """
        return self.loss(self.logits(images), labels) + self._added(images)

    def identity_and_features(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return :meth:`identity` and the input of the classification head (n, d) from one forward pass."""
        logits, features = self.logits_and_features(images)
        return self.loss(logits, labels) + self._added(images), features

    def _added(self, images: Tensor) -> Tensor | float:
        return 0.0 if self._penalty is None else self._penalty(images)

    def labels(self, images: Tensor) -> Tensor:
        """Return the predicted class int64 (n,) of each image; n queries."""
        with torch.no_grad():
            return self.logits(images).argmax(dim=1)

    def confidence(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the confidence p_y (n,), the softmax probability of each label (n,) for its image; n queries.

        For a target that returns labels only, it is 1 if the predicted class is the label, and 0 otherwise.
        """
        with torch.no_grad():
            logits = self.logits(images)
            if self.labels_only:
                return (logits.argmax(dim=1) == labels).float()
            return _pick(logits, labels)

    def identity_and_gradient(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return :meth:`identity` (n,), its gradient by the images (n, C, H, W), and p_y (n,).

        n queries, n gradient calls. In evaluation mode the images are independent, so one backward pass gives the
        gradients of all of them.
        """
        images = images.detach().requires_grad_()
        logits = self.logits(images)
        losses = self.loss(logits, labels) + self._added(images)
        # Only the images' gradient: parameter gradients are not needed and would cost a fifth more.
        (gradient,) = torch.autograd.grad(losses.sum(), images)
        return losses.detach(), gradient, _pick(logits.detach(), labels)

    def summed_gradients(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the gradient of :meth:`identity` by the image, summed over all images, for each label.

        All labels share one forward pass: n queries, R * n gradient calls.

        Args:
            images: (n, C, H, W).
            labels: int64 (R,).

        Returns:
            float64 (R, C, H, W).
        """
        images = images.detach().requires_grad_()
        logits = self.logits(images)
        self.grad_calls += self._asks * (len(labels) - 1) * len(images)
        added = self._added(images)
        sums = torch.zeros(len(labels), *images.shape[1:], dtype=torch.float64, device=images.device)
        for row, label in enumerate(labels):
            losses = self.loss(logits, label.expand(len(images))) + added
            (gradient,) = torch.autograd.grad(losses.sum(), images, retain_graph=row + 1 < len(labels))
            sums[row] = gradient.sum(dim=0, dtype=torch.float64)
        return sums

    def digest(self) -> bytes:
        """Return a hash of the architecture and of all weights and buffers."""
        found = hashlib.sha256(repr(self._module).encode())
        for name, value in self._module.state_dict().items():
            found.update(name.encode())
            found.update(value.detach().contiguous().cpu().numpy().tobytes())
        return found.digest()


def _pick(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.softmax(dim=1).gather(1, labels[:, None])[:, 0]
