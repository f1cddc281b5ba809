"""The attacks by name: the built-in ones, and those of installed packages."""

from __future__ import annotations

from dpmi.plugins import Registry

from .base import Attack
from .enhanced import Enhanced
from .miface import MIFace

REGISTRY: Registry[Attack] = Registry("dpmi.attacks", "attack", (MIFace, Enhanced))

get = REGISTRY.get
names = REGISTRY.names
