"""The contract of an attack: what it declares, what it is given, and what it gives back.

An attack is a frozen dataclass whose fields are its hyper-parameters. :meth:`Attack.run` checks everything
once, freezes the target while the attack runs and puts it back as it was; a subclass implements
:meth:`Attack._run` and trusts what it is given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dpmi.models import seeded

from .target import Target

Progress = Callable[[int, int], None]
ImageShape = tuple[int, int, int]

#: What an attack may declare that it needs.
REQUIREMENTS = frozenset(
    {
        "white_grad",
        "logits",
        "probs",
        "labels",
        "features",
        "bn_stats",
        "public_data",
        "generator",
        "gan_disc",
        "surrogate_models",
    }
)


@dataclass(frozen=True, eq=False, repr=False)
class Reconstructions:
    """What an attack believes the classes look like, one image per class asked for.

    Args:
        images: float32 (R, C, H, W) in [0, 1]: exactly the tensors that were scored, never rescaled or
            rounded.
        labels: int64 (R,), the classes, in the order in which they were asked for.
        scores: float32 (R,), the TARGET's confidence p_y in each image, in [0, 1]; higher is better.
        iterations: int64 (R,), updates made on the image that was selected.
        diverged: bool (R,), whether a cost or gradient that is not finite ended the selected image's search
            early.
        queries: records that were forwarded through the target, all restarts and checks included.
        grad_calls: records for which a gradient was taken through the target.
    """

    images: Tensor
    labels: Tensor
    scores: Tensor
    iterations: Tensor
    diverged: Tensor
    queries: int
    grad_calls: int

    def __len__(self) -> int:
        """Return R."""
        return len(self.labels)

    def __repr__(self) -> str:
        """Show sizes and means, not pixels."""
        return (
            f"Reconstructions({len(self)} images of {tuple(self.images.shape[1:])}, "
            f"mean score {float(self.scores.mean()):.3f}, queries={self.queries}, "
            f"grad_calls={self.grad_calls})"
        )


@dataclass(frozen=True, eq=False)
class Found:
    """What :meth:`Attack._run` returns, on any device: the fields are those of :class:`Reconstructions`."""

    images: Tensor
    iterations: Tensor
    diverged: Tensor


@dataclass(frozen=True)
class Attack(ABC):
    """A model-inversion attack; its fields are its hyper-parameters, checked when it is made."""

    name: ClassVar[str]
    requires: ClassVar[frozenset[str]]
    """What it needs to know of the target, or to have besides; a subset of :data:`REQUIREMENTS`."""

    def run(
        self,
        target: nn.Module,
        classes: Tensor,
        *,
        image_shape: ImageShape,
        generator: torch.Generator,
        progress: Progress | None = None,
    ) -> Reconstructions:
        """Reconstruct one image for each class.

        The target runs in evaluation mode with its parameters frozen, and is left exactly as it was: weights,
        gradients, ``requires_grad``, mode. The global random generators are neither read nor moved.

        The same seed gives the same images on a CPU. A class starts from the same points whichever other
        classes are attacked with it, but a batch of another size is rounded differently, and thousands of
        steps magnify
        that: pixels then agree to about 0.01, scores to 1e-4.

        Args:
            target: maps float32 images (n, C, H, W) in [0, 1] to logits (n, K), K at least 2.
            classes: int64 (R,), each in [0, K); a class that is asked for twice comes back twice.
            image_shape: (C, H, W).
            generator: one number is drawn from it, from which every class and restart gets a generator of its
                own.
            progress: called now and then with (iterations done, iterations at most).

        Returns:
            Reconstructions on the CPU.

        Raises:
            TypeError: ``target`` is no module, ``classes`` is no tensor or ``generator`` no
                ``torch.Generator``.
            ValueError: a class out of range, an image shape that the target does not take, or a target whose
                output is not (n, K) or not finite.
        """
        if not isinstance(target, nn.Module):
            raise TypeError(f"target must be a torch.nn.Module; got {type(target).__name__}")
        if not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator; got {type(generator).__name__}")
        _check_classes(classes)
        _check_image_shape(image_shape)
        device = next((p.device for p in target.parameters()), torch.device("cpu"))
        seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
        with _frozen(target), seeded(target, seed), torch.enable_grad():
            attacked = Target(target)
            num_classes = _probe(attacked, image_shape, device)
            if int(classes.max()) >= num_classes:
                raise ValueError(
                    f"classes must be in [0, {num_classes}), the target's {num_classes} outputs; "
                    f"the largest is {int(classes.max())}"
                )
            labels = classes.to(device)
            found = self._run(
                attacked, labels, image_shape=image_shape, seed=seed, progress=progress or _silent
            )
            # A copy, so that no later step of any attack can change what was scored.
            images = found.images.detach().clone()
            scores = attacked.confidence(images, labels)
        return Reconstructions(
            images=images.cpu(),
            labels=classes.cpu().clone(),
            scores=scores.cpu(),
            iterations=found.iterations.cpu(),
            diverged=found.diverged.cpu(),
            queries=attacked.queries,
            grad_calls=attacked.grad_calls,
        )

    @abstractmethod
    def _run(
        self, target: Target, labels: Tensor, *, image_shape: ImageShape, seed: int, progress: Progress
    ) -> Found:
        """Search; everything has been checked.

        Args:
            target: the frozen target, which counts what it is asked.
            labels: int64 (R,) on the target's device.
            image_shape: (C, H, W).
            seed: of every random choice; see :func:`dpmi.attacks.starts.child_generator`.
            progress: called with (iterations done, iterations at most).
        """


def require(name: str, value: object, allowed: bool, limit: str) -> None:
    """Refuse a hyper-parameter, naming it, its value and the limit that it breaks.

    >>> require("restarts", 0, 0 >= 1, "at least 1")
    Traceback (most recent call last):
    ValueError: restarts must be at least 1; got 0
    """
    if not allowed:
        raise ValueError(f"{name} must be {limit}; got {value!r}")


def _silent(done: int, total: int) -> None:
    """Report nothing."""


def _check_classes(classes: Tensor) -> None:
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


def _probe(target: Target, image_shape: ImageShape, device: torch.device) -> int:
    """Ask the target once, about black images, and return K; refuse a target that cannot be attacked."""
    try:
        logits = target.probe(image_shape, device)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(
            f"target does not take images of image_shape={tuple(image_shape)}: {error}"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 2 or logits.shape[1] < 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"target must return logits (n, K) with K at least 2 for images (n, C, H, W); "
            f"got {shape} for two images"
        )
    if not bool(logits.isfinite().all()):
        raise ValueError(
            "target returns logits that are not finite for a black image; was its training finite?"
        )
    return logits.shape[1]


@contextmanager
def _frozen(target: nn.Module) -> Iterator[None]:
    """Evaluation mode and no parameter gradients, for as long as the block lasts."""
    modes = [(module, module.training) for module in target.modules()]
    needed = [(parameter, parameter.requires_grad) for parameter in target.parameters()]
    try:
        target.eval()
        target.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in needed:
            parameter.requires_grad_(requires_grad)
