"""Base classes of the priors' training: batches in random order, optimizers, alternating GAN steps.

All draws come from torch's default generator on the CPU, which :func:`.cache.fetch` seeds, stores and restores.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import ref

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from dpmi.attacks.checks import at_least_one, check_rate, require
from dpmi.attacks.target import Target
from dpmi.data import Images
from dpmi.models import in_batches
from dpmi.precision import Precision, check_precision, forward_in, widened

from .base import Gan, Prior, Trainer

#: Number of public images in one query batch.
_ASKED_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class BatchPrior(Prior):
    """A prior that is trained on batches of public images.

    Args:
        steps: number of batches.
        batch_size: images per batch; all of them if there are fewer.
        learning_rate: learning rate of the optimizer.
        precision: "float32", or "bf16": forward passes in bfloat16; see :mod:`dpmi.precision`.

    Raises:
        ValueError: a value is outside its range.
    """

    steps: int
    batch_size: int = 64
    learning_rate: float
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        at_least_one(self, "steps")
        require("batch_size", self.batch_size, self.batch_size >= 2, "at least 2")
        check_rate(self.learning_rate)
        check_precision(self.precision)


@dataclass(frozen=True, kw_only=True)
class GanPrior(BatchPrior):
    """A generator and a discriminator, trained alternately by Adam.

    Args:
        steps: number of batches of the discriminator.
        generator_every: the generator takes one step per this many discriminator steps; 5 in the papers.
        width: factor on the published numbers of channels.
        latent_size: length of a latent vector.
    """

    betas: ClassVar[tuple[float, float]]
    """The betas of Adam."""

    generator_every: int
    width: float
    latent_size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "generator_every", "latent_size")
        require("width", self.width, 0 < self.width < float("inf"), "above 0 and finite")


class BatchTrainer(Trainer):
    """Steps on batches of the public images: repeated passes over all rows, each in a new random order.

    Args:
        count: M, the number of rows.
        prior: the hyper-parameters.
        optimizers: optimizers of the prior's module, by name.
    """

    def __init__(self, count: int, prior: BatchPrior, optimizers: Mapping[str, Optimizer]) -> None:
        self.steps = prior.steps
        self.optimizers = optimizers
        self._precision = prior.precision
        self._batch_size = min(prior.batch_size, count)
        self._count = count
        self._order = torch.zeros(0, dtype=torch.int64)
        self._done = 0

    @abstractmethod
    def losses(self, rows: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield, for one batch, the name of an optimizer and its loss, one after the other.

        Args:
            rows: int64 (n,) on the CPU, rows of the public images.
        """

    def step(self) -> dict[str, float]:
        """Take one step of each optimizer that has a loss."""
        if len(self._order) < self._batch_size:
            self._order = torch.randperm(self._count)
        rows, self._order = self._order.tensor_split([self._batch_size])
        self._done += 1
        taken = {}
        for name, loss in self._autocast(self.losses(rows)):
            self.optimizers[name].zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizers[name].step()
            taken[name] = float(loss.detach())
        return taken

    def _autocast(self, losses: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Yield the losses; only their computation, not the backward pass of the caller, is under autocast."""
        (optimizer, *_) = self.optimizers.values()
        device = optimizer.param_groups[0]["params"][0].device
        while True:
            with forward_in(self._precision, device):
                found = next(losses, None)
            if found is None:
                return
            yield found[0], widened(found[1])

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizers, the remaining rows of this pass, and the number of steps."""
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        # Copied, because torch.save would write the whole pass for a view of it.
        return {"optimizers": optimizers, "order": self._order.clone(), "done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that :meth:`state_dict` returned."""
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self._order, self._done = state["order"], state["done"]


class GanTrainer(BatchTrainer):
    """One discriminator step per batch, and one generator step per ``generator_every`` batches.

    Args:
        gan: trained in place.
        public: float32 (M, C, H, W) in [0, 1].
        prior: the hyper-parameters.
    """

    def __init__(self, gan: Gan, public: Images, prior: GanPrior) -> None:
        optimizers = {
            name: Adam(network.parameters(), lr=prior.learning_rate, betas=prior.betas)
            for name, network in (("discriminator", gan.discriminator), ("generator", gan.generator))
        }
        super().__init__(len(public), prior, optimizers)
        self.gan = gan
        self.public = public
        self._generator_every = prior.generator_every

    @abstractmethod
    def discriminator_loss(self, rows: Tensor) -> Tensor:
        """Return the discriminator's loss on these public images and on generated images."""

    @abstractmethod
    def generator_loss(self, rows: Tensor) -> Tensor:
        """Return the generator's loss; the discriminator's parameters require no gradient during this call."""

    def losses(self, rows: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the discriminator's loss, and the generator's if its step is due."""
        yield "discriminator", self.discriminator_loss(rows)
        if self._done % self._generator_every == 0:
            with _without_gradients(self.gan.discriminator):
                yield "generator", self.generator_loss(rows)

    def latents(self, count: int) -> Tensor:
        """Draw latent vectors (count, latent_size) from N(0, I)."""
        return torch.randn(count, self.gan.generator.latent_size).to(self.public.device)

    def fakes(self, count: int) -> Tensor:
        """Return generated images for the discriminator, without gradients for the generator."""
        with torch.no_grad():
            images: Tensor = self.gan.generator(self.latents(count))
        return widened(images)


def in_channels_last(gan: Gan) -> Gan:
    """Return the networks in the memory layout in which convolutions of few channels train up to twice as fast."""
    return gan.to(memory_format=torch.channels_last)


def soft_labels(target: Target, images: Images) -> Tensor:
    """Return the target's softmax (M, K) for images (M, C, H, W); M queries.

    An attack often trains several priors that distil one target, and a study runs several attacks. The last result is
    cached, because the queries can take as long as the training itself; they are counted each time.
    """
    global _last_answer  # noqa: PLW0603 - a memory of one process, which changes no result
    # A GPU is fast enough, and the state of its random generator is not part of the key.
    if target.device.type != "cpu":
        return _asked(target, images)
    # A target that draws noise gives the same result only from the same state of the random generator.
    version = images._version if isinstance(images, Tensor) else 0
    question = (target.digest(), version, torch.default_generator.get_state().numpy().tobytes())
    last = _last_answer
    if last is None or last.images() is not images or last.question != question:
        labels = _asked(target, images)
        last = _last_answer = _Answer(ref(images), question, labels, torch.default_generator.get_state())
    else:
        target.queries += len(images)
        torch.default_generator.set_state(last.generator)
    return last.labels


@dataclass(frozen=True, eq=False)
class _Answer:
    """A target's softmax for images, and the state of torch's default generator afterwards."""

    images: ref[Images]
    question: tuple[bytes, int, bytes]
    labels: Tensor
    generator: Tensor


_last_answer: _Answer | None = None


def _asked(target: Target, images: Images) -> Tensor:
    return in_batches(lambda some: target.logits(some).softmax(dim=1), images, _ASKED_AT_ONCE)


@contextmanager
def _without_gradients(network: nn.Module) -> Iterator[None]:
    try:
        network.requires_grad_(False)
        yield
    finally:
        network.requires_grad_(True)
