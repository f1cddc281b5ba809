"""Types of the progress callbacks of long computations."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (units done, all units); units are updates, iterations or records."""

StageProgress = Callable[[str, int, int], None]
"""Called with (stage, units done, all units of that stage)."""
