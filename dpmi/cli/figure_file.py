"""A ``--plot`` file: refused before anything is computed, written whole or not at all."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from dpmi.whole_files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")


def check(path: Path) -> None:
    """Refuse what could not be written afterwards.

    Raises:
        ValueError: an unknown suffix, a folder, or a place where no file can be written.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--plot is {path}; it must end in {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise ValueError(f"--plot is {path}, which is a folder; name a file")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"--plot is {path}; no file can be written there: {error.strerror}") from error


def save(figure: Figure, path: Path) -> None:
    """Write the whole picture, in the place of an older one, or nothing."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix("."))
