"""The contract of a prior: what an attacker learns from public images before it attacks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from dpmi.attacks.target import Target

ImageShape = tuple[int, int, int]


class Generator(nn.Module, ABC):
    """Makes images out of latent vectors.

    Args:
        latent_size: length of a latent vector, which is drawn from N(0, I).
        image_shape: (C, H, W) of the images.
        num_classes: of a generator that is told the class; None if it is not.
    """

    def __init__(self, latent_size: int, image_shape: ImageShape, num_classes: int | None = None) -> None:
        """Remember the shapes."""
        super().__init__()
        self.latent_size = latent_size
        self.image_shape = image_shape
        self.num_classes = num_classes

    @abstractmethod
    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return images (n, C, H, W) in [0, 1].

        Args:
            latents: (n, latent_size).
            labels: int64 (n,), for a generator that is told the class.
        """


class Gan(nn.Module):
    """A trained generator, and the discriminator that it was trained against.

    Args:
        generator: a :class:`Generator`.
        discriminator: maps images (n, C, H, W) to what its prior says.
    """

    def __init__(self, generator: Generator, discriminator: nn.Module) -> None:
        """Hold both."""
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator


class Trainer(ABC):
    """The training of one prior, step by step, so that it can be stopped and taken up again.

    Everything that a step reads and changes is in :meth:`state_dict`, the random generator too: an interrupted
    training ends where an uninterrupted one does, bit for bit.
    """

    steps: int
    """How many calls of :meth:`step` the training takes."""

    @abstractmethod
    def step(self) -> Mapping[str, float]:
        """Take the next step; return its losses by name."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, of tensors, numbers, texts, lists and dicts."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where :meth:`state_dict` was called."""


@dataclass(frozen=True, kw_only=True)
class Prior(ABC):
    """What an attacker trains on public images before it attacks; the fields are the hyper-parameters.

    Args:
        seed: of the initial weights and of every draw in training.
    """

    name: ClassVar[str]
    distils: ClassVar[bool] = False
    """Whether it asks the target while it trains; it is then another one for every target."""

    seed: int = 0

    @property
    def given(self) -> bool:
        """Whether it comes trained, so that no public image is needed."""
        return False

    @abstractmethod
    def build(self, image_shape: ImageShape, num_classes: int) -> nn.Module:
        """Return the untrained module.

        Args:
            image_shape: (C, H, W) of the target's images.
            num_classes: K of the target.

        Raises:
            ValueError: it makes no images of that shape.
        """

    @abstractmethod
    def trainer(self, module: nn.Module, public: Tensor, target: Target | None) -> Trainer:
        """Return the training of what :meth:`build` returned; it trains the module in place.

        Args:
            module: untrained, in training mode.
            public: float32 (M, C, H, W) in [0, 1], M at least 1.
            target: frozen; given if :attr:`distils`. What the training asks it is counted apart from the attack's
                own queries.
        """
