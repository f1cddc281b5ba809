"""What long work reports while it goes on."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (units done, all units), such as updates, iterations or records."""

StageProgress = Callable[[str, int, int], None]
"""Called with (stage, units done, all units of that stage)."""
