"""Model inversion: what does the classifier believe a class looks like?

>>> import torch
>>> from dpmi.attacks import get, names
>>> names()[:2]
['miface', 'enhanced']
>>> target = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
>>> attack = get("enhanced")(iterations=20)
>>> seed = torch.Generator().manual_seed(0)
>>> recons = attack.run(target, torch.arange(3), image_shape=(1, 8, 8), generator=seed)
>>> recons.images.shape, recons.queries, recons.grad_calls
(torch.Size([3, 1, 8, 8]), 68, 63)
"""

from .base import Attack, Candidates, Knowledge, Reconstructions, Task
from .brep_mi import BrepMi
from .checks import require
from .enhanced import Enhanced
from .gmi import Gmi
from .if_gmi import IfGmi
from .ked_mi import KedMi
from .lomma import LommaGmi, LommaKedMi
from .miface import MIFace
from .mirror import Mirror
from .mirror_genetic import MirrorGenetic
from .plg_mi import PlgMi
from .ppa import Ppa
from .registry import REGISTRY, get, names
from .stages.starts import child_generator
from .target import Budget, LabelsOnly, Target
from .vmi import Vmi

__all__ = [
    "REGISTRY",
    "Attack",
    "BrepMi",
    "Budget",
    "Candidates",
    "Enhanced",
    "Gmi",
    "IfGmi",
    "KedMi",
    "Knowledge",
    "LabelsOnly",
    "LommaGmi",
    "LommaKedMi",
    "MIFace",
    "Mirror",
    "MirrorGenetic",
    "PlgMi",
    "Ppa",
    "Reconstructions",
    "Target",
    "Task",
    "Vmi",
    "child_generator",
    "get",
    "names",
    "require",
]
