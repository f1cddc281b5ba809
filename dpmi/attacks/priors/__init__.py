"""Priors: generators, discriminators and surrogates that an attacker trains on public images before the attack.

A prior is a frozen dataclass of hyper-parameters; :func:`fetch` trains it or loads it from a cache.
"""

from .base import Gan, Generator, Prior, Trainer
from .cache import DamagedCacheWarning, fetch, samples
from .conditional_gan import ConditionalGan
from .feature_statistics import FeatureMoments, FeatureStatistics
from .inversion_gan import InversionGan
from .style.network import StyleGenerator
from .style.prior import StylePrior
from .surrogates import Surrogates
from .wgan_gp import WganGP

__all__ = [
    "ConditionalGan",
    "DamagedCacheWarning",
    "FeatureMoments",
    "FeatureStatistics",
    "Gan",
    "Generator",
    "InversionGan",
    "Prior",
    "StyleGenerator",
    "StylePrior",
    "Surrogates",
    "Trainer",
    "WganGP",
    "fetch",
    "samples",
]
