"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial-"
"""What the names begin with of those that a killed process left half-written."""


@contextmanager
def replacing(final: Path) -> Iterator[Path]:
    """A temporary path beside ``final`` that takes its place when all has been written, and is on the disk.

    Args:
        final: a file or a folder, which may be there already.

    Raises:
        OSError: it cannot be written, and the error names it; what was there is there still, and nothing is left
            beside it.
    """
    temporary = final.with_name(f"{PARTIAL}{uuid.uuid4().hex}-{final.name}")
    try:
        yield temporary
        # A power cut must not leave an empty file under its final name.
        for part in (*temporary.iterdir(), temporary) if temporary.is_dir() else (temporary,):
            _sync(part)
        if final.is_dir():
            shutil.rmtree(final)
        temporary.replace(final)
        _sync(final.parent)
    except OSError as error:
        # A full disk does not say what could not be written.
        if error.errno is not None and error.filename is None:
            error.filename = str(final)
        raise
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
