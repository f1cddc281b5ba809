"""The environments of the peers that do not install beside dpmi: ``python -m benchmarks.peers --install``.

jax_privacy 2.0 needs dp-accounting 0.6 or later, pfl 0.6 an earlier one, so there are two. That of pfl uses the torch
of this Python, so that both time the same build.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

from .protocol import ROOT
from .rows import JAX, PFL

#: The variable with the folder of both environments.
VARIABLE = "DPMI_PEERS"
PACKAGES = {
    JAX: ("jax-privacy==2.0.0", "jax==0.10.2", "jaxlib==0.10.2"),
    PFL: ("pfl==0.6.0",),
}


def folder() -> Path:
    """The folder of the environments: ``DPMI_PEERS``, or ``.peers`` beside the packages."""
    return Path(os.environ.get(VARIABLE) or ROOT / ".peers")


class NotInstalled(Exception):
    """A peer's environment does not exist."""


def python_of(peer: str) -> Path:
    """Return the Python of a peer.

    Raises:
        NotInstalled: there is none.
    """
    python = folder() / peer / "bin" / "python"
    if not python.exists():
        raise NotInstalled(f"{peer} is not installed: run `python -m benchmarks.peers --install`")
    return python


def install() -> bool:
    """Make both environments; return whether all packages were installed on this Python. pip prints why not."""
    done = []
    for peer, packages in PACKAGES.items():
        place = folder() / peer
        venv.create(place, with_pip=True, clear=True)
        command = [place / "bin" / "pip", "install", "--disable-pip-version-check", "--quiet", *packages]
        done.append(subprocess.run(command, check=False).returncode == 0)
        if not done[-1]:
            shutil.rmtree(place)
        elif peer == PFL:  # torch is found after the environment's own packages
            (found,) = place.glob("lib/python*/site-packages")
            (found / "torch.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return all(done)
