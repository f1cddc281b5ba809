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

from .base import Attack, Found, Knowledge, Progress, Reconstructions, Task
from .enhanced import Enhanced
from .miface import MIFace
from .registry import get, names
from .target import Budget, LabelsOnly, Target

__all__ = [
    "Attack",
    "Budget",
    "Enhanced",
    "Found",
    "Knowledge",
    "LabelsOnly",
    "MIFace",
    "Progress",
    "Reconstructions",
    "Target",
    "Task",
    "get",
    "names",
]
