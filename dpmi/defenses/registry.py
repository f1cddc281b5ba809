"""The defences by name: the built-in ones, and those of installed packages."""

from __future__ import annotations

from dpmi.plugins import Registry

from .base import Defense
from .bucket_dp import ClassDP, SubclassDP
from .none import NoDefense
from .record_dp import RecordDP

REGISTRY: Registry[Defense] = Registry("dpmi.defenses", "defence", (NoDefense, RecordDP, ClassDP, SubclassDP))

get = REGISTRY.get
names = REGISTRY.names
