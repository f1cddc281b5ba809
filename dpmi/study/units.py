"""The unit game of a study: the reference models of a target, its AUC and the bound on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from accountants import Ledger, reconstruction_bound
from dpmi import defenses, metrics, versions
from dpmi.data import Images, ImageSet, Split
from dpmi.data.halves import HalfDraw, Units
from dpmi.defenses import Recipe
from dpmi.models import device_of, in_batches
from dpmi.privacy import Account
from dpmi.progress import Progress

from . import maker
from .grid import Job, hashed
from .store import Store

#: Name of this stage in progress reports.
TRAINING = "training references"

#: Images per forward pass when the target labels the public images.
_BATCH_SIZE = 1024


def others(job: Job) -> tuple[Job, ...]:
    """The reference models of an auditor: both models of every other pair of seeds of the study; else none."""
    if job.game is None or job.game.references != "auditor":
        return ()
    # A pair (2j, 2j + 1) trains on complementary halves, so every unit is out of exactly one of its models: units that
    # are in the target have as many references as the others. Of the target's own pair, only the units that are in the
    # target have a reference, so the references alone would give the answer.
    return tuple(
        replace(job, seed=seed)
        for seed in sorted(job.seeds)
        if seed // 2 != job.seed // 2 and seed ^ 1 in job.seeds
    )


@dataclass(frozen=True)
class Shadow:
    """A reference model of an attacker: trained without defence on public images with the labels of the target.

    Args:
        target: key of the target.
        seed: seed of its weights and batches.
    """

    target: str
    seed: int

    @property
    def key(self) -> str:
        """Hash of everything that the model depends on."""
        return hashed(training=versions.TRAINING, target=self.target, shadow=self.seed)

    def train(
        self,
        *,
        fresh: Callable[[], nn.Module],
        recipe: Recipe,
        target: nn.Module,
        public: Images,
        store: Store,
        progress: Progress,
    ) -> None:
        """Train the model unless it is in the store; if several workers need it at once, one trains it.

        Args:
            fresh: builds the untrained model.
            recipe: recipe of the target.
            target: labels the public images.
            public: (M, C, H, W), M at least 1.
            store: receives the result.
            progress: called with (updates done, all updates).
        """
        with store.training(self.key) as missing:
            if not missing:
                return
            finished = maker.started()
            logits = in_batches(lambda some: metrics.evaluate(target, some).logits, public, _BATCH_SIZE)
            trained = defenses.train(
                defenses.get("none")(),
                fresh().to(device_of(target)),
                ImageSet(public, logits.argmax(dim=1)),
                recipe,
                seed=self.seed,
                progress=progress,
            )
            store.save_model(self.key, trained.model, {"target": self.target, "made": finished()})

    def load(self, fresh: Callable[[], nn.Module], store: Store) -> nn.Module:
        """The stored model, in evaluation mode."""
        model = fresh().eval()
        store.load_weights(self.key, model)
        return model


def shadows(job: Job) -> tuple[Shadow, ...]:
    """The reference models of an attacker; none for an auditor."""
    if job.game is None or job.game.references != "attacker":
        return ()
    return tuple(
        Shadow(job.key, int(np.random.SeedSequence([job.seed, index]).generate_state(1)[0]))
        for index in range(job.game.count)
    )


def settings(job: Job) -> dict[str, Any]:
    """Everything on which the measurement of a model depends because of its unit game; empty without a game."""
    if job.game is None:
        return {}
    references = [other.key for other in others(job)] + [shadow.key for shadow in shadows(job)]
    return {"units": job.game.model_dump(), "references": references}


@dataclass(frozen=True)
class Reference:
    """A stored model; two are equal if their folder and key are.

    Args:
        folder: folder of the store.
        key: key of the model.
        half: the units that trained it; None if no unit did.
        load: loads the model.
    """

    folder: Path
    key: str
    half: HalfDraw | None
    load: Callable[[], nn.Module] = field(compare=False)

    def inside(self, units: Units) -> Tensor:
        """Which units trained it, bool (U,)."""
        return torch.zeros_like(units.group, dtype=torch.bool) if self.half is None else self.half.kept(units)


def auc(target: Reference, references: Sequence[Reference], units: Units, split: Split) -> float:
    """The AUC of the unit game, :func:`dpmi.metrics.unit_auc`.

    Args:
        target: the model.
        references: models of other draws; every unit is out of at least one.
        units: the units of the data set.
        split: the whole data set.
    """
    statistics = metrics.unit_statistics(
        _margins(target, split),
        torch.stack([_margins(each, split) for each in references]),
        torch.stack([~each.inside(units)[units.of] for each in references]),
        units.of,
    )
    return metrics.unit_auc(statistics, target.inside(units), units.group)


@lru_cache(maxsize=256)  # every model of a setting is a reference of the others
def _margins(model: Reference, split: Split) -> Tensor:
    return metrics.margins(model.load(), split.train.images, split.train.labels)


def bound(account: str, unit: str, unit_of_game: str) -> float:
    """Upper bound B(1/2) on the AUC of any attacker, on average over the draws; 1 if the guarantee has another unit.

    Args:
        account: JSON of :meth:`dpmi.privacy.Account.to_json`; empty without a guarantee.
        unit: unit of the guarantee.
        unit_of_game: unit of the game.
    """
    if not account or unit != unit_of_game:
        return 1.0
    run = Account.from_json(account)
    return _bound(run.ledger, run.buckets_per_unit)


@lru_cache(maxsize=64)  # the models of a setting share their ledger
def _bound(ledger: Ledger, buckets_per_unit: int) -> float:
    return float(reconstruction_bound(ledger, 0.5, buckets_per_unit=buckets_per_unit))
