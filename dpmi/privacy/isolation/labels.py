"""Labels of tensors: the location of a physical batch's records, or independence from all records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Coupled(RuntimeError):
    """A call mixes records, or may mix them, so the gradient of this pass cannot be split by bucket."""


class Records(NamedTuple):
    """The label of a tensor that holds one part per record, computed only from that record and public values.

    Dimension ``dim`` has size ``before * N * within``, and its index i belongs to record ``i // within % N``. A
    batch-first tensor is ``Records(0)``, a tensor (heads * N, ...) is ``Records(0, before=heads)``, a tensor
    (N * tokens, ...) is ``Records(0, within=tokens)``, and a time-major tensor is ``Records(1)``.
    """

    dim: int
    before: int = 1
    within: int = 1


@dataclass(frozen=True, slots=True)
class Public:
    """The label of a tensor whose values depend on no record.

    Args:
        constant: dimensions along which the values are all equal, or independent draws from one distribution. A public
            tensor may be combined entry by entry with the record dimension of another tensor only along these.
        following: dimensions whose size is proportional to the number of records, as found by the two dry runs.
        everywhere: whether the tensor is constant along every dimension, in any shape.
        empty: whether the memory was allocated, but not filled yet.
        same: whether the values along the constant dimensions are equal, not only draws from one distribution: the
            maximum of N draws depends on N, the maximum of N equal values does not. Draws that are constant everywhere
            are independent of each other.
        repeats: a dimension and a number p: the values along the dimension are copies of the first p. They may be
            combined with ``Records`` whose ``within`` is a multiple of p.
    """

    constant: frozenset[int] = frozenset()
    following: frozenset[int] = frozenset()
    everywhere: bool = False
    empty: bool = False
    same: bool = False
    repeats: tuple[int, int] | None = None

    def is_constant(self, dim: int) -> bool:
        """Return whether the values along a dimension >= 0 are interchangeable."""
        return self.everywhere or dim in self.constant


Label = Records | Public

PUBLIC = Public()
CONSTANT = Public(everywhere=True)
SAME = Public(everywhere=True, same=True)
