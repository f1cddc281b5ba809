"""What the numbers of a study depend on besides its settings: the content of its data and of its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Content:
    """Digests of what a study reads; where it lies plays no part.

    Args:
        data: of all images and labels, as loaded: :attr:`dpmi.data.Split.digest`.
        weights: of what training starts from; empty where it starts afresh.
    """

    data: str
    weights: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Content:
        """Read what :meth:`to_json` returned.

        Raises:
            TypeError: it is something else.
        """
        found = cls(**record)
        if not all(isinstance(value, str) for value in record.values()):
            raise TypeError(f"digests must be texts, got {record}")
        return found
