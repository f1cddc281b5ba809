"""Wrap a module, its optimizer and its loader; keep the ledger; say what is guaranteed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from typing_extensions import Unpack

from accountants import Adjacency, Guarantee, Ledger, calibrate

from . import checkpoint
from .account import Account
from .checkpoint import Stateful, Training
from .criterion.wrapped import BucketCriterion
from .distributed import Ranks
from .grad_sample import BucketGradSampleModule
from .gradients.strategy import GradSampleMode
from .loader import BucketDataLoader
from .noise import NoiseMode, NoiseSource
from .optimizer import BucketOptimizer
from .partition import Partition
from .plan import Plan
from .sampling import BucketSampler
from .settings import Options, Settings
from .statement import Statement


class PrivacyEngine:
    """Trains with differential privacy for whole buckets, and accounts for every step that was released.

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

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._max_grad_norms: tuple[float, ...] = ()
        self._noise = NoiseMode.SECURE  # of nothing yet; the weakest of all runs counts
        self._most_steps: int | None = None
        self._training: Training | None = None

    @property
    def ledger(self) -> Ledger:
        """Every logical step billed so far."""
        return self._ledger

    @property
    def plan(self) -> Plan:
        """The plan of the last ``make_private``.

        Raises:
            RuntimeError: before ``make_private``.
        """
        return self._trained().plan

    @property
    def account(self) -> Account:
        """What was billed, on which buckets: enough to state a guarantee after the engine is gone.

        ``engine.account.to_json()`` is what to keep: ``dpmi statement`` makes statements of it.
        """
        partition = self.plan.partition
        return Account(
            ledger=self._ledger,
            unit=partition.unit,
            buckets=partition.num_buckets,
            provenance=partition.provenance,
            partition_hash=partition.hash,
            max_grad_norms=self._max_grad_norms,
            noise=self._noise,
        )

    def statement(self, delta: float, *, not_accounted: Sequence[str] = ()) -> Statement:
        """The privacy statement of what was released so far.

        Args:
            delta: in (0, 1), and well below 1 / K.
            not_accounted: what else looked at the private records and is in no epsilon, one text each.

        Raises:
            ValueError: delta is out of range, or ``not_accounted`` is one string or holds an empty one.
            RuntimeError: before ``make_private``.
        """
        return Statement(accounts=(self.account,), delta=delta, not_accounted=not_accounted)

    def make_private(
        self,
        *,
        module: nn.Module,
        optimizer: Optimizer,
        data_loader: DataLoader[Any],
        partition: Partition,
        sampling_rate: float,
        noise_multiplier: float,
        max_grad_norm: float,
        criterion: Callable[..., Any] | None = None,
        max_records_per_bucket: int | None = None,
        loss_reduction: str = "mean",
        max_physical_batch_size: int = 512,
        steps_per_epoch: int | None = None,
        grad_sample_mode: GradSampleMode = "auto",
        secure_mode: bool = False,
        seed: int | None = None,
    ) -> tuple[Any, ...]:
        """Make module, optimizer and loader private; the training loop stays as it is.

        Several calls on one engine bill to one ledger, as a hyper-parameter search on the same partition must.

        In a process group of torch.distributed (initialised before, by a script that ``torchrun`` starts, say), all
        ranks call this alike, each with the whole data set, and train one model: they start from rank 0's, draw
        the same buckets, take a share of them each, and sum them up with one noise. Pass the plain module, not
        DistributedDataParallel. See docs/distributed.md.

        Args:
            module: any module without statistics of the data (no BatchNorm).
            optimizer: over parameters of ``module``; momentum and weight decay are post-processing.
            data_loader: gives the data set, the collate function and the workers; its batch size and its
                shuffling are replaced by Poisson sampling of buckets.
            partition: record -> bucket, as long as the data set.
            sampling_rate: q in (0, 1], the probability of drawing one bucket at a logical step.
            noise_multiplier: sigma >= 0, noise standard deviation / max_grad_norm; 0 gives epsilon = inf.
            max_grad_norm: S > 0, the norm that a bucket's mean gradient is clipped to.
            criterion: the loss, of outputs and targets; an nn.Module such as nn.CrossEntropyLoss() or any function,
                which returns a scalar or one value per record. It is returned wrapped, and computes the loss of
                every bucket from that bucket's outputs and targets alone. Without it, one bucket goes through the
                model at a time.
            max_records_per_bucket: most records of a drawn bucket that a step takes, each time others of it; None takes
                all. The promise is the same. Of 6,000 records of a class, the mean gradient of 128 is nearly that of
                all, at a fiftieth of the time.
            loss_reduction: "mean" or "sum", how the loss combines the records of a batch.
            max_physical_batch_size: most records in one physical batch of this process; it changes memory, not the
                result.
            steps_per_epoch: logical steps in one pass over the loader; by default 1 / q, rounded, in which every
                bucket is expected once.
            grad_sample_mode: how bucket gradients are computed; they are the same but for rounding. "stream" takes one
                bucket after another, with any module and any loss. "hooks" and "ghost" take several buckets at a
                time, which suits small buckets: "hooks" with a row of gradients for each, "ghost" with their norms
                only; they need ``criterion``. "auto" chooses by bucket sizes, parameters and the work that a record
                makes; without ``criterion`` it is "stream".
                For several buckets at a time, the first pass starts with two dry runs of the loop, on copies of one
                record, of which nothing is released. They show whether module and loop keep the records of a batch
                apart in every call; if they do not, "auto" takes one bucket at a time for the whole run and logs why
                (logger "dpmi"), and the others raise. A later batch that is not like the dry runs is an error.
            secure_mode: noise and draws from a cryptographic generator, keyed by the operating system, and noise made
                against floating-point attacks as Opacus makes it; the noise takes five times as long.
            seed: of noise and sampling. None takes both from the operating system. A seeded run can be repeated,
                and for that reason guarantees nothing.

        Returns:
            The wrapped module, optimizer and loader; with a criterion the wrapped module, optimizer, criterion and
            loader, in Opacus's order.

        Raises:
            ValueError, TypeError: an argument out of range, or a module, optimizer or loader for which no
                guarantee would hold; the message says why and what to do instead. Also if ranks disagree.
            RuntimeError: another rank is gone.
        """
        settings = Settings(
            module=module,
            optimizer=optimizer,
            data_loader=data_loader,
            partition=partition,
            sampling_rate=sampling_rate,
            max_grad_norm=max_grad_norm,
            criterion=criterion,
            max_records_per_bucket=max_records_per_bucket,
            loss_reduction=loss_reduction,
            max_physical_batch_size=max_physical_batch_size,
            steps_per_epoch=steps_per_epoch,
            grad_sample_mode=grad_sample_mode,
            secure_mode=secure_mode,
            seed=seed,
        )
        return self._make_private(settings, noise_multiplier)

    def make_private_with_epsilon(
        self,
        *,
        partition: Partition,
        sampling_rate: float,
        steps: int,
        target_epsilon: float,
        target_delta: float,
        adjacency: Adjacency = "replace",
        **options: Unpack[Options],
    ) -> tuple[Any, ...]:
        """Make private, with the least noise whose epsilon after ``steps`` steps does not exceed the target.

        The noise is that of :func:`accountants.calibrate`, on the tight accountant. The target is kept, too: the
        step after the last one raises before anything of it is released.

        Args:
            partition: record -> bucket, as long as the data set.
            sampling_rate: q in (0, 1], the probability of drawing one bucket at a logical step.
            steps: logical steps T >= 1 of the whole training; one pass over the loader takes
                ``steps_per_epoch``.
            target_epsilon: above 0, for one bucket of ``partition``.
            target_delta: in (0, 1), and well below 1 / K.
            adjacency: "replace" or "add_remove", of the target.
            options: every other argument of :meth:`make_private`: ``module``, ``optimizer``, ``data_loader``,
                ``max_grad_norm``, and those with a default, such as ``criterion``.

        Returns:
            What :meth:`make_private` returns; ``optimizer.noise_multiplier`` is what was found.

        Raises:
            ValueError, TypeError: as :meth:`make_private` and :func:`accountants.calibrate` do, or this engine
                was used before.
        """
        if self._training is not None:
            raise ValueError(
                f"target_epsilon is {target_epsilon}, for one training from its start, but this engine was used "
                f"before and has billed {self._ledger.steps} steps; use a new engine, and add up the accounts"
            )
        settings = Settings(partition=partition, sampling_rate=sampling_rate, **options)
        found = calibrate(
            target_epsilon=target_epsilon,
            delta=target_delta,
            unit=partition.unit,
            sampling_rate=sampling_rate,
            steps=steps,
            adjacency=adjacency,
            buckets=partition.num_buckets,
        )
        private = self._make_private(settings, found.mechanism.noise_multiplier)
        self._most_steps = steps
        return private

    def guarantee(
        self, delta: float, *, adjacency: Adjacency = "replace", accountant: str = "tight"
    ) -> Guarantee:
        """What was released so far, as (epsilon, delta) for one bucket.

        Args:
            delta: in (0, 1), and well below 1 / K.
            adjacency: "replace" one bucket by another ([Z20] Definitions 4-7), or "add_remove" one.
            accountant: a name in ``accountants.ACCOUNTANTS``.

        Raises:
            RuntimeError: nothing was released yet.
        """
        account = self.account
        if not account.ledger.steps:
            raise RuntimeError(
                "nothing was released, so there is nothing to guarantee: train with the module, the optimizer and the "
                "loader that make_private returned. What was trained with others is not private"
            )
        return account.guarantee(delta, adjacency=adjacency, accountant=accountant)

    def save_checkpoint(self, path: str | Path, **others: Stateful) -> None:
        """Write one file with all that the training of the last ``make_private`` needs to go on, and what it owes.

        Parameters, optimizer, account, plan, and the states of the draws, of the noise and of torch's global
        generator. A run that is killed and goes on from its last checkpoint equals the uninterrupted one bit for bit
        on the same machine, and is billed the same; in secure mode, noise and draws are new. The file is as secret as
        the records: it has the state that the noise comes from. Of two trainings that go on from one checkpoint,
        publish one: their noise is the same, and cancels in the difference.

        Of several ranks, the one whose noise it is writes, and the others return at once; all of them load it.

        Args:
            path: replaced only when the whole checkpoint is on the disk.
            others: further objects with ``state_dict`` and ``load_state_dict``, such as a scheduler, by name.

        Raises:
            RuntimeError: a logical step is under way; save where ``optimizer.released`` is True.
        """
        training = self._trained()
        if training.optimizer.ranks.adds_noise:
            checkpoint.save(path, training, account=self.account, most_steps=self._most_steps, others=others)

    def load_checkpoint(self, path: str | Path, **others: Stateful) -> None:
        """Go on where :meth:`save_checkpoint` was called, after ``make_private`` with the same arguments.

        The next pass over the loader is what was left of the interrupted one.

        Args:
            path: of the checkpoint; pickled code in it is not run.
            others: the objects that were saved with it, by the same names.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or of another plan, partition or model; names what differs. Or this engine has
                billed steps, which the checkpoint does not know. Nothing is changed.
        """
        training = self._trained()
        if self._ledger.steps:
            raise ValueError(
                f"this engine has billed {self._ledger.steps} steps, which would be forgotten; load {path} into a new "
                "engine, after make_private"
            )
        loaded = checkpoint.load(path, training, others=others)
        self._ledger = loaded.account.ledger
        self._max_grad_norms = loaded.account.max_grad_norms
        self._noise = self._noise.weaker(loaded.account.noise)
        self._most_steps = loaded.most_steps

    def _make_private(self, settings: Settings, noise_multiplier: float) -> tuple[Any, ...]:
        partition, plan = settings.partition, settings.plan(noise_multiplier)
        if self._most_steps is not None:
            raise ValueError(
                f"noise_multiplier is {noise_multiplier}, but this engine keeps to the target of "
                "make_private_with_epsilon, and other steps are not in it; use a new engine, and add up the accounts"
            )
        if self._training is not None and self.plan.partition.hash != partition.hash:
            raise ValueError(
                f"partition is {partition}, but this engine already accounts for {self.plan.partition}; steps on "
                "two partitions do not add up to one epsilon. Use an engine for each"
            )
        settings.check()

        device = next(settings.module.parameters()).device
        source = NoiseSource.of(settings.seed, secure=settings.secure_mode, device=device)
        ranks = Ranks.current(device)
        choice = settings.choice(plan)
        private_module = BucketGradSampleModule(
            settings.module,
            strategy=choice.strategy,
            loss_reduction=settings.loss_reduction,
            all_records=len(partition),
        )
        private_optimizer = BucketOptimizer(
            settings.optimizer,
            module=private_module,
            plan=plan,
            source=source,
            bill=lambda: self._bill(plan),
            ranks=ranks,
        )
        sampler = BucketSampler(
            plan,
            steps=settings.steps_of_a_pass(plan),
            max_physical_batch_size=settings.max_physical_batch_size,
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
            private_optimizer.params,
            partition=partition.hash,
            sampling_rate=plan.sampling_rate,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.max_grad_norm,
            max_records_per_bucket=plan.max_records_per_bucket,
            loss_reduction=settings.loss_reduction,
            steps_per_epoch=sampler.steps,
            grad_sample_mode=choice.strategy if choice.max_buckets > 1 else "stream",
            noise=source.mode.name,
            seed=settings.seed,
            billed_steps=self._ledger.steps,
        )
        private_optimizer.claim.take()
        self._training = Training(
            plan=plan, module=private_module, optimizer=private_optimizer, loader=loader
        )
        self._max_grad_norms += (plan.max_grad_norm,)
        self._noise = self._noise.weaker(source.mode)
        if settings.criterion is None:
            return private_module, private_optimizer, loader
        return private_module, private_optimizer, BucketCriterion(settings.criterion, private_module), loader

    def _trained(self) -> Training:
        if self._training is None:
            raise RuntimeError(
                "make_private was not called yet, so there is no plan and nothing to account for"
            )
        return self._training

    def _bill(self, plan: Plan) -> None:
        if self._most_steps is not None and self._ledger.steps >= self._most_steps:
            raise RuntimeError(
                f"all {self._most_steps} steps that target_epsilon allows were taken; nothing was released by this "
                "one. End the training here, or calibrate for more steps"
            )
        self._ledger = self._ledger.record(plan.mechanism)
