"""The training loop of all defences."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
from opacus.grad_sample import AbstractGradSampleModule
from torch import nn

from dpmi.data import Images, ImageSet
from dpmi.models import FEATURES, device_of, layer, seeded
from dpmi.models.features import FeatureClassifier
from dpmi.privacy import Account, combine
from dpmi.privacy.averaging import WeightAverage
from dpmi.privacy.loader import repeated
from dpmi.progress import Progress

from .augmentation import check_augmentation
from .base import Defense
from .objective import Forward, Objective
from .recipe import Recipe
from .session import Setup

#: Attributes of the private optimizer and wrapper that cleanup() does not remove.
_LEFTOVERS = ("summed_grad", "activations", "max_batch_len", "_norm_sample")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished training.

    Args:
        model: the classifier, unwrapped, in evaluation mode.
        account: the privacy account, which includes that of the extractor below the model, if it has one; None if the
            defence has no guarantee.
        seconds: wall-clock time of the training.
        diagnostics: the results of :meth:`Defense.diagnose` and :meth:`Objective.summary`.

    >>> from dpmi import data, models
    >>> from dpmi.defenses import CALoR, Recipe
    >>> digits = data.load("digits")
    >>> model = models.build("softmax", image_shape=digits.image_shape, num_classes=10, seed=0)
    >>> trained = train(CALoR(rank=8), model, digits.train, Recipe(steps=20, learning_rate=0.5), seed=0)
    >>> trained.model.training, trained.account, list(trained.diagnostics)
    (False, None, ['private_confidence'])
    """

    model: nn.Module
    account: Account | None
    seconds: float
    diagnostics: dict[str, float]


def train(
    defense: Defense,
    model: nn.Module,
    data: ImageSet,
    recipe: Recipe,
    *,
    seed: int,
    public: ImageSet | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train ``model`` under ``defense`` for ``recipe.steps`` released updates.

    Draws from the global random generators in a forward pass, such as those of Dropout, derive from ``seed``. The
    generators are restored afterwards.

    Args:
        defense: the defence.
        model: freshly built; it is trained in place, on its device.
        data: the private records, on the CPU.
        recipe: steps, learning rate and optimizer.
        seed: seed of batches, draws and noise.
        public: labelled public images, for defences that train on public images first.
        progress: called with (released updates, all updates).

    Raises:
        ValueError: the defence cannot be used with this model or these data; nothing was trained.
        FloatingPointError: the loss is not finite; lower the learning rate.
    """
    started = time.perf_counter()
    check(defense, model, data, public, recipe)
    extractor = _extractor_account(model)
    stages = [
        (part, dataclasses.replace(recipe, steps=steps)) for part, steps in _stages(defense, recipe.steps)
    ]
    model = defense.pretrain(model, public, recipe, seed=seed, progress=progress)
    accounts = []
    first = 0
    for stage, (part, own) in enumerate(stages):

        def update(done: int, first: int = first) -> None:
            if progress is not None:
                progress(first + done, recipe.steps)

        model, account, objective = _train_stage(
            part, model, data, own, seed=seed, stage=stage, released=update, extractor=extractor
        )
        accounts += [] if account is None else [account]
        first += own.steps
    model.requires_grad_(True).eval().zero_grad()
    # The extractor and all stages use one partition, so their ledgers compose into one account.
    earlier = [] if extractor is None or not accounts else [extractor]
    (total,) = combine([*earlier, *accounts]) or (None,)
    with seeded(model, seed):
        diagnostics = objective.summary(model, data)
        diagnostics |= defense.diagnose(model, data, seed=seed)
    return Trained(model=model, account=total, seconds=time.perf_counter() - started, diagnostics=diagnostics)


def check(
    defense: Defense, model: nn.Module, data: ImageSet, public: ImageSet | None, recipe: Recipe
) -> None:
    """Check, before any training, that the defence and the recipe can be used with this model and these data.

    Args:
        defense: the defence; its hooks are called on a copy of the model.
        model: freshly built.
        data: the private records.
        public: labelled public images; None if there are none.
        recipe: recipe of the training.

    Raises:
        ValueError: the model or the data do not fit; the message names a remedy.

    >>> from dpmi import data, models
    >>> from dpmi.defenses import Recipe, Transfer
    >>> digits = data.load("digits")  # its public images have no labels
    >>> model = models.build("cnn-small", image_shape=digits.image_shape, num_classes=10, seed=0)
    >>> try:
    ...     check(Transfer(frozen_fraction=0.5), model, digits.train, None, Recipe(steps=5, learning_rate=0.1))
    ... except ValueError as error:
    ...     print(str(error).split(",")[0])
    transfer trains on labelled public images first
    """
    check_augmentation(recipe.augmentation, data.images.shape[1:])
    if recipe.precision == "bf16" and defense.unit != "none":
        raise ValueError(
            f"precision 'bf16' is for trainings without a guarantee, and {defense.name} has one; use 'float32'"
        )
    if isinstance(model, FeatureClassifier) and defense.needs_pretrained:
        raise ValueError(
            f"{defense.name} trains the first layers on public images, and the model is a head on public features, "
            "which has no such layers; leave out one of the two"
        )
    extractor = _extractor_account(model)
    if extractor is not None and defense.unit not in ("none", extractor.unit):
        raise _does_not_compose(extractor, defense.unit)
    if defense.pretrains and public is None:
        raise ValueError(
            f"{defense.name} trains on labelled public images first, but this data set has none; use a data set whose "
            "public images have labels"
        )
    image_shape = data.images.shape[1], data.images.shape[2], data.images.shape[3]
    for part, _ in defense.stages:
        part.check(model, data, public)
        built = part.build(deepcopy(model))
        _set_mode(built, part.frozen(built))
        observed = part.observed(built, image_shape)
        for name in observed:
            if name != FEATURES:
                layer(built, name)
        if isinstance(built, FeatureClassifier) and observed and not any(map(built.trains, observed)):
            raise ValueError(
                f"{part.name} has no effect here: the frozen extractor computes {', '.join(map(repr, observed))}, and "
                "only layers that private images train can change; take a model with a hidden layer, such as 'mlp'"
            )


def _stages(defense: Defense, steps: int) -> Iterator[tuple[Defense, int]]:
    """Yield each stage and its number of updates; their sum is ``steps``."""
    before, share = 0, 0.0
    for part, own in defense.stages:
        share += own
        end = round(share * steps)
        if end > before:
            yield part, end - before
        before = end


def _train_stage(
    defense: Defense,
    model: nn.Module,
    data: ImageSet,
    recipe: Recipe,
    *,
    seed: int,
    stage: int,
    released: Callable[[int], None],
    extractor: Account | None,
) -> tuple[nn.Module, Account | None, Objective]:
    device = device_of(model)
    model = defense.build(model).to(device)
    trained = _set_mode(model, defense.frozen(model))
    optimizer = recipe.optimizer_of(trained)
    scheduler = recipe.scheduler_of(optimizer)
    done = 0

    def update(*_: object) -> None:
        # Runs once per update, including the updates that the engine takes itself after an empty draw.
        nonlocal done
        done += 1
        if scheduler is not None:
            scheduler.step()
        released(done)

    handle = optimizer.register_step_post_hook(update)
    # Identical noise in two stages would cancel in the difference of their models.
    stage_seed = seed if stage == 0 else int(np.random.SeedSequence([seed, stage]).generate_state(1)[0])
    module, inputs = _trained_part(defense, model, data, recipe)
    objective = defense.objective(
        defense,
        module,
        (data.images.shape[1], data.images.shape[2], data.images.shape[3]),
        int(data.labels.max()) + 1,
        stage_seed,
    )
    objective.precision = recipe.precision
    session = defense.privatize(
        Setup(
            module=module,
            optimizer=optimizer,
            data=data,
            inputs=inputs,
            batch_size=recipe.batch_size,
            steps=recipe.steps,
            seed=seed,
            stage_seed=stage_seed,
            objective=objective,
            batch_coupled=defense.loss_scope == "batch_coupled",
            augmentation=recipe.augmentation,
        )
    )
    if extractor is not None and session.account is not None:
        own = session.account()
        if own.partition_hash != extractor.partition_hash:
            raise _does_not_compose(extractor, f"{own.unit} of another partition ({own.partition_hash[:16]})")
    average = (
        None if recipe.average == "none" else WeightAverage(optimizer, recipe.average, steps=recipe.steps)
    )
    with seeded(model, stage_seed), warnings.catch_warnings():
        for message in session.ignored_warnings:
            warnings.filterwarnings("ignore", message=message)

        def one_pass() -> None:
            for batch in session.loader:
                images, labels = (each.to(device) for each in batch)
                session.optimizer.zero_grad()
                objective.loss.done = done / recipe.steps
                if session.criterion is not None:
                    loss = session.criterion(session.module(images), labels)
                else:
                    loss = objective(session.module, images, labels, done / recipe.steps)
                loss.backward()
                session.optimizer.step()
                # The mean loss of an empty draw is NaN; its update is pure noise, and it is charged like any other.
                if len(images) > 0 and not math.isfinite(loss.item()):
                    raise FloatingPointError(
                        f"the loss of {defense.label} is {loss.item()} after {done} of {recipe.steps} steps; "
                        f"lower the learning rate ({recipe.learning_rate})"
                    )
                if done >= recipe.steps:
                    break

        while done < recipe.steps:
            repeated(session.loader, one_pass)
    handle.remove()
    if average is not None:
        average.apply()
    account = None if session.account is None else session.account()
    unwrapped = unwrap(session.module)
    return (model if unwrapped is module else unwrapped), account, objective


def _extractor_account(model: nn.Module) -> Account | None:
    """Return the account of the extractor below a model, if private images trained it."""
    return model.extractor.provenance.account if isinstance(model, FeatureClassifier) else None


def _does_not_compose(extractor: Account, unit: str) -> ValueError:
    return ValueError(
        f"the extractor's own account is for one {extractor.unit} of {extractor.buckets} (partition "
        f"{extractor.partition_hash[:16]}), but this training protects one {unit}, so there is no epsilon for both; "
        "train the head on the same partition, or take an extractor that no private image trained"
    )


def _trained_part(
    defense: Defense, model: nn.Module, data: ImageSet, recipe: Recipe
) -> tuple[nn.Module, Images]:
    """Return what is trained, and its inputs: the head and the features of all images, where the loss allows it.

    A recipe with augmentation, and a defence that changes images, observes layers or has an objective of its own, need
    the whole model and the images.
    """
    if not isinstance(model, FeatureClassifier):
        return model, data.images
    shape = data.images.shape[1], data.images.shape[2], data.images.shape[3]
    changes_images = bool(recipe.augmentation) or any(
        type(part).augment is not Defense.augment for part in defense.parts
    )
    if changes_images or defense.objective is not Objective or defense.observed(model, shape):
        return model, data.images
    return model.top, model.inputs(data.images)


def _set_mode(model: nn.Module, frozen: Iterable[str]) -> list[nn.Parameter]:
    """Set training mode except for frozen layers, and return the parameters to train."""
    model.train().requires_grad_(True)
    single = dict(model.named_parameters())
    for name in frozen:
        if name in single:
            single[name].requires_grad_(False)
        else:
            # In evaluation mode, BatchNorm's running statistics (buffers) do not change either.
            layer(model, name).requires_grad_(False).eval()
    return [p for p in model.parameters() if p.requires_grad]


def unwrap(module: nn.Module) -> nn.Module:
    """Return the user's module from a privacy wrapper, without the wrapper's hooks and attributes."""
    if isinstance(module, AbstractGradSampleModule):
        inner: nn.Module = module._module
        module.cleanup()
        for owner in (*inner.parameters(), *inner.modules()):
            for name in _LEFTOVERS:
                vars(owner).pop(name, None)
        return inner.model if isinstance(inner, Forward) else inner
    return module
