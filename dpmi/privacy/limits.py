"""What a run may release at most: a target, a privacy filter, or the part of one run in a search."""

from __future__ import annotations

from dataclasses import dataclass

from accountants import BucketMechanism, Ledger, PrivacyFilter
from accountants.mechanism import Mechanism, poisson

from .partition import Partition
from .samplers import POISSON
from .settings import Settings


@dataclass(frozen=True, kw_only=True)
class OneRun:
    """The most that one run of a search may release.

    Args:
        step: every step has at most its sampling rate and at least its noise multiplier.
        steps: most steps of the run.
        partition: the buckets of every run.
    """

    step: BucketMechanism
    steps: int
    partition: Partition

    def check(self, ledger: Ledger) -> None:
        """Raise RuntimeError if the steps cost more, the last of which is not released yet.

        Less noise and a larger sampling rate cost more: noise can be added afterwards, and a run at a smaller rate is
        one at the larger rate that leaves out some of the drawn buckets.
        """
        for charged in ledger.totals:
            step = poisson(charged, "a search")
            if (
                step.sampling_rate > self.step.sampling_rate
                or step.noise_multiplier < self.step.noise_multiplier
            ):
                raise RuntimeError(
                    f"this search was planned for runs of at most {self.step}, but a run takes a step of {step}, which "
                    "costs more; it released nothing of it. Plan the search for the most expensive run"
                )
        if ledger.steps > self.steps:
            raise RuntimeError(
                f"this search was planned for runs of at most {self.steps} steps, which were taken; this step released "
                "nothing. End every run there, or plan the search for more steps"
            )


class Limits:
    """The limits of one engine. A step beyond one of them raises an error before anything of it is released.

    Args:
        privacy_filter: a limit on all training runs of the engine.
        one_run: the limit of the run, if the engine is one of a search.

    Attributes:
        most_steps: number of steps that the target of ``make_private_with_epsilon`` allows.
        ended: whether no further step may be released.
    """

    def __init__(self, *, privacy_filter: PrivacyFilter | None = None, one_run: OneRun | None = None) -> None:
        self.privacy_filter = privacy_filter
        self.one_run = one_run
        self.most_steps: int | None = None
        self.ended = False

    def check_target(self, target_epsilon: float | None) -> None:
        """Raise ValueError if the engine cannot enforce a target epsilon besides its limits."""
        if self.privacy_filter is not None:
            raise ValueError(
                f"target_epsilon is {target_epsilon}, but this engine's filter has a target of its own; use "
                "make_private, and PrivacyFilter.steps_left for the number of steps"
            )

    def check(self, settings: Settings, noise_multiplier: float) -> None:
        """Raise ValueError if a training run with these settings must not begin."""
        if self.most_steps is not None:
            raise ValueError(
                f"noise_multiplier is {noise_multiplier}, but this engine enforces the target of "
                "make_private_with_epsilon, which does not cover further steps; use a new engine, and compose the "
                "accounts with dpmi.privacy.combine"
            )
        if (self.privacy_filter is not None or self.one_run is not None) and settings.sampling != POISSON:
            raise ValueError(
                f"sampling is {settings.sampling}, but privacy filters and searches account for Poisson draws; leave "
                "sampling out"
            )
        owned, limit = settings.partition.buckets_per_unit, self.privacy_filter
        if limit is not None and limit.buckets_per_unit != owned:
            raise ValueError(
                f"this engine's filter is for units of buckets_per_unit = {limit.buckets_per_unit}, and those of the "
                f"partition own up to {owned}; make the filter with buckets_per_unit={owned}"
            )
        if self.one_run is None:
            return
        if settings.partition.hash != self.one_run.partition.hash:
            raise ValueError(
                f"partition is {settings.partition}, but this search was planned for {self.one_run.partition}; use "
                "that one in every run"
            )
        if settings.audit is not None:
            raise ValueError(
                "audit is given, but a search releases nothing of the runs that were not chosen, and a finding would; "
                "audit a run outside of a search"
            )

    def charged(self, ledger: Ledger, step: Mechanism) -> Ledger:
        """Return the ledger with a step that is about to be released; raise RuntimeError if it must not be."""
        if self.ended:
            raise RuntimeError(
                "this run of a search has ended, and the search accounts for nothing after it; this step released "
                "nothing"
            )
        longer = ledger.record(step)
        if self.most_steps is not None and ledger.steps >= self.most_steps:
            raise RuntimeError(
                f"all {self.most_steps} steps that target_epsilon allows were taken; this step released nothing. "
                "End the training here, or calibrate for more steps"
            )
        if self.one_run is not None:
            self.one_run.check(longer)
        limit = self.privacy_filter
        if limit is not None and not limit.allows(ledger, step):
            raise RuntimeError(
                f"another step of {step} would exceed the target of this engine's filter, epsilon = "
                f"{limit.target_epsilon:g} at delta = {limit.delta:g}; this step released nothing. End the training "
                "here, or take steps that cost less: PrivacyFilter.steps_left says how many"
            )
        return longer
