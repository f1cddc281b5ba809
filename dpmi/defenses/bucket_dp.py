"""Class-level, subclass-level and user-level differential privacy ([Z20] Algorithm 2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.utils.data import DataLoader

from accountants import checks
from dpmi.data import ImageSet
from dpmi.privacy import Partition, PrivacyEngine
from dpmi.privacy.clipping import Clipping, check_clipping
from dpmi.privacy.physical_limit import OF_A_HEAD, OF_A_MODEL

from .objective import Forward
from .private import PrivateDefense
from .session import Session, Setup


@dataclass(frozen=True, kw_only=True)
class BucketDP(PrivateDefense, ABC):
    """Trains through :class:`dpmi.privacy.PrivacyEngine` on a partition of the records.

    >>> from dpmi import data
    >>> from dpmi.defenses import ClassDP, UserDP
    >>> labels, users = torch.tensor([0, 0, 1, 1, 1, 2]), torch.tensor([0, 1, 0, 1, 0, 1])
    >>> images = data.ImageSet(torch.rand(6, 1, 8, 8), labels, users)
    >>> settings = {"noise_multiplier": 2.0, "sampling_rate": 0.5, "max_grad_norm": 1.0}
    >>> for kind in (ClassDP, UserDP):
    ...     print(kind.name, kind(**settings).partition(images, seed=0).num_buckets)
    class-dp 3
    user-dp 2

    Args:
        clipping: how gradients are shortened to ``max_grad_norm``: "flat" or "automatic"; see
            :mod:`dpmi.privacy.clipping`.
        max_records_per_bucket: a step uses at most this many records of each drawn bucket, a different slice every
            step; None uses all. The guarantee is unchanged, and the step is faster.
        views: how often a step uses each of these records; with augmentation in the recipe, or with a defence that
            augments images, such as random-erasing, a bucket's gradient is the mean over that many variants of each.
    """

    couples_inside_buckets: ClassVar[bool] = True
    has_canaries: ClassVar[bool] = True

    clipping: Clipping = "flat"
    max_records_per_bucket: int | None = None
    views: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_clipping(self.clipping)
        if self.max_records_per_bucket is not None:
            checks.integer("max_records_per_bucket", self.max_records_per_bucket, minimum=1)
        checks.integer("views", self.views, minimum=1)

    @abstractmethod
    def partition(self, data: ImageSet, seed: int) -> Partition:
        """Return the partition of the records into buckets."""

    def privatize(self, setup: Setup) -> Session:
        """Wrap module, optimizer, loader and loss; one pass over the loader is the whole stage.

        A loss that couples records processes one bucket at a time; other losses process several if that is faster.
        """
        engine = PrivacyEngine()
        objective = setup.objective
        loss = nn.CrossEntropyLoss() if objective.defense.plain_loss else objective.loss
        module, optimizer, *criterion, loader = engine.make_private(
            module=Forward(setup.module, objective),
            optimizer=setup.optimizer,
            criterion=None if setup.batch_coupled else loss,
            data_loader=DataLoader(setup.records),
            partition=self.partition(setup.data, setup.seed),
            sampling_rate=self.sampling_rate,
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.max_grad_norm,
            clipping=self.clipping,
            max_records_per_bucket=self.max_records_per_bucket,
            views=self.views,
            max_physical_batch_size=OF_A_MODEL if setup.inputs is setup.data.images else OF_A_HEAD,
            steps_per_epoch=setup.steps,
            seed=setup.stage_seed,
        )
        return Session(
            module=module,
            optimizer=optimizer,
            loader=loader,
            account=lambda: engine.account,
            criterion=criterion[0] if criterion else loss,
        )

    def remarks_on_coupling(self) -> tuple[str, ...]:
        """Return the caveat that every bucket of a class or a subclass lies inside one class."""
        return (
            f"every bucket of {self.name} holds records of one class, so a term that compares labels within a batch, "
            "such as the dependence of a layer on the labels, is identically zero here; only terms that compare images "
            "have an effect",
        )


@dataclass(frozen=True, kw_only=True)
class ClassDP(BucketDP):
    """One bucket per class.

    >>> from dpmi import data, models
    >>> from dpmi.defenses import Recipe, train
    >>> digits = data.load("digits")
    >>> model = models.build("softmax", image_shape=digits.image_shape, num_classes=10, seed=0)
    >>> defense = ClassDP(noise_multiplier=2.0, sampling_rate=0.2, max_grad_norm=1.0, max_records_per_bucket=16)
    >>> trained = train(defense, model, digits.train, Recipe(steps=10, learning_rate=0.1), seed=0)
    >>> found = trained.account.guarantee(delta=1e-2)
    >>> found.unit, found.steps, round(found.epsilon, 2)
    ('class', 10, 1.24)
    """

    name: ClassVar[str] = "class-dp"
    unit: ClassVar[str] = "class"

    delta: float = 1e-2  # [Z20] section V.B

    def partition(self, data: ImageSet, seed: int) -> Partition:
        """Return the partition by label."""
        return Partition.by_class(data.labels.numpy())


@dataclass(frozen=True, kw_only=True)
class SubclassDP(BucketDP):
    """One bucket per subclass.

    The subclasses are the units of the images, if they are given. Otherwise k-means divides each class, and the
    guarantee is conditional on the clusters.

    >>> from dpmi import data
    >>> digits = data.load("digits")
    >>> defense = SubclassDP(noise_multiplier=2.0, sampling_rate=0.2, max_grad_norm=1.0, clusters_per_class=5)
    >>> defense.partition(digits.train, seed=0)
    Partition(1197 records, 50 buckets, unit='subclass')

    Args:
        clusters_per_class: number of subclasses of each class, k_sub, at least 1; not used if the images have units.
    """

    name: ClassVar[str] = "subclass-dp"
    unit: ClassVar[str] = "subclass"

    clusters_per_class: int = 50  # [Z20] section V.A
    delta: float = 1e-3  # [Z20] section V.A

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.integer("clusters_per_class", self.clusters_per_class, minimum=1)

    def check(self, model: nn.Module, data: ImageSet, public: ImageSet | None) -> None:
        """Refuse units with images of several classes, or more clusters than the smallest class has images.

        The checks of the base class come first.
        """
        super().check(model, data, public)
        if data.units is not None:
            classes = torch.unique(torch.stack([data.units, data.labels], dim=1), dim=0)
            unit, count = torch.unique(classes[:, 0], return_counts=True)
            if int(count.max()) > 1:
                raise ValueError(
                    f"units must be subclasses, but unit {int(unit[count.argmax()])} has images of {int(count.max())} "
                    "classes; use user-dp if the units are users"
                )
            return
        smallest = int(data.labels.bincount().min())
        if self.clusters_per_class > smallest:
            raise ValueError(
                f"clusters_per_class must be at most {smallest}, the number of images of the smallest class; got "
                f"{self.clusters_per_class}"
            )

    def partition(self, data: ImageSet, seed: int) -> Partition:
        """Return the partition by unit, or else by k-means on the pixels, as in [Z20] section IV.C."""
        if data.units is not None:
            return Partition.by_column(data.units.tolist(), unit=self.unit)
        return Partition.by_kmeans(data.images, data.labels.numpy(), self.clusters_per_class, seed=seed)


@dataclass(frozen=True, kw_only=True)
class UserDP(BucketDP):
    """One bucket per user, the unit of the images; a user may have images of several classes.

    >>> from dpmi import data, models
    >>> from dpmi.defenses import Recipe, train
    >>> digits = data.with_users(data.load("digits"), size=10)
    >>> model = models.build("softmax", image_shape=digits.image_shape, num_classes=10, seed=0)
    >>> defense = UserDP(noise_multiplier=2.0, sampling_rate=0.2, max_grad_norm=1.0)
    >>> trained = train(defense, model, digits.train, Recipe(steps=10, learning_rate=0.1), seed=0)
    >>> trained.account.unit, trained.account.buckets, trained.account.provenance.name
    ('user', 120, 'RECORD')
    """

    name: ClassVar[str] = "user-dp"
    unit: ClassVar[str] = "user"

    delta: float = 1e-3

    def check(self, model: nn.Module, data: ImageSet, public: ImageSet | None) -> None:
        """Refuse images without units, besides the checks of the base class."""
        super().check(model, data, public)
        if data.units is None:
            raise ValueError(
                "units must name the user of every image for user-dp, and these images have no units; use a data set "
                "with users, or subclass-dp or class-dp"
            )

    def partition(self, data: ImageSet, seed: int) -> Partition:
        """Return the partition by user."""
        assert data.units is not None
        return Partition.by_column(data.units.tolist(), unit=self.unit)

    def remarks_on_coupling(self) -> tuple[str, ...]:
        """Return no caveat: a user may have images of several classes."""
        return ()
