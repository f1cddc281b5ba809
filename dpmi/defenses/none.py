"""No defence: the baseline of all comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import Defense


@dataclass(frozen=True, kw_only=True)
class NoDefense(Defense):
    """Ordinary training with cross-entropy."""

    name: ClassVar[str] = "none"
