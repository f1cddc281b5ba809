"""Atomic writing of files and folders: they appear complete or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial-"
"""Prefix of the names of incomplete files, which a killed process may leave."""

_WINDOWS = sys.platform == "win32"


@contextmanager
def replacing(final: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``final``, which replaces ``final`` once all content is on the disk.

    Args:
        final: a file or a folder, which may already exist.

    Raises:
        OSError: ``final`` cannot be written; the error names it. An existing ``final`` is unchanged, and the temporary
            path is removed.
    """
    temporary = final.with_name(f"{PARTIAL}{uuid.uuid4().hex}-{final.name}")
    try:
        yield temporary
        # Without fsync, a power failure could leave an empty file under its final name.
        for part in (*temporary.iterdir(), temporary) if temporary.is_dir() else (temporary,):
            _sync(part)
        if final.is_dir():
            shutil.rmtree(final)
        temporary.replace(final)
        _sync(final.parent)
    except OSError as error:
        # The error of a full disk does not name the file.
        if error.errno is not None and error.filename is None:
            error.filename = str(final)
        raise
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sync(path: Path) -> None:
    # Windows opens no folder, and flushes a file only for those who may write to it.
    if _WINDOWS and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if _WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
