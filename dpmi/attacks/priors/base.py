"""The contract of a prior, a module that an attacker trains on public images before the attack."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from dpmi.attacks.target import Target
from dpmi.data import Images

ImageShape = tuple[int, int, int]


class Generator(nn.Module, ABC):
    """Makes images out of latent vectors.

    Args:
        latent_size: length of a latent vector, which is drawn from N(0, I).
        image_shape: (C, H, W) of the images.
        num_classes: number of classes of a conditional generator; None for an unconditional generator.

    >>> import torch
    >>> class OneLayer(Generator):
    ...     def __init__(self) -> None:
    ...         super().__init__(latent_size=4, image_shape=(1, 8, 8))
    ...         self.layer = nn.Linear(4, 64)
    ...     def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
    ...         return self.layer(latents).sigmoid().view(-1, *self.image_shape)
    >>> generator = OneLayer()
    >>> generator(torch.randn(5, generator.latent_size)).shape
    torch.Size([5, 1, 8, 8])
    """

    def __init__(self, latent_size: int, image_shape: ImageShape, num_classes: int | None = None) -> None:
        super().__init__()
        self.latent_size = latent_size
        self.image_shape = image_shape
        self.num_classes = num_classes

    @abstractmethod
    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return images (n, C, H, W) in [0, 1].

        Args:
            latents: (n, latent_size).
            labels: int64 (n,), for a conditional generator.
        """


class Gan(nn.Module):
    """A trained generator, and the discriminator that it was trained against.

    Args:
        generator: the generator.
        discriminator: maps images (n, C, H, W) to outputs whose shape depends on the prior.

    >>> import torch
    >>> from dpmi.attacks.priors import WganGP
    >>> gan = WganGP(width=0.1).build((1, 16, 16), num_classes=3)  # untrained
    >>> images = gan.generator(torch.randn(2, gan.generator.latent_size))
    >>> images.shape, gan.discriminator(images).shape
    (torch.Size([2, 1, 16, 16]), torch.Size([2]))
    """

    def __init__(self, generator: Generator, discriminator: nn.Module) -> None:
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator


class Trainer(ABC):
    """The training of one prior, step by step, so that it can be interrupted and resumed.

    Everything that a step reads and changes is in :meth:`state_dict`, including the random generator. An interrupted
    training therefore ends with the same bits as an uninterrupted one.
    """

    steps: int
    """Number of calls of :meth:`step` in the training."""

    @abstractmethod
    def step(self) -> Mapping[str, float]:
        """Take the next step; return its losses by name."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on, as tensors, numbers, strings, lists and dicts."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that :meth:`state_dict` returned."""


@dataclass(frozen=True, kw_only=True)
class Prior(ABC):
    """A module that an attacker trains on public images before the attack; the fields are its hyper-parameters.

    Args:
        seed: seed of the initial weights and of every draw in training.

    >>> import torch
    >>> from dpmi.attacks.priors import fetch
    >>> class MeanTrainer(Trainer):
    ...     steps = 1
    ...     def __init__(self, module: nn.Module, public: Images) -> None:
    ...         self.module, self.public = module, public
    ...     def step(self) -> Mapping[str, float]:
    ...         self.module.mean.copy_(self.public.mean(0))
    ...         return {"variance": float(self.public.var())}
    ...     def state_dict(self) -> dict[str, Any]:
    ...         return {}
    ...     def load_state_dict(self, state: dict[str, Any]) -> None:
    ...         pass
    >>> class MeanImage(Prior):
    ...     name = "mean-image"
    ...     def build(self, image_shape: ImageShape, num_classes: int) -> nn.Module:
    ...         module = nn.Module()
    ...         module.register_buffer("mean", torch.zeros(image_shape))
    ...         return module
    ...     def trainer(self, module: nn.Module, public: Images, target: Target | None) -> Trainer:
    ...         return MeanTrainer(module, public)
    >>> module = fetch(
    ...     MeanImage(), public=torch.full((5, 1, 8, 8), 0.25), target=None, image_shape=(1, 8, 8), num_classes=3,
    ...     folder=None, progress=lambda done, total: None)
    >>> module.mean.mean()
    tensor(0.2500)
    """

    name: ClassVar[str]
    distils: ClassVar[bool] = False
    """Whether its training queries the target; each target then has its own prior."""

    seed: int = 0

    @property
    def given(self) -> bool:
        """Whether it is already trained, so that no public image is needed."""
        return False

    @abstractmethod
    def build(self, image_shape: ImageShape, num_classes: int) -> nn.Module:
        """Return the untrained module.

        Args:
            image_shape: (C, H, W) of the target's images.
            num_classes: K of the target.

        Raises:
            ValueError: the prior does not support this image shape.
        """

    @abstractmethod
    def trainer(self, module: nn.Module, public: Images, target: Target | None) -> Trainer:
        """Return the training of a module from :meth:`build`; it trains the module in place.

        Args:
            module: untrained, in training mode.
            public: float32 (M, C, H, W) in [0, 1], M at least 1; many images stay on the disk, see
                :class:`dpmi.data.Images`.
            target: frozen; given if :attr:`distils`. The queries of the training are counted apart from the attack's
                own queries.
        """
