"""The inputs of a study besides its settings: the content of its data, of its weights and of its extractor."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Content:
    """Digests of the inputs of a study; they do not depend on paths.

    Args:
        data: digest of all images and labels, as loaded: :attr:`dpmi.data.Split.digest`.
        weights: digest of the initial weights; empty if training starts from random weights.
        features: digest of the public extractor; empty if there is none.
        evaluator: digest of the weights of an evaluator that is trained already; empty if there are none.
        strangers: digest of the face recognisers that judge; empty if there are none. Measurements depend on the last
            two, models and reconstructions do not.

    >>> on = Content(data="9f86d081884c7d65")
    >>> Content.from_json(on.to_json()) == on, on.weights
    (True, '')
    """

    data: str
    weights: str = ""
    features: str = ""
    evaluator: str = ""
    strangers: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a record that :meth:`from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Content:
        """Read a record of :meth:`to_json`.

        Raises:
            TypeError: the record has other fields or types.
        """
        found = cls(**record)
        if not all(isinstance(value, str) for value in record.values()):
            raise TypeError(f"digests must be strings, got {record}")
        return found
