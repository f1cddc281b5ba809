"""Registry of the attacks by name: the built-in attacks and those of installed packages.

>>> REGISTRY.get("ppa").loss, sorted(REGISTRY.get("brep-mi").requires)
('poincare', ['generator', 'labels', 'public_data'])
"""

from __future__ import annotations

from accountants.plugins import Registry

from .base import Attack
from .brep_mi import BrepMi
from .enhanced import Enhanced
from .gmi import Gmi
from .if_gmi import IfGmi
from .ked_mi import KedMi
from .label_mean import LabelMean
from .lomma import LommaGmi, LommaKedMi
from .miface import MIFace
from .mirror import Mirror
from .mirror_genetic import MirrorGenetic
from .plg_mi import PlgMi
from .ppa import Ppa
from .vmi import Vmi
from .wiener import Wiener

REGISTRY: Registry[type[Attack]] = Registry(
    "dpmi.attacks",
    "attack",
    Attack,
    (
        MIFace,
        Enhanced,
        Gmi,
        KedMi,
        Vmi,
        LommaGmi,
        LommaKedMi,
        BrepMi,
        PlgMi,
        Ppa,
        Mirror,
        MirrorGenetic,
        IfGmi,
        LabelMean,
        Wiener,
    ),
    classes=True,
)
"""The attacks by name: the built-in attacks and those of installed packages."""

get = REGISTRY.get
names = REGISTRY.names
