"""All rules, and the functions that the mode has to know besides them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Each module registers its rules as it is imported.
from . import along, elementwise, indexing, losses, products, shapes  # noqa: F401
from .operands import words
from .rules import RULES

Functions = frozenset[Callable[..., Any]]


def _named(names: str, *owners: Any) -> Functions:
    return frozenset(
        f for name in names.split() for owner in owners if callable(f := getattr(owner, name, None))
    )


FACTORIES_SAME = _named("zeros ones full new_zeros new_ones new_full", torch, Tensor)
"""Make a tensor of one value, given as a number: SAME."""

FACTORIES_CONSTANT = FACTORIES_SAME | _named("rand randn randint", torch)
"""Make a tensor of one value or of independent draws: CONSTANT, or SAME if in FACTORIES_SAME."""

FACTORIES_EMPTY = _named(
    "empty new_empty empty_like empty_strided empty_permuted new_empty_strided", torch, Tensor
)
"""Allocate memory: ``Public(empty=True)``."""

FACTORIES_NEW = _named("new_zeros new_ones new_full new_empty", Tensor)
"""Take nothing but type and device of the tensor that they belong to."""

FILLS = _named("zero_ fill_ normal_ uniform_ bernoulli_ exponential_", Tensor)
"""Write to every entry what depends on no entry: what empty memory may be given to first."""

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
"""Tell the shape, type and device of their operands, never a value."""

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
