"""What a finished or running training owes: its ledger, its buckets, and the statement made from them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from accountants import Adjacency, Guarantee, Ledger

from .partition import Provenance

SEEDED = (
    "not private as it stands: noise and sampling came from a user's seed, and whoever knows the seed can "
    "remove them; the epsilon is that of the same run with secret randomness"
)
CONDITIONAL = (
    "conditional on the partition: the buckets were fitted on the private records, so one can move others"
)


@dataclass(frozen=True, kw_only=True)
class Account:
    """The facts that a privacy statement rests on (accounting.md section 7).

    Args:
        ledger: every released step.
        unit: what one bucket is.
        buckets: K, public.
        provenance: what the partition was computed from.
        partition_hash: SHA-256 of the partition.
        max_grad_norm: S, the clipping norm.
        seeded: noise and sampling came from a user's seed.
    """

    ledger: Ledger
    unit: str
    buckets: int
    provenance: Provenance
    partition_hash: str
    max_grad_norm: float
    seeded: bool

    def guarantee(
        self, delta: float, *, adjacency: Adjacency = "replace", accountant: str = "tight"
    ) -> Guarantee:
        """(epsilon, delta) for one bucket, with what it is conditional on among its caveats.

        Args:
            delta: in (0, 1), and well below 1 / K.
            adjacency: "replace" or "add_remove".
            accountant: a name in ``accountants.ACCOUNTANTS``.
        """
        result = self.ledger.guarantee(
            delta=delta, unit=self.unit, adjacency=adjacency, accountant=accountant, buckets=self.buckets
        )
        caveats = ((CONDITIONAL,) if self.provenance.conditional else ()) + ((SEEDED,) if self.seeded else ())
        return dataclasses.replace(
            result,
            is_guarantee=result.is_guarantee and not self.seeded,
            caveats=caveats + result.caveats,
        )

    def statement(self, delta: float) -> str:
        """The privacy statement, in Markdown: what is promised, for what, and what is not accounted."""
        headline = self.guarantee(delta)
        beside = self.guarantee(delta, adjacency="add_remove")
        lines = [f"- {text}" for text in headline.caveats]
        lines += [
            f"- {headline}",
            f"- {beside}",
            "- Steps billed: "
            + "; ".join(
                f"{steps} with sampling rate {m.sampling_rate:g} and noise multiplier {m.noise_multiplier:g}"
                for m, steps in self.ledger.runs
            ),
            f"- Every {self.unit} was drawn as a whole by Poisson sampling; its mean gradient was clipped to norm "
            f"{self.max_grad_norm:g}; empty draws were stepped and billed",
            f"- Public: the number of buckets ({self.buckets}), the divisor, and every hyper-parameter",
            f"- Partition: {self.provenance.value}; SHA-256 {self.partition_hash[:16]}",
            "- Not accounted: choosing hyper-parameters by looking at results on the private records",
        ]
        return "\n".join(lines)
