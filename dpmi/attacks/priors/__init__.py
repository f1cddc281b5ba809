"""What an attacker learns from public images before it attacks: generators, discriminators, surrogates.

A prior is a frozen dataclass of hyper-parameters; :func:`fetch` trains it, or takes it from a cache.
"""

from .base import Gan, Generator, Prior, Trainer
from .cache import DamagedCacheWarning, fetch, samples

__all__ = ["DamagedCacheWarning", "Gan", "Generator", "Prior", "Trainer", "fetch", "samples"]
