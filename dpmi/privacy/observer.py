"""What an audit sees of a run, and what it adds: the contract between the optimizer and :mod:`dpmi.privacy.audit`."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Protocol

from torch import Tensor, nn

from accountants import BucketMechanism

from .finding import Finding
from .gradients.bucket_gradients import BucketGradients
from .partition import IntArray
from .plan import Plan


class Observer(Protocol):
    """Watches one run, and computes the gradients of its canaries."""

    def noised(self, noise: list[Tensor]) -> None:
        """See the noise of a logical step before anything is added to it, one tensor per parameter."""

    def gradients(self, drawn: IntArray) -> BucketGradients:
        """Return the unclipped gradients of the drawn canaries, numbered from 0, (k,)."""

    def released(self, drawn: IntArray, gradients: list[Tensor]) -> None:
        """See a released noisy gradient, one tensor per parameter, and the ids of all drawn buckets and canaries."""

    def finding(self, charged: BucketMechanism, *, steps: int) -> Finding | None:
        """Return what was found so far, when the ledger has charged ``steps`` steps; None before the first release."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore the state."""


class Auditor(Protocol):
    """The settings of an audit."""

    @property
    def canaries(self) -> int:
        """Number of canary buckets that join the partition."""

    def observe(self, plan: Plan, trained: list[nn.Parameter], *, steps: int) -> Observer:
        """Start to watch a run whose passes have ``steps`` logical steps.

        Raises:
            ValueError: the model is too small, or the plan has no noise.
        """


AMBIENT: ContextVar[Auditor | None] = ContextVar("AMBIENT", default=None)
"""The audit of every ``make_private`` in this context that is given none."""
