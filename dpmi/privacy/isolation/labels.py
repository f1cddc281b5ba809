"""Where the records of a physical batch are in a tensor, and what does not depend on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Coupled(RuntimeError):
    """Records meet, or may meet, in this call: the buckets of this pass cannot be told apart."""


class Records(NamedTuple):
    """The label of a tensor that holds one part per record, each computed from that record and public values alone.

    Dimension ``dim`` has size ``before * N * within``, and index i of it belongs to record ``i // within % N``. The
    plain batch-first tensor is ``Records(0)``; a tensor (heads * N, ...) is ``Records(0, before=heads)``, one of
    (N * tokens, ...) is ``Records(0, within=tokens)``, a time-major one ``Records(1)``.
    """

    dim: int
    before: int = 1
    within: int = 1


@dataclass(frozen=True, slots=True)
class Public:
    """The label of a tensor whose values depend on no record.

    Args:
        constant: dimensions along which the values are all the same, or independent draws from one distribution; only
            along these may a public tensor meet the records of another one entry by entry.
        following: dimensions whose size follows the number of records, as two dry runs of different sizes showed.
        everywhere: whether it is constant along every dimension, whatever its shape becomes.
        empty: memory that was allocated and not filled yet.
        same: whether the values along the constant dimensions are equal, and not merely draws from one distribution:
            the greatest of N draws depends on N, the greatest of N equal values does not. Draws that are constant
            everywhere are independent of each other.
    """

    constant: frozenset[int] = frozenset()
    following: frozenset[int] = frozenset()
    everywhere: bool = False
    empty: bool = False
    same: bool = False

    def is_constant(self, dim: int) -> bool:
        """Whether the values along a dimension, counted from 0, are interchangeable."""
        return self.everywhere or dim in self.constant


Label = Records | Public

PUBLIC = Public()
CONSTANT = Public(everywhere=True)
SAME = Public(everywhere=True, same=True)
