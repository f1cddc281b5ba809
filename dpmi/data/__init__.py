"""Data sets: the private images that train the target, and the attacker's public images.

Citations such as [Z20] are resolved in docs/references.md.
"""

from dpmi.data.lazy import Images, blocks
from dpmi.data.read_omniglot import Characters, read_characters
from dpmi.data.registry import REGISTRY, Dataset, check_options, load, names
from dpmi.data.roles import RoleDraw, Roles
from dpmi.data.split import Distance, ImageSet, Split
from dpmi.data.users import with_users

__all__ = [
    "REGISTRY",
    "Characters",
    "Dataset",
    "Distance",
    "ImageSet",
    "Images",
    "RoleDraw",
    "Roles",
    "Split",
    "blocks",
    "check_options",
    "load",
    "names",
    "read_characters",
    "with_users",
]
