"""The contract of observers: what the optimizer tells one, in which order, and that the default is none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpmi.privacy.gradients.bucket_gradients import Rows
from dpmi.privacy.observer import AMBIENT
from dpmi.privacy.partition import IntArray
from dpmi.privacy.plan import Plan

from .test_engine import step, wrap


class Witness:
    """Two canaries that do nothing; it writes down what it is told."""

    canaries = 2

    def __init__(self) -> None:
        self.told: list[str] = []
        self.drawn: list[int] = []
        self.rest: list[float] = []
        self._noise = torch.zeros(0)

    def observe(self, plan: Plan, trained: list[nn.Parameter], *, steps: int) -> Witness:
        self.told.append(f"observe {plan.canaries} {len(trained)} {steps}")
        self._trained = trained
        return self

    def noised(self, noise: list[Tensor]) -> None:
        self.told.append("noised")
        self._noise = torch.cat([part.flatten() for part in noise])

    def gradients(self, drawn: IntArray) -> Rows:
        self.told.append("gradients")
        return Rows([torch.zeros(len(drawn), *p.shape) for p in self._trained])

    def released(self, drawn: IntArray, gradients: list[Tensor]) -> None:
        self.told.append("released")
        self.drawn.append(len(drawn))
        self.rest.append(float((torch.cat([part.flatten() for part in gradients]) - self._noise).norm()))

    def finding(self, charged: Any, *, steps: int) -> None:
        self.told.append(f"finding {charged.sampling_rate} {steps}")

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        del state_dict


def test_an_observer_sees_the_noise_then_gives_canaries_then_sees_the_release() -> None:
    witness = Witness()
    engine, module, optimizer, loader = wrap(audit=witness, sampling_rate=1.0, steps_per_epoch=2)
    for x, y in loader:
        step(module, optimizer, x, y)
    assert witness.told == ["observe 2 2 2", *2 * ["noised", "gradients", "released"]]
    assert witness.drawn == [5, 5]  # three classes and the canaries
    assert engine.plan.expected_buckets == 5
    assert all(0 < rest <= 3 / 5 + 1e-5 for rest in witness.rest)  # the clipped sum alone is left
    assert engine.account.findings == ()
    assert witness.told[-1] == "finding 1.0 2"


def test_a_context_gives_an_audit_to_calls_without_one() -> None:
    witness, own = Witness(), Witness()
    before = AMBIENT.set(witness)
    try:
        assert wrap()[0].plan.canaries == 2
        wrap(audit=own)
    finally:
        AMBIENT.reset(before)
    assert wrap()[0].plan.canaries == 0
    assert len(witness.told) == len(own.told) == 1
