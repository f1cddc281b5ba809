"""The contract of an attack: its declarations, its inputs and its result.

An attack is a frozen dataclass whose fields are its hyper-parameters. :meth:`Attack.run` validates all inputs, freezes
the target while the attack runs and restores it afterwards. A subclass implements :meth:`Attack._run`, which needs no
further checks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from dpmi.data import Images
from dpmi.models import IDENTITY_LOSSES, Adaptation
from dpmi.progress import Progress

from .attackable import ImageShape, attackable, check_classes, check_generator, check_range
from .priors import Gan, Generator, Prior, fetch
from .target import Budget, Target

#: The values allowed in :attr:`Attack.requires`.
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
    """The attacker's knowledge besides the target: public images, and the priors trained on them.

    Args:
        public: float32 (M, C, H, W) in [0, 1]; M may be 0. Many images stay on the disk and are no tensor, but
            :class:`dpmi.data.Images`.
        modules: the trained priors, in the order of :meth:`Attack.priors`, frozen.
        queries: number of records forwarded through the target to train the priors.
        grad_calls: number of records for which the training of the priors took a gradient through the target.
        labels: int64 (M,), the classes of the public images, which are not those of the target; None if unknown.

    >>> from dpmi import attacks, models
    >>> target = models.build("softmax", image_shape=(1, 16, 16), num_classes=3, seed=0)
    >>> public = torch.rand(20, 1, 16, 16)
    >>> attack = attacks.LommaGmi(
    ...     prior=attacks.priors.WganGP(steps=1, width=0.1), surrogates=attacks.priors.Surrogates(steps=1))
    >>> knowledge = attack.fit(target, public=public, image_shape=(1, 16, 16))
    >>> [type(module).__name__ for module in knowledge.modules], knowledge.queries
    (['Gan', 'ModuleList', 'FeatureMoments'], 42)
    """

    public: Images
    modules: tuple[nn.Module, ...] = ()
    queries: int = 0
    grad_calls: int = 0
    labels: Tensor | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Reconstructions:
    """The images that an attack reconstructed, n for each requested class.

    Args:
        images: float32 (R, C, H, W) in [0, 1]: exactly the tensors that were scored, neither rescaled nor rounded.
        labels: int64 (R,), the classes in the requested order; the n images of a class are adjacent.
        scores: float32 (R,), the TARGET's confidence p_y in each image, in [0, 1]; higher is better.
        iterations: int64 (R,), number of updates of the selected image.
        diverged: bool (R,), whether a cost or gradient that is not finite ended the search of the selected image.
        queries: number of records forwarded through the target, including all restarts, checks and the queries of
            :meth:`Attack.fit`.
        grad_calls: number of records for which a gradient was taken through the target, counted in the same way.
        stopped_by: the limit of the budget that ended the attack: ``queries``, ``grad_calls`` or ``seconds``; None if
            the attack reached its regular end.

    >>> from dpmi import attacks, models
    >>> target = models.build("softmax", image_shape=(1, 8, 8), num_classes=3, seed=0)
    >>> attack, seed = attacks.MIFace(iterations=50), torch.Generator().manual_seed(0)
    >>> recons = attack.run(target, torch.tensor([2, 0]), image_shape=(1, 8, 8), generator=seed)
    >>> recons.images.shape, recons.labels.tolist(), recons.scores.shape, recons.stopped_by
    (torch.Size([2, 1, 8, 8]), [2, 0], torch.Size([2]), None)
    >>> attack.run(
    ...     target, torch.tensor([2, 0]), image_shape=(1, 8, 8), generator=seed, budget=Budget(queries=40)
    ... ).stopped_by
    'queries'
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
        return len(self.labels)

    def __repr__(self) -> str:
        return (
            f"Reconstructions({len(self)} images of {tuple(self.images.shape[1:])}, "
            f"mean score {float(self.scores.mean()):.3f}, queries={self.queries}, "
            f"grad_calls={self.grad_calls})"
        )


@dataclass(frozen=True, eq=False)
class Candidates:
    """The result of :meth:`Attack._run`, on any device; the fields are those of :class:`Reconstructions`."""

    images: Tensor
    iterations: Tensor
    diverged: Tensor


@dataclass(frozen=True, eq=False)
class Task:
    """The inputs of :meth:`Attack._run` besides the target and the labels.

    Args:
        image_shape: (C, H, W).
        knowledge: the result of :meth:`Attack.fit`.
        seed: seed of every random choice; see :func:`dpmi.attacks.stages.starts.child_generator`.
        progress: called with (iterations done, maximum number of iterations).

    >>> from dpmi import models
    >>> class Noise(Attack):
    ...     name = "noise"
    ...     requires = frozenset({"labels"})
    ...     def _run(self, target: Target, labels: Tensor, task: Task) -> Candidates:
    ...         random = torch.Generator().manual_seed(task.seed)
    ...         images = torch.rand(len(labels), *task.image_shape, generator=random)
    ...         return Candidates(images, torch.zeros_like(labels), torch.zeros(len(labels), dtype=torch.bool))
    >>> target = models.build("softmax", image_shape=(1, 8, 8), num_classes=3, seed=0)
    >>> seed = torch.Generator().manual_seed(0)
    >>> Noise().run(target, torch.arange(3), image_shape=(1, 8, 8), generator=seed).images.shape
    torch.Size([3, 1, 8, 8])
    """

    image_shape: ImageShape
    knowledge: Knowledge
    seed: int
    progress: Progress

    @property
    def gan(self) -> Gan:
        """The GAN that the knowledge begins with, of an attack whose first prior is one."""
        gan = self.knowledge.modules[0]
        assert isinstance(gan, Gan)
        return gan


@dataclass(frozen=True)
class Attack(ABC):
    """A model inversion attack; its fields are its hyper-parameters, which the constructor validates."""

    name: ClassVar[str]
    requires: ClassVar[frozenset[str]]
    """The access to the target and the resources that the attack needs; a subset of :data:`REQUIREMENTS`."""
    loss: ClassVar[str | None] = None
    """The identity loss, small for an image that the target assigns to the class: a name in
    :data:`dpmi.models.IDENTITY_LOSSES`; None for an attack that takes no gradient."""

    @property
    def images_per_class(self) -> int:
        """Number of images returned for each class; an attack that returns more than one has a field of this name."""
        return 1

    def priors(self) -> tuple[Prior, ...]:
        """The priors, which :meth:`fit` trains on public images before the attack."""
        return ()

    def fit(
        self,
        target: nn.Module,
        *,
        public: Images,
        public_labels: Tensor | None = None,
        image_shape: ImageShape,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> Knowledge:
        """Gather what :meth:`run` needs to know: public images, and priors trained on them.

        Args:
            target: as for :meth:`run`; it is queried only if a prior distils it.
            public: float32 (M, C, H, W) in [0, 1], none of the private images; M may be 0 for an attack that does not
                require public data.
            public_labels: int64 (M,), the classes of the public images; None if unknown.
            image_shape: (C, H, W) of the target's images.
            folder: cache of trained priors, each stored under the hash of all its inputs; None trains them each time.
            progress: called with (steps done, steps) for one prior after another.

        Raises:
            ValueError: the attack needs public images and there are none, or the images do not fit the target.
        """
        if not self.priors():
            return Knowledge(public, labels=public_labels)
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
        return Knowledge(public, modules, asked.queries, asked.grad_calls, public_labels)

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

        The target runs in evaluation mode with frozen parameters. Afterwards its weights, gradients, ``requires_grad``
        and mode are unchanged. The global random generators are neither read nor advanced.

        The same seed gives the same images on a CPU. The starting points of a class do not depend on the other
        classes of the call. A batch of another size is rounded differently, however, and thousands of steps amplify
        the difference: pixels then agree to about 0.01, scores to 1e-4.

        Args:
            target: maps float32 images (n, C, H, W) in [0, 1] to logits (n, K), K at least 2.
            classes: int64 (R,), each in [0, K); a class that is listed twice is attacked twice.
            image_shape: (C, H, W).
            generator: one number is drawn from it; the generators of all classes and restarts derive from that number.
            knowledge: the result of :meth:`fit`; needed by an attack with priors or that requires public data.
            budget: limits on the use of the target; no limit by default.
            adaptation: makes the attack an adaptive attack: the search runs on an adapted model instead of the target.
                One of :meth:`dpmi.defenses.Defense.adaptations` that the attack :meth:`takes`. The final scores are
                always the target's own.
            progress: called from time to time with (iterations done, maximum number of iterations).

        Returns:
            Reconstructions on the CPU.

        Raises:
            TypeError: ``target`` is not a module, ``classes`` is not a tensor or ``generator`` is not a
                ``torch.Generator``.
            ValueError: a class is out of range; the target does not accept the image shape; its output is not (n, K)
                or not finite; the target returns labels only and the attack needs more; the knowledge is missing or
                does not fit; the budget is too small to start; the adaptation has no effect on this attack.
        """
        if not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator; got {type(generator).__name__}")
        check_classes(classes)
        if adaptation is not None and not self.takes(adaptation):
            raise ValueError(
                f"adaptation {adaptation.name!r} has no effect on {self.name}; run the attack without it"
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
                    f"budget must allow more than the {attacked.queries + len(asked_for)} queries of the checks and "
                    f"of the final scores, and the seconds that these take; got {budget}"
                )
            labels = classes.to(attacked.device)
            task = Task(image_shape, known, seed, progress or _silent)
            with attacked.adapted(adaptation, known.public, features="features" in self.requires):
                found = self._run(attacked, labels, task)
            # Copied: the scored images must not share memory with the attack's state.
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
        """Whether the adaptation changes the attack.

        It does not if its loss is already that of the attack, or if the attack takes no gradient and the adaptation
        replaces no model.
        """
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
                f"{self.name} needs priors trained on public images ({names}): call fit and pass its result to run "
                "as knowledge"
            )
        if "public_data" in self.requires and not wanted and len(known.public) == 0:
            raise ValueError(
                f"{self.name} needs public images, but there are none: call fit with public images and pass its "
                "result to run as knowledge"
            )
        for module in known.modules:
            generator = module.generator if isinstance(module, Gan) else module
            if isinstance(generator, Generator):
                check_generator(generator, image_shape, classes)

    @abstractmethod
    def _run(self, target: Target, labels: Tensor, task: Task) -> Candidates:
        """Run the search; all inputs are already validated.

        Args:
            target: the frozen target, which counts queries and gradient calls and enforces the budget.
            labels: int64 (R,) on the target's device.
            task: the further inputs.

        Returns:
            :attr:`images_per_class` adjacent rows for each label.
        """


def _silent(done: int, total: int) -> None:
    """Report nothing."""
