"""The recorder of a white-box audit: it watches a run from inside, and adds up what every release tells."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from accountants import BucketMechanism

from ..finding import Check, Estimate, Finding
from ..gradients.bucket_gradients import BucketGradients
from ..partition import IntArray
from ..plan import Plan
from . import tails
from .aligned import Measured, expected
from .canaries import CanaryGradients, Coins
from .directions import Directions
from .draw_record import DrawRecord
from .noise_record import NoiseRecord
from .one_run import Scores

SLACK = 1e-3
"""Relative excess of a sum of contributions over its bound that rounding explains."""


class Recorder:
    """Watches one run; see :class:`~dpmi.privacy.observer.Observer`.

    Args:
        plan: the run's plan, with its canaries.
        trained: the parameters.
        confidence: of the lower bound.
        seed: of coins, directions and what is watched.

    >>> from dpmi.privacy import Partition
    >>> from dpmi.privacy.audit import Audit
    >>> model = nn.Linear(20, 4)
    >>> plan = Plan(
    ...     partition=Partition.by_class([0, 1, 2, 3]), canaries=4,
    ...     sampling_rate=0.5, noise_multiplier=2.0, max_grad_norm=1.0)
    >>> recorder = Audit(canaries=4, seed=0).observe(plan, list(model.parameters()), steps=2)
    >>> noise = [0.5 * torch.randn_like(p) for p in model.parameters()]  # sigma S / (q (K + canaries))
    >>> recorder.noised(noise)
    >>> recorder.released(np.array([0, 2]), noise)  # a step that drew two classes and no canary
    >>> recorder.finding(plan.mechanism, steps=1).checks[0]
    Check(name='released steps, of which each must be charged', claimed=1.0, found=1.0, p_value=1.0)
    """

    def __init__(self, plan: Plan, trained: list[nn.Parameter], *, confidence: float, seed: int) -> None:
        sizes = [p.numel() for p in trained]
        device = trained[0].device
        generator = np.random.default_rng(seed)
        self._plan = plan
        self._trained = trained
        self._confidence = confidence
        self._buckets = plan.partition.num_buckets
        self.coins = Coins.toss(plan.canaries, generator)
        self._directions = Directions(
            plan.canaries, sum(sizes), key=int(generator.integers(2**63)), device=device
        )
        self._noise = NoiseRecord(sizes, generator, device)
        self._draws = DrawRecord(self._buckets, self.coins)
        self._snapshot: Tensor | None = None
        # From released values to units of max_grad_norm.
        self._unit = plan.expected_buckets / plan.max_grad_norm
        self._rounding = max(torch.finfo(p.dtype).eps for p in trained)
        self._step = 0
        self._squares = self._contributions = 0.0
        self._pairs = 0
        self._link = np.zeros(2)  # sum of <release - noise, noise>, and of its variance
        self._largest = 0.0
        self._evidence = np.zeros(plan.canaries)

    def noised(self, noise: list[Tensor]) -> None:
        """Keep the noise of the step that begins."""
        self._snapshot = _flat(noise).mul_(self._unit)

    def gradients(self, drawn: IntArray) -> BucketGradients:
        """Return the gradients of the drawn canaries."""
        return CanaryGradients(
            self._directions,
            self.coins,
            self._step,
            drawn=drawn,
            max_grad_norm=self._plan.max_grad_norm,
            trained=self._trained,
        )

    @torch.no_grad()
    def released(self, drawn: IntArray, gradients: list[Tensor]) -> None:
        """Add up a release."""
        release = _flat(gradients).mul_(self._unit)
        noise = torch.zeros_like(release) if self._snapshot is None else self._snapshot  # none was drawn
        self._snapshot = None
        scores = self._directions.scores(self._step, release).cpu().numpy().astype(np.float64)
        squared = release @ release
        others = release.sub_(noise)
        whole, rest, product = torch.stack([squared, others @ others, others @ noise]).tolist()
        sigma = self._plan.noise_multiplier
        self._squares += max(0.0, whole - float((scores**2).sum()))
        self._link += product, rest * sigma**2
        canaries = drawn[drawn >= self._buckets] - self._buckets
        signs = self.coins.sign[canaries]
        self._contributions += float((signs * scores[canaries]).sum())
        self._pairs += int(np.count_nonzero(signs))
        # Canaries are orthogonal, so together they are as long as the root of their number.
        own = len(drawn) - len(canaries) + math.sqrt(np.count_nonzero(signs))
        excess = math.sqrt(rest) - self._rounding * (math.sqrt(whole) + len(noise) ** 0.5 * sigma)
        self._largest = max(self._largest, excess / own if own else excess / SLACK if excess > SLACK else 0.0)
        self._evidence += _evidence(scores, self._plan, self.coins)
        self._noise.add(noise)
        self._draws.add(drawn)
        self._step += 1

    def scores(self) -> dict[str, Scores]:
        """Return the canaries' scores under both adjacencies, for the bounds of :mod:`.one_run`.

        A score is the log-likelihood ratio of the canary's coin, given all releases, without the draws.
        """
        return {
            name: Scores.of(self._evidence[chosen], self.coins.heads[chosen])
            for name, chosen in (("add_remove", ~self.coins.replaced), ("replace", self.coins.replaced))
        }

    def finding(self, charged: BucketMechanism, *, steps: int) -> Finding | None:
        """Return the finding so far, against the mechanism and the number of steps that were charged."""
        if not self._step:
            return None
        plan, d = self._plan, self._directions.dimensions
        measured = Measured(
            steps=self._step,
            squares=self._squares,
            freedom=(d - plan.canaries) * self._step,
            contributions=self._contributions,
            pairs=self._pairs,
            draws=int(self._draws.of_canaries.sum()),
            chances=plan.canaries * self._step,
        )
        perfect = expected(
            canaries=plan.canaries,
            dimensions=d,
            sampling_rate=charged.sampling_rate,
            noise_multiplier=charged.noise_multiplier,
            steps=self._step,
        )
        return Finding(
            canaries=plan.canaries,
            confidence=self._confidence,
            claimed=Estimate(
                sampling_rate=charged.sampling_rate, noise_multiplier=charged.noise_multiplier, steps=steps
            ),
            at_least=measured.estimate(self._confidence),
            ceiling=perfect.estimate(self._confidence),
            checks=(
                *self._checks(charged.noise_multiplier, steps),
                *self._noise.checks(charged.noise_multiplier),
                *self._draws.checks(charged.sampling_rate),
            ),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the secrets and everything that was added up."""
        return {
            "sign": torch.from_numpy(self.coins.sign.copy()),
            "key": str(self._directions.key),
            "noise": self._noise.state_dict(),
            "draws": self._draws.state_dict(),
            "evidence": torch.from_numpy(self._evidence.copy()),
            "numbers": [
                self._step,
                self._pairs,
                self._squares,
                self._contributions,
                *self._link.tolist(),
                self._largest,
            ],
        }

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Continue after the steps of :meth:`state_dict`, with its secrets."""
        self.coins.sign[:] = state["sign"].numpy()
        self._directions = self._directions.with_key(int(state["key"]))
        self._noise.load_state_dict(state["noise"])
        self._draws.load_state_dict(state["draws"])
        self._evidence = state["evidence"].numpy().copy()
        self._step, self._pairs, self._squares, self._contributions, *link, self._largest = state["numbers"]
        self._link = np.array(link)

    def _checks(self, sigma: float, charged: int) -> list[Check]:
        product, variance = self._link
        z = product / math.sqrt(variance) if variance > 0 else 0.0
        mean = self._contributions / self._pairs if self._pairs else 1.0
        deviation = (mean - 1.0) * math.sqrt(self._pairs) / sigma
        return [
            Check(
                name="released steps, of which each must be charged",
                claimed=float(charged),
                found=float(self._step),
                p_value=1.0 if self._step <= charged else 0.0,
            ),
            Check(
                name="correlation of the rest of a release with its noise, in standard deviations",
                claimed=0.0,
                found=z,
                p_value=tails.normal(z),
            ),
            Check(
                name="largest released sum of contributions, relative to its bound",
                claimed=1.0,
                found=self._largest,
                p_value=1.0 if self._largest <= 1 + SLACK else 0.0,
            ),
            Check(
                name="mean contribution of a drawn canary, in units of max_grad_norm",
                claimed=1.0,
                found=mean,
                p_value=tails.normal(deviation),
            ),
        ]


def _evidence(scores: np.ndarray[Any, np.dtype[np.float64]], plan: Plan, coins: Coins) -> Any:
    """Return the log-likelihood ratio of heads against tails for every canary, by one release, (m,)."""
    q, variance = plan.rate, plan.noise_multiplier**2
    up = _mixture(q, (2 * scores - 1) / (2 * variance))
    down = _mixture(q, (-2 * scores - 1) / (2 * variance))
    return np.where(coins.replaced, up - down, up)


def _mixture(q: float, exponent: Any) -> Any:
    """Return log(1 - q + q exp(exponent))."""
    return np.logaddexp(np.log1p(-q) if q < 1 else -np.inf, math.log(q) + exponent)


def _flat(tensors: list[Tensor]) -> Tensor:
    """Return a copy of all values in the order of the parameters, (d,) float32."""
    device = tensors[0].device
    return torch.cat([t.detach().reshape(-1).to(device, torch.float32) for t in tensors])
