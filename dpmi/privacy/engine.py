"""The privacy engine: it wraps module, optimizer and loader, keeps the ledger, and states the guarantee."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from opacus.optimizers.utils import params
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from typing_extensions import Unpack

from accountants import (
    Adjacency,
    BucketMechanism,
    Guarantee,
    Ledger,
    PrivacyFilter,
    Tries,
    checks,
)
from accountants.mechanism import poisson, steps_of
from accountants.recommender import Recommendation

from . import checkpoint
from .account import Account
from .checkpoint import Stateful, Training
from .clipping import AdaptiveClipping, Clipping
from .criterion.wrapped import BucketCriterion
from .distributed import Ranks
from .finding import Finding
from .from_opacus import WithoutOpacusMethods, takes_opacus_arguments
from .grad_sample import BucketGradSampleModule
from .gradients.strategy import GradSampleMode
from .limits import Limits, OneRun
from .loader import BucketDataLoader
from .noise import NoiseMode, NoiseSource
from .observer import Auditor, Observer
from .optimizer import BucketOptimizer
from .partition import Partition
from .physical_limit import OF_A_HEAD, OF_A_MODEL, PhysicalBatchSize, PhysicalLimit
from .plan import Plan
from .samplers import POISSON, Sampling
from .sampling import BucketSampler
from .search import Best, Candidate, Result, Search
from .settings import Options, Settings
from .sharded import Sharding, is_sharded, layout
from .statement import Statement
from .target import planned


class PrivacyEngine(WithoutOpacusMethods):
    """Trains with differential privacy for whole buckets, and accounts for every step that was released.

    Args:
        privacy_filter: a limit on everything that this engine releases. Later calls of :meth:`make_private` may then
            choose noise, sampling rate and length by looking at what was released before; without a filter, they must
            be chosen before the first step. A step that would exceed the target raises an error, and is not released.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> x, y = torch.randn(40, 3), torch.arange(40) % 4
        >>> model = torch.nn.Linear(3, 4)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> engine = PrivacyEngine()
        >>> model, optimizer, criterion, loader = engine.make_private(
        ...     module=model, optimizer=optimizer, criterion=torch.nn.CrossEntropyLoss(),
        ...     data_loader=DataLoader(TensorDataset(x, y), batch_size=8), partition=Partition.by_class(y),
        ...     sampling_rate=0.5, noise_multiplier=2.0, max_grad_norm=1.0)
        >>> for inputs, labels in loader:
        ...     optimizer.zero_grad()
        ...     criterion(model(inputs), labels).backward()
        ...     optimizer.step()
        >>> engine.guarantee(delta=1e-3).unit
        'class'
    """

    @takes_opacus_arguments
    def __init__(self, *, privacy_filter: PrivacyFilter | None = None) -> None:
        self._ledger = Ledger()
        self._limits = Limits(privacy_filter=privacy_filter)
        self._search: Search[PrivacyEngine] | None = None
        self._max_grad_norms: tuple[float, ...] = ()
        self._noise = NoiseMode.SECURE  # replaced by the weakest mode of all runs
        self._training: Training | None = None
        self._optimizers: list[BucketOptimizer] = []  # of every make_private

    @property
    def ledger(self) -> Ledger:
        """Every logical step charged so far; after a search, those that one run may have taken.

        :attr:`account` also says how many buckets a unit owns.
        """
        return self._ledger if self._search is None else self.account.ledger

    @property
    def is_private(self) -> bool:
        """Whether ``make_private`` was called, so that there is an account."""
        return self._training is not None

    @property
    def plan(self) -> Plan:
        """The plan of the last ``make_private``.

        Raises:
            RuntimeError: ``make_private`` was not called yet.
        """
        return self._trained().plan

    @property
    def account(self) -> Account:
        """The charged steps and the facts of the partition: all that a privacy statement needs.

        Save ``engine.account.to_json()``; ``dpmi statement`` makes statements from such files. Of a search that was
        interrupted, it covers every run.
        """
        if self._search is not None:
            return self._search.account
        partition = self.plan.partition
        return Account(
            ledger=self._ledger,
            unit=partition.unit,
            buckets=partition.num_buckets,
            provenance=partition.provenance,
            partition_hash=partition.hash,
            buckets_per_unit=partition.buckets_per_unit,
            max_grad_norms=self._max_grad_norms,
            noise=self._noise,
            adaptive=any(isinstance(o.plan.clipping, AdaptiveClipping) for o in self._optimizers),
            rule=self._limits.privacy_filter,
            findings=tuple(
                found for optimizer in self._optimizers if (found := self._finding_of(optimizer)) is not None
            ),
        )

    @property
    def observer(self) -> Observer:
        """The audit of the last ``make_private``; a :class:`dpmi.privacy.audit.Recorder` has the canaries' scores.

        Raises:
            RuntimeError: ``make_private`` was not called with ``audit``, or this rank adds no noise and sees no audit.
        """
        observer = self._trained().optimizer.observer
        if observer is None:
            raise RuntimeError(
                "this run has no audit on this process: pass audit=Audit() to make_private before training (a finished "
                "run cannot be audited), and ask the rank that adds the noise, which is rank 0"
            )
        return observer

    def finding(self) -> Finding:
        """Return what the audit of the last ``make_private`` has found so far.

        Raises:
            RuntimeError: there is no :attr:`observer`, or nothing was released.
        """
        _ = self.observer
        found = self._finding_of(self._trained().optimizer)
        if found is None:
            raise RuntimeError("nothing was released yet, so the audit has found nothing: train first")
        return found

    def statement(
        self, delta: float, *, not_accounted: Sequence[str] = (), public_parts: Sequence[str] = ()
    ) -> Statement:
        """Return the privacy statement of everything released so far.

        Args:
            delta: in (0, 1), and well below 1 / K.
            not_accounted: further uses of the private records that no epsilon covers, one text each.
            public_parts: parts of the released model that no private record trained, and where they come from.

        Raises:
            ValueError: delta is out of range, or a list of texts is one string or holds an empty one.
            RuntimeError: ``make_private`` was not called yet.
        """
        return Statement(
            accounts=(self.account,), delta=delta, not_accounted=not_accounted, public_parts=public_parts
        )

    @takes_opacus_arguments
    def make_private(
        self,
        *,
        module: nn.Module,
        optimizer: Optimizer,
        data_loader: DataLoader[Any],
        partition: Partition,
        noise_multiplier: float,
        max_grad_norm: float,
        sampling_rate: float | None = None,
        sampling: Sampling = POISSON,
        criterion: Callable[..., Any] | None = None,
        clipping: Clipping = "flat",
        max_records_per_bucket: int | None = None,
        views: int = 1,
        loss_reduction: str = "mean",
        max_physical_batch_size: PhysicalBatchSize = OF_A_MODEL,
        steps_per_epoch: int | None = None,
        grad_sample_mode: GradSampleMode = "auto",
        secure_mode: bool = False,
        seed: int | None = None,
        audit: Auditor | None = None,
    ) -> tuple[Any, ...]:
        """Make module, optimizer and loader private; the training loop stays as it is.

        Several calls on one engine are charged to one ledger, as a hyper-parameter search on the same partition needs.

        In a process group of torch.distributed (initialised before, for example in a script started by ``torchrun``),
        all ranks make the same call, each with the whole data set, and train one model. They start from rank 0's model,
        draw the same buckets, process a share of them each, and sum the results with one noise. Pass the plain module,
        not DistributedDataParallel, or one of ``fully_shard``, which is then made whole (docs/sharded.md). See
        docs/distributed.md.

        Args:
            module: any module without statistics of the data (no BatchNorm).
            optimizer: over parameters of ``module``; momentum and weight decay are post-processing.
            data_loader: provides the data set, the collate function and the workers; ``sampling`` replaces its batch
                size and shuffling.
            partition: record -> bucket, as long as the data set.
            noise_multiplier: sigma >= 0, noise standard deviation / max_grad_norm; 0 gives epsilon = inf.
            max_grad_norm: S > 0, the norm that a bucket's mean gradient is clipped to.
            sampling_rate: q in (0, 1], the probability of drawing one bucket at a logical step; only where ``sampling``
                has a rate, as the default has.
            sampling: how buckets are drawn: :class:`dpmi.privacy.PoissonSampling`, each with probability q;
                :class:`dpmi.privacy.FixedNumberSampling`, the same number in every step;
                :class:`dpmi.privacy.TruncatedPoissonSampling`, with a largest number; or
                :class:`dpmi.privacy.BallsInBinsSampling`, each once in a pass. Divisor and charge follow.
            criterion: the loss, of outputs and targets: an nn.Module such as nn.CrossEntropyLoss(), or any function
                that returns a scalar or one value per record. It is returned wrapped; the wrapper computes the loss of
                every bucket from that bucket's outputs and targets alone. Without a criterion, the model processes one
                bucket at a time.
            clipping: "flat" shortens gradients that are longer than S to S. "automatic" gives every gradient about
                the length S, so that only the product of S and the learning rate matters.
                :class:`dpmi.privacy.AdaptiveClipping` starts at S and follows a quantile of the norms, and
                :class:`dpmi.privacy.GroupClipping` divides S among the optimizer's param groups. The guarantee is the
                same.
            max_records_per_bucket: a step uses at most this many records of each drawn bucket, a different slice every
                step; None uses all. The guarantee is unchanged. For a class of 6,000 records, the mean gradient of 128
                is close to that of all, in a fiftieth of the time.
            views: how often each of these records occurs in a step, one after the other; augment them at random in the
                data set, the collate function or the loop, so that the copies differ. A bucket's gradient is the mean
                over all views, so the guarantee is unchanged (augmentation multiplicity: S. De, L. Berrada, J. Hayes,
                S. L. Smith, B. Balle, arXiv:2204.13650, 2022).
            loss_reduction: "mean" or "sum", how the loss combines the records of a batch.
            max_physical_batch_size: most records in one physical batch of this process; it affects memory, time and
                rounding, not the result. "auto" finds it: on a GPU from the free memory and what the dry runs and
                every larger batch have used, on a CPU the fastest, from the size of a record's tensors. If memory does
                not suffice for a batch, its logical step is dropped, uncharged; the limit is halved, and the next loop
                over the loader is the rest of the pass, with the same draw.
            steps_per_epoch: logical steps in one pass over the loader; by default 1 / q, rounded, so that every bucket
                is drawn once per pass in expectation. A :class:`dpmi.privacy.BallsInBinsSampling` has its own.
            grad_sample_mode: how bucket gradients are computed; the results are equal up to rounding. "stream"
                processes one bucket after another, with any module and any loss. "hooks" and "ghost" process several
                buckets at a time, which suits small buckets, and need ``criterion``: "hooks" stores one row of
                gradients per bucket, "ghost" only their norms. "auto" chooses by device, bucket sizes, parameters
                and the compute per record; without ``criterion`` it is "stream".
                With several buckets at a time, the first pass starts with two dry runs of the loop on copies of one
                record; nothing of them is released. They verify that no call of module and loop mixes the records of a
                batch. If one does, "auto" processes one bucket at a time for the whole run and logs the reason (logger
                "dpmi"), and the other modes raise. A later batch that differs from the dry runs is an error.
            secure_mode: draw noise and samples from a cryptographically secure generator, keyed by the operating
                system, and protect the noise against floating-point attacks as Opacus does; the noise takes five times
                as long.
            seed: seed of noise and sampling; None seeds both from the operating system. A seeded run can be repeated,
                so it gives no guarantee.
            audit: :class:`dpmi.privacy.audit.Audit` watches the run with canary buckets; :meth:`finding` then says
                which epsilon it has at least. The canaries join the sampling and the divisor qK.

        Returns:
            The wrapped module, optimizer and loader; with a criterion the wrapped module, optimizer, criterion and
            loader, in Opacus's order.

        Raises:
            ValueError, TypeError: an argument is out of range, the ranks disagree, or no guarantee would hold for the
                module, optimizer or loader; the message says why and what to do instead.
            RuntimeError: another rank is lost.
        """
        settings = Settings(
            module=module,
            optimizer=optimizer,
            data_loader=data_loader,
            partition=partition,
            sampling_rate=sampling_rate,
            sampling=sampling,
            max_grad_norm=max_grad_norm,
            criterion=criterion,
            clipping=clipping,
            max_records_per_bucket=max_records_per_bucket,
            views=views,
            loss_reduction=loss_reduction,
            max_physical_batch_size=max_physical_batch_size,
            steps_per_epoch=steps_per_epoch,
            grad_sample_mode=grad_sample_mode,
            secure_mode=secure_mode,
            seed=seed,
            audit=audit,
        )
        return self._make_private(settings, noise_multiplier)

    @takes_opacus_arguments
    def make_private_with_epsilon(
        self,
        *,
        partition: Partition,
        sampling_rate: float | None = None,
        steps: int | None = None,
        epochs: int | None = None,
        max_grad_norm: float | None = None,
        target_epsilon: float | None = None,
        target_delta: float | None = None,
        adjacency: Adjacency = "replace",
        recommended: Recommendation | None = None,
        **options: Unpack[Options],
    ) -> tuple[Any, ...]:
        """Make private with the least noise whose epsilon after ``steps`` steps does not exceed the target.

        :func:`accountants.calibrate` computes the noise, with the tight accountant; for other draws than Poisson's,
        :func:`accountants.least_noise` does. The target is also enforced: a step after the last one raises an error
        before anything of it is released.

        Args:
            partition: record -> bucket, as long as the data set.
            sampling_rate: q in (0, 1], the probability of drawing one bucket at a logical step; only where ``sampling``
                in ``options`` has a rate, as the default has.
            steps: logical steps T >= 1 of the whole training; one pass over the loader takes
                ``steps_per_epoch``.
            epochs: passes over the loader, at least 1, instead of ``steps``.
            max_grad_norm: S > 0, as for :meth:`make_private`.
            target_epsilon: above 0, for one unit of ``partition``.
            target_delta: in (0, 1), and well below 1 / K.
            adjacency: "replace" or "add_remove", of the target.
            recommended: the result of :func:`accountants.recommend`, instead of the arguments between
                ``partition`` and ``adjacency``; one pass over the loader is then the whole training, in physical
                batches of :data:`OF_A_HEAD` records. Give the optimizer, plain SGD, its ``learning_rate``.
            options: every other argument of :meth:`make_private`: ``module``, ``optimizer``, ``data_loader``, and those
                with a default, such as ``criterion``.

        Returns:
            The same as :meth:`make_private`; ``optimizer.noise_multiplier`` is the calibrated noise.

        Raises:
            ValueError, TypeError: as :meth:`make_private` and :func:`accountants.calibrate` do, or this engine
                was used before.
        """
        self._limits.check_target(target_epsilon)
        if self._training is not None:
            raise ValueError(
                f"target_epsilon is {target_epsilon}, which covers one training from its start, but this engine was "
                f"used before and has charged {self._ledger.steps} steps; use a new engine, and compose the accounts "
                "with dpmi.privacy.combine"
            )
        plan = planned(
            partition,
            options.get("sampling", POISSON),
            sampling_rate=sampling_rate,
            steps=steps,
            epochs=epochs,
            steps_per_epoch=options.get("steps_per_epoch"),
            max_grad_norm=max_grad_norm,
            target_epsilon=target_epsilon,
            target_delta=target_delta,
            adjacency=adjacency,
            recommended=recommended,
        )
        if recommended is not None:
            options.setdefault("steps_per_epoch", plan.steps)
            options.setdefault("max_physical_batch_size", OF_A_HEAD)
        settings = Settings(
            partition=partition, sampling_rate=plan.sampling_rate, max_grad_norm=plan.max_grad_norm, **options
        )
        private = self._make_private(settings, plan.noise_multiplier)
        self._limits.most_steps = plan.steps
        return private

    def search(
        self,
        train: Callable[[PrivacyEngine, Candidate], Result],
        score: Callable[[Result], float],
        *,
        candidates: Sequence[Candidate],
        partition: Partition,
        sampling_rate: float,
        noise_multiplier: float,
        steps: int,
        tries: Tries,
        secure_mode: bool = False,
        seed: int | None = None,
    ) -> Best[Candidate, Result]:
        """Train a random number of models with random hyper-parameters, and return the best one.

        :mod:`dpmi.privacy.search` has an example.

        The account of this engine is then that of the best run, which costs about two or three runs, however many were
        tried. It holds if nothing but that run is released: not how many runs there were, nor how long they took, nor
        what the others gave. If the search is interrupted, the account covers all of them.

        Args:
            train: trains one model. It gets a new engine, whose ``make_private`` it has to call, and a candidate.
            score: how good what ``train`` returned is; larger is better. It must not look at the private records; use
                public ones, or records that nothing promises to protect.
            candidates: hyper-parameters, at least one; every run draws one of them, with equal probability.
            partition: record -> bucket, in every run.
            sampling_rate, noise_multiplier, steps: of the most expensive run. A run with a larger rate, less noise or
                more steps raises an error before it releases them.
            tries: the distribution of the number of runs, such as ``Tries(mean=10)``; it is public.
            secure_mode: draw that number and the candidates from a cryptographically secure generator.
            seed: seed of these draws; with a seed, the search gives no guarantee.

        Raises:
            ValueError, TypeError: an argument is out of range, ``train`` did not use its engine, or this engine was
                used before.
            RuntimeError: a run went beyond the most expensive one.
        """
        if self._training is not None or self._search is not None or self._limits.privacy_filter:
            raise ValueError(
                "this engine was used before, or has a filter, and a search needs a new one: "
                "PrivacyEngine().search(...)"
            )
        search = Search(
            self._of_a_search,
            partition=partition,
            step=BucketMechanism(sampling_rate=sampling_rate, noise_multiplier=noise_multiplier),
            steps=checks.integer("steps", steps, minimum=1),
            tries=tries,
            source=NoiseSource.of(seed, secure=secure_mode, device=torch.device("cpu")),
        )
        self._search = search
        return search.run(train, score, candidates)

    def guarantee(
        self, delta: float, *, adjacency: Adjacency = "replace", accountant: str = "tight"
    ) -> Guarantee:
        """Return the (epsilon, delta) of everything released so far, for one unit of the partition.

        Args:
            delta: in (0, 1), and well below 1 / K.
            adjacency: "replace" one unit by another ([Z20] Definitions 4-7), or "add_remove" one.
            accountant: a name in ``accountants.ACCOUNTANTS``; "tight" if a unit owns several buckets.

        Raises:
            ValueError: as :meth:`Account.guarantee` does.
            RuntimeError: nothing was released yet.
        """
        account = self.account
        if not account.ledger.steps:
            raise RuntimeError(
                "nothing was released, so there is no guarantee to state: train with the module, the optimizer and the "
                "loader that make_private returned. Training with any others is not private"
            )
        return account.guarantee(delta, adjacency=adjacency, accountant=accountant)

    @takes_opacus_arguments
    def save_checkpoint(self, path: str | Path, **others: Stateful) -> None:
        """Write one file with the state of the last ``make_private``'s training and its privacy account.

        The file holds parameters, optimizer, account, plan, and the states of the draws, of the noise and of torch's
        global generator. A run that is killed and resumed from its last checkpoint equals the uninterrupted run bit for
        bit on the same machine, with the same charged steps; in secure mode, noise and draws are new. The size of
        physical batches is no part of it, so with ``max_physical_batch_size="auto"`` on a GPU, or after one that did
        not fit, a resumed run is the same up to rounding. Keep the file as
        secret as the records, because it holds the state of the noise generator. If two trainings resume from one
        checkpoint, publish only one of them: they have the same noise, which cancels in the difference.

        With several ranks, only the rank that adds the noise writes; the others return at once. All ranks load it.

        Args:
            path: the file; it is replaced only when the whole checkpoint is on the disk.
            others: further objects with ``state_dict`` and ``load_state_dict``, such as a scheduler, by name.

        Raises:
            RuntimeError: a logical step is incomplete; save when ``optimizer.released`` is True.
        """
        training = self._trained()
        self._check_not_sharded()
        if training.optimizer.ranks.adds_noise:
            checkpoint.save(
                path, training, account=self.account, most_steps=self._limits.most_steps, others=others
            )

    @takes_opacus_arguments
    def load_checkpoint(self, path: str | Path, **others: Stateful) -> None:
        """Resume from a checkpoint of :meth:`save_checkpoint`; call ``make_private`` with the same arguments before.

        The next pass over the loader is the rest of the interrupted one.

        Args:
            path: the checkpoint; pickled code in it is not run.
            others: the objects that were saved with it, by the same names.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, or belongs to another plan, partition or model (the message names the
                difference), or this engine has already charged steps. Nothing is changed.
        """
        training = self._trained()
        self._check_not_sharded()
        if self._ledger.steps:
            raise ValueError(
                f"this engine has charged {self._ledger.steps} steps, which would be lost; load {path} into a new "
                "engine, after make_private"
            )
        loaded = checkpoint.load(path, training, rule=self._limits.privacy_filter, others=others)
        self._ledger = loaded.account.ledger
        self._max_grad_norms = loaded.account.max_grad_norms
        self._noise = self._noise.weaker(loaded.account.noise)
        self._limits.most_steps = loaded.most_steps

    def _make_private(self, settings: Settings, noise_multiplier: float) -> tuple[Any, ...]:
        partition, plan = settings.partition, settings.plan(noise_multiplier)
        if self._search is not None:
            raise ValueError(
                "this engine has run a search, which is all that it accounts for; use a new engine"
            )
        self._limits.check(settings, noise_multiplier)
        if self._training is not None and self.plan.partition.hash != partition.hash:
            raise ValueError(
                f"partition is {partition}, but this engine already accounts for {self.plan.partition}; steps on "
                "two partitions do not compose to one epsilon. Use a separate engine for each partition"
            )
        settings.check()

        device = next(settings.module.parameters()).device
        ranks = Ranks.current(device)
        sharded = is_sharded(settings.module)
        source = NoiseSource.of(
            settings.seed, secure=settings.secure_mode, device=device, stream=ranks.rank if sharded else 0
        )
        limit = PhysicalLimit.of(settings.max_physical_batch_size, device)
        choice = settings.choice(plan, limit)
        ranks.compare(layout(settings.module))
        sharding = Sharding(settings.module) if sharded else None
        private_module = BucketGradSampleModule(
            settings.module,
            strategy=choice.strategy,
            loss_reduction=settings.loss_reduction,
            all_records=len(partition),
        )
        steps = settings.steps_of_a_pass(plan)
        private_optimizer = BucketOptimizer(
            settings.optimizer,
            module=private_module,
            plan=plan,
            source=source,
            bill=lambda: self._bill(plan),
            limit=limit,
            ranks=ranks,
            sharding=sharding,
            observer=settings.audit.observe(plan, params(settings.optimizer), steps=steps)
            if settings.audit is not None and ranks.adds_noise
            else None,
        )
        sampler = BucketSampler(
            plan,
            steps=steps,
            limit=limit,
            source=source,
            ranks=ranks,
        )
        loader = BucketDataLoader(
            settings.data_loader,
            sampler=sampler,
            optimizer=private_optimizer,
            choice=choice,
            ranks=ranks,
        )
        ranks.agree(
            settings.module,
            private_module.trained,
            partition=partition.hash,
            sampling_rate=plan.sampling_rate,
            sampling=str(plan.sampling),
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.max_grad_norm,
            clipping=str(plan.clipping),
            max_records_per_bucket=plan.max_records_per_bucket,
            views=plan.views,
            canaries=plan.canaries,
            loss_reduction=settings.loss_reduction,
            steps_per_epoch=sampler.steps,
            device=device.type,
            grad_sample_mode=choice.strategy if choice.max_buckets > 1 else "stream",
            noise=source.mode.name,
            seed=settings.seed,
            billed_steps=self._ledger.steps,
            privacy_filter=str(self._limits.privacy_filter),
        )
        private_optimizer.claim.take()
        self._training = Training(
            plan=plan, module=private_module, optimizer=private_optimizer, loader=loader
        )
        self._optimizers.append(private_optimizer)
        self._max_grad_norms += (plan.max_grad_norm,)
        self._noise = self._noise.weaker(source.mode)
        if settings.criterion is None:
            return private_module, private_optimizer, loader
        return private_module, private_optimizer, BucketCriterion(settings.criterion, private_module), loader

    def end(self) -> None:
        """Refuse every further step."""
        self._limits.ended = True

    @classmethod
    def _of_a_search(cls, limit: OneRun) -> PrivacyEngine:
        engine = cls()
        engine._limits = Limits(one_run=limit)
        return engine

    def _trained(self) -> Training:
        if self._training is None:
            raise RuntimeError(
                "make_private was not called yet, so there is no plan and no account; call it first"
            )
        return self._training

    def _check_not_sharded(self) -> None:
        """Refuse checkpoints of a sharded run: the noise and the optimizer's state are in parts on all ranks."""
        if self._trained().optimizer.sharding is not None:
            raise RuntimeError(
                "the module is sharded, so each rank has noise and optimizer state of its own, and one file cannot "
                "resume them. Save module.state_dict(), which is whole on every rank, and engine.account.to_json(); "
                "or train the plain module on every rank"
            )

    def _finding_of(self, optimizer: BucketOptimizer) -> Finding | None:
        """Return the finding of one run, against what the ledger charged for it."""
        if optimizer.observer is None or not optimizer.released_steps:
            return None
        planned, runs = optimizer.plan.mechanism, self._ledger.runs
        charged = poisson(runs[-1][0] if runs and planned not in self._ledger.totals else planned, "an audit")
        others = sum(_charged_steps(other) for other in self._optimizers if other is not optimizer)
        return optimizer.observer.finding(charged, steps=self._ledger.steps - others)

    def _bill(self, plan: Plan) -> None:
        self._ledger = self._limits.charged(self._ledger, plan.mechanism)


def _charged_steps(optimizer: BucketOptimizer) -> int:
    """Return the number of steps that a run was charged for: those of every pass that began."""
    whole = steps_of(optimizer.plan.mechanism)
    return -(-optimizer.released_steps // whole) * whole
