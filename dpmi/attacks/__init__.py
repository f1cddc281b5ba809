"""Model inversion attacks: reconstruct what a classifier reveals about its classes.

A model inversion attack (MIA) computes images that represent a class of a trained classifier. In dpmi, MIA always has
this meaning. A membership inference attack, which other texts also call MIA, decides instead whether a given record was
in the training data; dpmi has none. The *advantage* of a model inversion attack, its gain over baselines without the
model, is defined in :mod:`dpmi.metrics`.

Citations such as [Z20] are resolved in docs/references.md.

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
from .label_mean import LabelMean
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
from .wiener import Wiener

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
    "LabelMean",
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
    "Wiener",
    "child_generator",
    "get",
    "names",
    "require",
]
