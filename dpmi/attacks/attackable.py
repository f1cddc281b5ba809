"""Checks that a model can be attacked, and prepares it; the model is restored afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dpmi.models import IdentityLoss, evaluating, seeded

from .checks import require
from .priors import Generator
from .target import Budget, LabelsOnly, Target

ImageShape = tuple[int, int, int]

#: The requirements that a target that returns labels only cannot meet.
_MORE_THAN_LABELS = frozenset({"white_grad", "logits", "probs", "features", "bn_stats"})


def check_classes(classes: Tensor) -> None:
    """Raise an error unless ``classes`` is a tensor of class numbers."""
    if not isinstance(classes, Tensor):
        raise TypeError(f"classes must be an int64 tensor; got {type(classes).__name__}")
    if classes.dtype != torch.int64 or classes.ndim != 1 or len(classes) == 0:
        raise ValueError(
            f"classes must be int64 of shape (R,) with R at least 1; "
            f"got {classes.dtype} of shape {tuple(classes.shape)}"
        )
    if int(classes.min()) < 0:
        raise ValueError(f"classes must be 0 or more; the smallest is {int(classes.min())}")


def _check_image_shape(image_shape: ImageShape) -> None:
    sides = tuple(image_shape)
    require(
        "image_shape",
        sides,
        len(sides) == 3 and all(isinstance(side, int) and side >= 1 for side in sides),
        "(C, H, W), three integers of at least 1",
    )


def check_range(classes: Tensor, num_classes: int) -> None:
    """Raise an error for classes outside the target's outputs."""
    if int(classes.max()) >= num_classes:
        raise ValueError(
            f"classes must be in [0, {num_classes}), the target's {num_classes} outputs; "
            f"the largest is {int(classes.max())}"
        )


def check_generator(generator: Generator, image_shape: ImageShape, classes: Tensor) -> None:
    """Raise an error for a generator whose images do not fit the target, or that was not trained on these classes."""
    if tuple(generator.image_shape) != tuple(image_shape):
        raise ValueError(
            f"the generator makes images of {tuple(generator.image_shape)}, the target takes {tuple(image_shape)}: "
            "train it on public images of that shape"
        )
    if generator.num_classes is not None and int(classes.max()) >= generator.num_classes:
        raise ValueError(
            f"the generator has {generator.num_classes} classes, class {int(classes.max())} is out of range: "
            "train it on this target"
        )


@contextmanager
def attackable(
    target: nn.Module,
    image_shape: ImageShape,
    *,
    name: str,
    requires: frozenset[str],
    budget: Budget,
    reserve: int,
    seed: int,
    loss: IdentityLoss | None = None,
) -> Iterator[tuple[Target, int]]:
    """Yield the frozen target, after a test query, and its number of classes K.

    Inside the block, the target's noise and every other draw from torch's default generators derive from the seed.
    Afterwards the target and the generators are restored.

    Args:
        target: maps images (n, C, H, W) to logits (n, K).
        image_shape: (C, H, W).
        name: name of the attack.
        requires: the attack's requirements.
        budget: limits on queries, gradient calls and time.
        reserve: number of queries of the budget that are kept for the final scores.
        seed: seed of all noise.
        loss: the identity loss of the attack; None for an attack that takes no gradient.

    Raises:
        TypeError: the target is not a module.
        ValueError: the target cannot be attacked, or not by this attack.
    """
    if not isinstance(target, nn.Module):
        raise TypeError(f"target must be a torch.nn.Module; got {type(target).__name__}")
    _check_image_shape(image_shape)
    beyond = sorted(requires & _MORE_THAN_LABELS)
    if isinstance(target, LabelsOnly) and beyond:
        raise ValueError(
            f"{name} needs {', '.join(beyond)} of the target, but the target returns labels only; use brep-mi "
            "or label-mean, which need labels only"
        )
    with _frozen(target), seeded(target, seed), torch.enable_grad():
        asked = Target(target, loss=loss, budget=budget, reserve=reserve)
        yield asked, _probe(asked, image_shape, asked.device)


def _probe(target: Target, image_shape: ImageShape, device: torch.device) -> int:
    """Query the target on black images and return K; raise an error for a target that cannot be attacked."""
    try:
        logits = target.probe(image_shape, device)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(
            f"target does not accept images of image_shape={tuple(image_shape)}: {error}"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 2 or logits.shape[1] < 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"target must return logits (n, K) with K at least 2 for images (n, C, H, W); "
            f"got {shape} for two images"
        )
    if not bool(logits.isfinite().all()):
        raise ValueError(
            "target returns logits that are not finite for a black image; check that its training converged"
        )
    return logits.shape[1]


@contextmanager
def _frozen(target: nn.Module) -> Iterator[None]:
    """Evaluation mode and no parameter gradients inside the block."""
    needed = [(parameter, parameter.requires_grad) for parameter in target.parameters()]
    try:
        target.requires_grad_(False)
        with evaluating(target):
            yield
    finally:
        for parameter, requires_grad in needed:
            parameter.requires_grad_(requires_grad)
