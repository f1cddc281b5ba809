"""The attacks by name: the built-in ones, and those of installed packages."""

from __future__ import annotations

from dpmi.plugins import Registry

from .base import Attack
from .brep_mi import BrepMi
from .enhanced import Enhanced
from .gmi import Gmi
from .ked_mi import KedMi
from .lomma import LommaGmi, LommaKedMi
from .miface import MIFace
from .plg_mi import PlgMi
from .vmi import Vmi

REGISTRY: Registry[Attack] = Registry(
    "dpmi.attacks",
    "attack",
    (MIFace, Enhanced, Gmi, KedMi, Vmi, LommaGmi, LommaKedMi, BrepMi, PlgMi),
)

get = REGISTRY.get
names = REGISTRY.names
