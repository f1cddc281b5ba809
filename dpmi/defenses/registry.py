"""Registry of the defences by name: the built-in defences, those of installed packages, and compositions of them.

>>> names()[:4], REGISTRY.get("mid").strength_field
(['none', 'record-dp', 'class-dp', 'subclass-dp'], 'beta')
"""

from __future__ import annotations

from accountants.plugins import Registry

from .base import Defense
from .bido import BiDOCOCO, BiDOHSIC
from .bucket_dp import ClassDP, SubclassDP, UserDP
from .calor import CALoR
from .composition import SEPARATOR, composition
from .label_smoothing import LabelSmoothing
from .mid import MID
from .none import NoDefense
from .random_erasing import RandomErasing
from .record_dp import RecordDP
from .skip_removal import SkipRemoval
from .transfer import Transfer
from .trapdoor import Trapdoor

REGISTRY: Registry[type[Defense]] = Registry(
    "dpmi.defenses",
    "defence",
    Defense,
    (
        NoDefense,
        RecordDP,
        ClassDP,
        SubclassDP,
        UserDP,
        MID,
        BiDOHSIC,
        BiDOCOCO,
        LabelSmoothing,
        CALoR,
        RandomErasing,
        SkipRemoval,
        Transfer,
        Trapdoor,
    ),
    classes=True,
)
"""The defences by name: the built-in defences and those of installed packages."""

names = REGISTRY.names


def get(name: str) -> type[Defense]:
    """Return the defence of this name; names joined by "+" denote a composition.

    Raises:
        PluginError: (a ValueError) the name is unknown, or the parts cannot be combined; the message gives the reason.

    >>> [f for f in get("class-dp+none").fields()]
    Traceback (most recent call last):
    accountants.plugins.PluginError: defence 'class-dp+none' cannot be combined: none changes nothing; leave it out
    """
    kinds = tuple(REGISTRY.get(part) for part in name.split(SEPARATOR))
    return kinds[0] if len(kinds) == 1 else composition(kinds)
