"""The contract of a defence: what it changes in training, and what it needs for that."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from dpmi.data import ImageSet
from dpmi.models import IDENTITY_LOSSES, Adaptation, averaged, matched
from dpmi.progress import Progress

from .objective import Batch, Objective
from .recipe import Recipe
from .session import Session, Setup


@dataclass(frozen=True, kw_only=True)
class Defense:
    """A way of training a classifier; its fields are its hyper-parameters.

    A subclass overrides the hooks for what it changes and leaves the others alone. Hooks are asked in the order in
    which they stand here. The flags say with what it can be combined: see
    :mod:`dpmi.defenses.composition`.
    """

    name: ClassVar[str]
    unit: ClassVar[str] = "none"
    """What one bucket of its guarantee is; "none" where there is no guarantee."""
    strength_field: ClassVar[str | None] = None
    """The hyper-parameter that a study varies; None where there is none."""
    stronger: ClassVar[Literal["larger", "smaller"]] = "larger"
    """Whether larger or smaller values of the strength field protect more, and cost more accuracy."""
    strength_range: ClassVar[tuple[float, float] | None] = None
    """Where a strength is searched that no study names: from and to; whole numbers where the field is one."""
    loss_scope: ClassVar[Literal["per_sample", "batch_coupled"]] = "per_sample"
    """Whether the loss is a mean of one term per record, or couples the records of a batch."""
    stochastic_forward: ClassVar[bool] = False
    """Whether the released model draws noise when it is asked."""
    needs_pretrained: ClassVar[bool] = False
    """Whether it trains on labelled public images first."""
    changes_head: ClassVar[bool] = False
    """Whether :meth:`build` replaces the classification head."""
    objective: ClassVar[type[Objective]] = Objective
    """Computes the loss; one of its own is for defences that keep state while they train."""

    @property
    def strength(self) -> float:
        """The value of the strength field; NaN where there is none."""
        return float("nan") if self.strength_field is None else float(getattr(self, self.strength_field))

    @property
    def label(self) -> str:
        """Name and strength, for tables and pictures."""
        if self.strength_field is None:
            return self.name
        return f"{self.name}, {self.strength_field.replace('_', ' ')} {self.strength:g}"

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """Names of the hyper-parameters."""
        return tuple(f.name for f in dataclasses.fields(cls))

    @property
    def plain_loss(self) -> bool:
        """Whether the loss is the mean cross-entropy, so that it needs logits and labels only."""
        kind = type(self)
        return kind.criterion is Defense.criterion and kind.penalty is Defense.penalty

    @property
    def parts(self) -> tuple[Defense, ...]:
        """The defences that this one is composed of; most are one part, themselves."""
        return (self,)

    @property
    def stages(self) -> tuple[tuple[Defense, float], ...]:
        """How the private training is divided: with which defence each stage is trained, and its share of the updates.

        The last is the defence itself. Most have one stage only.
        """
        return ((self, 1.0),)

    def check(self, model: nn.Module, data: ImageSet, public: ImageSet | None) -> None:
        """Refuse, before anything is trained, a model or data that the defence cannot be used with.

        Args:
            model: freshly built, and not changed by this.
            data: the private training set.
            public: labelled public images; None if there are none.

        Raises:
            ValueError: names what does not fit, and what would.
        """

    def pretrain(
        self,
        model: nn.Module,
        public: ImageSet | None,
        recipe: Recipe,
        *,
        seed: int,
        progress: Progress | None,
    ) -> nn.Module:
        """Train on public images, which costs no privacy.

        Args:
            model: freshly built.
            public: labelled public images, which are there if ``needs_pretrained``.
            recipe: of the training that follows.
            seed: of everything random.
            progress: called with (updates done, all updates).

        Returns:
            The model from which the private training starts.
        """
        return model

    def build(self, model: nn.Module) -> nn.Module:
        """Change the architecture; of a model that has been changed already, leave it as it is."""
        return model

    def frozen(self, model: nn.Module) -> tuple[str, ...]:
        """Names of the layers, or single parameters, that do not train; the buffers of such layers do not change."""
        return ()

    def observed(self, model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[str, ...]:
        """Names of the layers whose outputs :meth:`penalty` needs; see :func:`dpmi.models.observe`."""
        return ()

    def augment(self, images: Tensor) -> Tensor:
        """Change what the model is trained on, each image (n, C, H, W) by itself."""
        return images

    def criterion(self, batch: Batch) -> Tensor:
        """One loss per record, (n,)."""
        return F.cross_entropy(batch.logits, batch.labels, reduction="none")

    def penalty(self, batch: Batch) -> Tensor | float:
        """What is added to the mean of :meth:`criterion`, a scalar; a mean over records unless ``batch_coupled``."""
        return 0.0

    def privatize(self, setup: Setup) -> Session:
        """Make the loader, and wrap everything if the defence is a differentially private one."""
        records = TensorDataset(setup.data.images, setup.data.labels)
        shuffled = RandomSampler(records, generator=torch.Generator().manual_seed(setup.stage_seed))
        # Indexing a whole batch at once is five times as fast as collating it record by record.
        loader = DataLoader(
            records, sampler=BatchSampler(shuffled, setup.batch_size, drop_last=False), batch_size=None
        )
        return Session(module=setup.module, optimizer=setup.optimizer, loader=loader)

    def adaptations(self) -> tuple[Adaptation, ...]:
        """How an attacker who knows the model and its defence searches, each a way to get around what is hidden.

        Of any model it may be the gradient, which is all but 0 where the softmax is sure: the logit has one everywhere.
        Of one that draws noise it is what is left when the noise is averaged out. A defence adds its own.
        """
        logit = matched("logit loss", IDENTITY_LOSSES["logit"])
        return (logit, averaged()) if self.stochastic_forward else (logit,)

    def diagnose(self, model: nn.Module, data: ImageSet, *, seed: int) -> dict[str, float]:
        """Numbers that show whether the defence took hold, for the record of a trained model.

        Args:
            model: trained, in evaluation mode.
            data: the private training set.
            seed: of a choice among the records.
        """
        return {}

    def remarks(self) -> tuple[str, ...]:
        """What a user should know about these settings: a part that does nothing, a promise that is weaker."""
        return ()
