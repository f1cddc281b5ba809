"""The contract of a defence: its hooks into the training, and its requirements."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from dpmi.data import ImageSet
from dpmi.models import IDENTITY_LOSSES, Adaptation, averaged, matched
from dpmi.progress import Progress

from .objective import Batch, Objective
from .recipe import Recipe
from .session import Session, Setup


@dataclass(frozen=True, kw_only=True)
class Defense:
    """A training method for a classifier; its fields are its hyper-parameters.

    A subclass overrides only the hooks that it needs. The hooks are called in the order of their definition here. The
    flags determine the possible combinations; see :mod:`dpmi.defenses.composition`.
    """

    name: ClassVar[str]
    unit: ClassVar[str] = "none"
    """The unit of its privacy guarantee, one bucket; "none" if there is no guarantee."""
    strength_field: ClassVar[str | None] = None
    """The hyper-parameter that a study varies; None if there is none."""
    stronger: ClassVar[Literal["larger", "smaller"]] = "larger"
    """Whether larger or smaller values of the strength field protect more and cost more accuracy."""
    strength_range: ClassVar[tuple[float, float] | None] = None
    """Smallest and largest strength of an automatic search; integers if the field is an integer."""
    loss_scope: ClassVar[Literal["per_sample", "batch_coupled"]] = "per_sample"
    """Whether the loss is a mean of one term per record, or couples the records of a batch."""
    stochastic_forward: ClassVar[bool] = False
    """Whether the released model draws noise in its forward pass."""
    needs_pretrained: ClassVar[bool] = False
    """Whether it trains on labelled public images first."""
    changes_head: ClassVar[bool] = False
    """Whether :meth:`build` replaces the classification head."""
    objective: ClassVar[type[Objective]] = Objective
    """The class that computes the loss; a defence with state during training has its own."""

    @property
    def strength(self) -> float:
        """The value of the strength field; NaN if there is none."""
        return float("nan") if self.strength_field is None else float(getattr(self, self.strength_field))

    @property
    def label(self) -> str:
        """Name and strength, for tables and figures."""
        if self.strength_field is None:
            return self.name
        return f"{self.name}, {self.strength_field.replace('_', ' ')} {self.strength:g}"

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """Return the names of the hyper-parameters."""
        return tuple(f.name for f in dataclasses.fields(cls))

    @property
    def pretrains(self) -> bool:
        """Whether it trains on labelled public images first, with its settings."""
        return self.needs_pretrained

    @property
    def plain_loss(self) -> bool:
        """Whether the loss is the mean cross-entropy, which needs only logits and labels."""
        kind = type(self)
        return kind.criterion is Defense.criterion and kind.penalty is Defense.penalty

    @property
    def parts(self) -> tuple[Defense, ...]:
        """The defences of a composition; any other defence is its own single part."""
        return (self,)

    @property
    def stages(self) -> tuple[tuple[Defense, float], ...]:
        """The stages of the private training: the defence of each stage, and its share of the updates.

        The last stage uses this defence itself. Most defences have a single stage.
        """
        return ((self, 1.0),)

    def check(self, model: nn.Module, data: ImageSet, public: ImageSet | None) -> None:
        """Check, before any training, that the defence can be used with this model and these data.

        Args:
            model: freshly built; it is not changed.
            data: the private training set; the images of a large one are read by rows, see :class:`dpmi.data.Images`.
            public: labelled public images; None if there are none.

        Raises:
            ValueError: the model or the data do not fit; the message names a remedy.
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
            public: labelled public images; never None if ``pretrains``.
            recipe: recipe of the subsequent private training.
            seed: seed of all randomness.
            progress: called with (updates done, all updates).

        Returns:
            The initial model of the private training.
        """
        return model

    def build(self, model: nn.Module) -> nn.Module:
        """Change the architecture; a second call must not change it again."""
        return model

    def frozen(self, model: nn.Module) -> tuple[str, ...]:
        """Return the names of the layers or parameters that are not trained; buffers of such layers do not change."""
        return ()

    def observed(self, model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[str, ...]:
        """Return the names of the layers whose outputs :meth:`penalty` needs; see :func:`dpmi.models.observe`."""
        return ()

    def augment(self, images: Tensor) -> Tensor:
        """Augment the training images (n, C, H, W), each independently of the others."""
        return images

    def criterion(self, batch: Batch) -> Tensor:
        """Return one loss per record, (n,)."""
        return F.cross_entropy(batch.logits, batch.labels, reduction="none")

    def penalty(self, batch: Batch) -> Tensor | float:
        """Return a scalar added to the mean of :meth:`criterion`; a mean over records unless ``batch_coupled``."""
        return 0.0

    def privatize(self, setup: Setup) -> Session:
        """Return the data loader, model and optimizer of the training, wrapped by a privacy engine if there is one."""
        shuffled = RandomSampler(setup.data.labels, generator=torch.Generator().manual_seed(setup.stage_seed))
        # Indexing a whole batch at once is five times as fast as collating records one by one.
        loader = DataLoader(
            setup.records,
            sampler=BatchSampler(shuffled, setup.batch_size, drop_last=False),
            batch_size=None,
        )
        return Session(module=setup.module, optimizer=setup.optimizer, loader=loader)

    def adaptations(self) -> tuple[Adaptation, ...]:
        """Return the adaptive attacks against the defence: changes of an attack that bypass what the defence masks.

        The default is the logit loss, because the gradient of the softmax vanishes at high confidence; for a model that
        draws noise also the average over the noise. A defence adds its own.
        """
        logit = matched("logit loss", IDENTITY_LOSSES["logit"])
        return (logit, averaged()) if self.stochastic_forward else (logit,)

    def diagnose(self, model: nn.Module, data: ImageSet, *, seed: int) -> dict[str, float]:
        """Return diagnostics of a trained model that show whether the defence had its intended effect.

        Args:
            model: trained, in evaluation mode.
            data: the private training set.
            seed: seed of a selection of records.
        """
        return {}

    def remarks(self) -> tuple[str, ...]:
        """Return caveats of these settings for the user: a part without effect, a weaker guarantee."""
        return ()
