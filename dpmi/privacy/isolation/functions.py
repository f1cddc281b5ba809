"""All rules, and the other functions that the tracking mode treats separately."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Each module registers its rules when it is imported.
from . import along, elementwise, indexing, layer_functions, losses, products, shapes  # noqa: F401
from .operands import words
from .rules import RULES

Functions = frozenset[Callable[..., Any]]


def _named(names: str, *owners: Any) -> Functions:
    return frozenset(
        f for name in names.split() for owner in owners if callable(f := getattr(owner, name, None))
    )


FACTORIES_SAME = _named("zeros ones full new_zeros new_ones new_full", torch, Tensor)
"""Functions that make a tensor of one value, given as a number; their label is SAME."""

FACTORIES_CONSTANT = FACTORIES_SAME | _named("rand randn randint", torch)
"""Functions that make a tensor of one value or of independent draws; the label is CONSTANT, or SAME in FACTORIES_SAME.
"""

FACTORIES_EMPTY = _named(
    "empty new_empty empty_like empty_strided empty_permuted new_empty_strided", torch, Tensor
)
"""Functions that allocate memory; the label is ``Public(empty=True)``."""

FACTORIES_NEW = _named("new_zeros new_ones new_full new_empty", Tensor)
"""Functions that use only type and device of the tensor that they belong to."""

FILLS = _named("zero_ fill_ normal_ uniform_ bernoulli_ exponential_", Tensor)
"""Functions that overwrite every entry independently of its value; only these may be called first on empty memory."""

_ATTRIBUTES = words(
    """shape ndim dtype device requires_grad is_leaf layout is_cuda is_cpu is_xpu is_xla is_mps is_meta is_mkldnn
    is_sparse is_sparse_csr is_nested is_quantized itemsize nbytes"""
)

METADATA = (
    frozenset(getattr(Tensor, name).__get__ for name in _ATTRIBUTES)
    | _named(
        """size dim ndimension numel nelement is_floating_point is_complex is_contiguous stride storage_offset __len__
        element_size get_device is_signed is_same_size is_inference is_conj is_neg __hash__ result_type""",
        torch,
        Tensor,
    )
    | _named("is_tensor can_cast promote_types broadcast_shapes is_grad_enabled", torch)
)
"""Functions that depend on the shape, type and device of their operands, never on a value."""

__all__ = [
    "FACTORIES_CONSTANT",
    "FACTORIES_EMPTY",
    "FACTORIES_NEW",
    "FACTORIES_SAME",
    "FILLS",
    "METADATA",
    "RULES",
    "Functions",
]
