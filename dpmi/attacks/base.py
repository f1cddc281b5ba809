"""The contract of an attack: what it declares, what it is given, and what it gives back.

An attack is a frozen dataclass whose fields are its hyper-parameters. :meth:`Attack.run` checks everything
once, freezes the target while the attack runs and puts it back as it was; a subclass implements
:meth:`Attack._run` and trusts what it is given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from dpmi.models import IDENTITY_LOSSES, Adaptation
from dpmi.progress import Progress

from .attackable import ImageShape, attackable, check_classes, check_generator, check_range
from .priors import Gan, Generator, Prior, fetch
from .target import Budget, Target

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


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What the attacker has besides the target: public images, and what it learnt from them.

    Args:
        public: float32 (M, C, H, W) in [0, 1]; M may be 0.
        modules: the trained priors, in the order of :meth:`Attack.priors`, frozen.
        queries: records that were forwarded through the target to train them.
        grad_calls: records for which a gradient was taken through the target to train them.
    """

    public: Tensor
    modules: tuple[nn.Module, ...] = ()
    queries: int = 0
    grad_calls: int = 0


@dataclass(frozen=True, eq=False, repr=False)
class Reconstructions:
    """What an attack believes the classes look like, n images per class asked for.

    Args:
        images: float32 (R, C, H, W) in [0, 1]: exactly the tensors that were scored, never rescaled or
            rounded.
        labels: int64 (R,), the classes, in the order in which they were asked for, the n images of a class next
            to each other.
        scores: float32 (R,), the TARGET's confidence p_y in each image, in [0, 1]; higher is better.
        iterations: int64 (R,), updates made on the image that was selected.
        diverged: bool (R,), whether a cost or gradient that is not finite ended the selected image's search
            early.
        queries: records that were forwarded through the target, all restarts and checks included, and what
            :meth:`Attack.fit` asked.
        grad_calls: records for which a gradient was taken through the target, in the same way.
        stopped_by: the limit of the budget that ended the attack, ``queries``, ``grad_calls`` or ``seconds``; None
            if it came to its own end.
    """

    images: Tensor
    labels: Tensor
    scores: Tensor
    iterations: Tensor
    diverged: Tensor
    queries: int
    grad_calls: int
    stopped_by: str | None = None

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
class Candidates:
    """What :meth:`Attack._run` returns, on any device: the fields are those of :class:`Reconstructions`."""

    images: Tensor
    iterations: Tensor
    diverged: Tensor


@dataclass(frozen=True, eq=False)
class Task:
    """What :meth:`Attack._run` is given besides the target and the labels.

    Args:
        image_shape: (C, H, W).
        knowledge: what :meth:`Attack.fit` learnt.
        seed: of every random choice; see :func:`dpmi.attacks.stages.starts.child_generator`.
        progress: called with (iterations done, iterations at most).
    """

    image_shape: ImageShape
    knowledge: Knowledge
    seed: int
    progress: Progress


@dataclass(frozen=True)
class Attack(ABC):
    """A model-inversion attack; its fields are its hyper-parameters, checked when it is made."""

    name: ClassVar[str]
    requires: ClassVar[frozenset[str]]
    """What it needs to know of the target, or to have besides; a subset of :data:`REQUIREMENTS`."""
    loss: ClassVar[str | None] = None
    """What makes the target take an image for a class, a name of :data:`dpmi.models.IDENTITY_LOSSES`; None for one that
    takes no gradient."""

    @property
    def images_per_class(self) -> int:
        """How many images of a class it returns; a field of that name in an attack that returns more than one."""
        return 1

    def priors(self) -> tuple[Prior, ...]:
        """What it trains on public images before it attacks."""
        return ()

    def fit(
        self,
        target: nn.Module,
        *,
        public: Tensor,
        image_shape: ImageShape,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> Knowledge:
        """Learn from public images what :meth:`run` needs.

        Args:
            target: as for :meth:`run`; it is asked where a prior distils it.
            public: float32 (M, C, H, W) in [0, 1], none of the private images; M may be 0 for an attack that
                learns nothing.
            image_shape: (C, H, W) of the target's images.
            folder: where trained priors are kept, each under the hash of everything that it depends on, and
                taken from; None trains them again each time.
            progress: called with (steps done, steps) of one prior after another.

        Raises:
            ValueError: no public images for an attack that needs some, or images that do not fit the target.
        """
        if not self.priors():
            return Knowledge(public)
        with attackable(
            target,
            image_shape,
            name=self.name,
            requires=self.requires,
            budget=Budget(),
            reserve=0,
            seed=0,
        ) as (asked, num_classes):
            modules = tuple(
                fetch(
                    prior,
                    public=public,
                    target=asked if prior.distils else None,
                    image_shape=image_shape,
                    num_classes=num_classes,
                    folder=folder,
                    progress=progress or _silent,
                ).to(asked.device)
                for prior in self.priors()
            )
        return Knowledge(public, modules, asked.queries, asked.grad_calls)

    def run(
        self,
        target: nn.Module,
        classes: Tensor,
        *,
        image_shape: ImageShape,
        generator: torch.Generator,
        knowledge: Knowledge | None = None,
        budget: Budget | None = None,
        adaptation: Adaptation | None = None,
        progress: Progress | None = None,
    ) -> Reconstructions:
        """Reconstruct :attr:`images_per_class` images for each class.

        The target runs in evaluation mode with its parameters frozen, and is left exactly as it was: weights,
        gradients, ``requires_grad``, mode. The global random generators are neither read nor moved.

        The same seed gives the same images on a CPU. A class starts from the same points whichever other
        classes are attacked with it, but a batch of another size is rounded differently, and thousands of
        steps magnify that: pixels then agree to about 0.01, scores to 1e-4.

        Args:
            target: maps float32 images (n, C, H, W) in [0, 1] to logits (n, K), K at least 2.
            classes: int64 (R,), each in [0, K); a class that is asked for twice comes back twice.
            image_shape: (C, H, W).
            generator: one number is drawn from it, from which every class and restart gets a generator of its
                own.
            knowledge: what :meth:`fit` returned; an attack that learns nothing needs none.
            budget: what may be spent on the target; by default there is no limit.
            adaptation: what an attacker who knows the target's defence searches on in its place, one of
                :meth:`dpmi.defenses.Defense.adaptations` that the attack :meth:`takes`. The final scores are the
                target's own all the same.
            progress: called now and then with (iterations done, iterations at most).

        Returns:
            Reconstructions on the CPU.

        Raises:
            TypeError: ``target`` is no module, ``classes`` is no tensor or ``generator`` no
                ``torch.Generator``.
            ValueError: a class out of range, an image shape that the target does not take, a target whose
                output is not (n, K) or not finite, or that answers with the class alone where the attack needs
                more; knowledge that is missing or does not fit; a budget too small to begin; an adaptation that
                changes nothing for this attack.
        """
        if not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator; got {type(generator).__name__}")
        check_classes(classes)
        if adaptation is not None and not self.takes(adaptation):
            raise ValueError(
                f"adaptation {adaptation.name!r} changes nothing that {self.name} does; leave it out"
            )
        seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
        asked_for = classes.repeat_interleave(self.images_per_class)
        with attackable(
            target,
            image_shape,
            name=self.name,
            requires=self.requires,
            budget=budget or Budget(),
            reserve=len(asked_for),
            seed=seed,
            loss=None if self.loss is None else IDENTITY_LOSSES[self.loss],
        ) as (attacked, num_classes):
            check_range(classes, num_classes)
            known = knowledge or Knowledge(torch.zeros(0, *image_shape))
            self._check_knowledge(known, image_shape, classes)
            if not attacked.affords(queries=1):
                raise ValueError(
                    f"budget must allow more than {attacked.queries + len(asked_for)} queries, those of the checks "
                    f"and of the final scores, and the seconds that these take; got {budget}"
                )
            labels = classes.to(attacked.device)
            task = Task(image_shape, known, seed, progress or _silent)
            with attacked.adapted(adaptation, known.public, features="features" in self.requires):
                found = self._run(attacked, labels, task)
            # A copy, so that no later step of any attack can change what was scored.
            images = found.images.detach().clone()
            scores = attacked.confidence(images, asked_for.to(attacked.device))
        return Reconstructions(
            images=images.cpu(),
            labels=asked_for.cpu().clone(),
            scores=scores.cpu(),
            iterations=found.iterations.cpu(),
            diverged=found.diverged.cpu(),
            queries=attacked.queries + known.queries,
            grad_calls=attacked.grad_calls + known.grad_calls,
            stopped_by=attacked.stopped_by,
        )

    def takes(self, adaptation: Adaptation) -> bool:
        """Whether the attack would do something else with it: not where it has that loss, or takes no gradient."""
        if adaptation.stand_in is not None:
            return True
        if self.loss is None:
            return False
        return adaptation.penalty is not None or adaptation.loss is not IDENTITY_LOSSES[self.loss]

    def _check_knowledge(self, known: Knowledge, image_shape: ImageShape, classes: Tensor) -> None:
        wanted = self.priors()
        if len(known.modules) != len(wanted):
            names = ", ".join(prior.name for prior in wanted)
            raise ValueError(
                f"{self.name} needs what it learns from public images ({names}): call fit first, and hand run what "
                "it returns"
            )
        for module in known.modules:
            generator = module.generator if isinstance(module, Gan) else module
            if isinstance(generator, Generator):
                check_generator(generator, image_shape, classes)

    @abstractmethod
    def _run(self, target: Target, labels: Tensor, task: Task) -> Candidates:
        """Search; everything has been checked.

        Args:
            target: the frozen target, which counts what it is asked, and says what it can still afford.
            labels: int64 (R,) on the target's device.
            task: what there is besides.

        Returns:
            :attr:`images_per_class` rows for each label, next to each other.
        """


def _silent(done: int, total: int) -> None:
    """Report nothing."""
