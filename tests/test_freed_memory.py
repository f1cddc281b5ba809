"""Freed memory stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, sys, torch
from torch import nn
from dpmi.freed_memory import keep_freed_memory

torch.set_num_threads(1)
model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 16, 3), nn.ReLU())
x = torch.rand(200, 1, 28, 28)  # 27 MiB in the tensors of a forward pass

def step():
    model(x).sum().backward()

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(4):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc of glibc")
def test_steps_cause_no_page_faults() -> None:
    faults = {}
    for way in ("keep", "default"):
        child = subprocess.run([sys.executable, "-c", STEPS, way], capture_output=True, text=True, check=True)
        faults[way] = int(child.stdout)
    assert faults["keep"] * 20 < faults["default"], faults
