"""Rows of embeddings."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .implicit import Implicit, SparseRows
from .layers import Layer, at_least_float32, intercepts
from .segments import Segments


class Embedding(Layer):
    """A table whose rows are looked up.

    Args:
        weight: the table, (V, d).
        padding: the token that gets no gradient, or None.
        unsupported: an option that couples the buckets, or None.
    """

    def __init__(self, weight: Tensor, padding: int | None, unsupported: str | None) -> None:
        super().__init__(weight)
        self._padding = padding if padding is None or padding >= 0 else padding + len(weight)
        self.unsupported = unsupported

    def weight_rows(self, x: Tensor, g: Tensor, segments: Segments) -> Tensor:
        """See :class:`Layer`."""
        assert self.weight is not None
        k, (size, width) = segments.num_buckets, self.weight.shape
        rows = g.new_zeros((k * size, width), dtype=at_least_float32(g.dtype))
        bucket = segments.bucket_of_record(x.device).view(-1, *[1] * (x.dim() - 1))
        rows.index_add_(0, (x + bucket * size).flatten(), g.reshape(-1, width).to(rows.dtype))
        rows = rows.view(k, size, width)
        if self._padding is not None:
            rows[:, self._padding] = 0
        return rows

    def implicit(self, x: Tensor, g: Tensor, segments: Segments) -> Implicit:
        """See :class:`Layer`."""
        assert self.weight is not None
        token, values = x.flatten(), g.reshape(-1, g.shape[-1])
        bucket = segments.bucket_of_record(x.device).repeat_interleave(x[0].numel())
        if self._padding is not None:
            kept = token != self._padding
            token, bucket, values = token[kept], bucket[kept], values[kept]
        values = values.to(at_least_float32(g.dtype))
        return SparseRows(token, bucket, values, len(self.weight), segments.num_buckets)

    def bias_rows(self, g: Tensor, segments: Segments) -> Tensor:
        """An embedding has no bias."""
        raise NotImplementedError


@intercepts(F.embedding)
def _embedding(  # noqa: PLR0917 (the function's own signature)
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> tuple[Tensor, Layer]:
    return input, Embedding(weight, padding_idx, _coupling(max_norm, scale_grad_by_freq))


@intercepts(torch.embedding)
def _embedding_of_aten(
    weight: Tensor,
    indices: Tensor,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> tuple[Tensor, Layer]:
    padding = padding_idx if padding_idx >= 0 else None
    return indices, Embedding(weight, padding, _coupling(None, scale_grad_by_freq))


def _coupling(max_norm: float | None, scale_grad_by_freq: bool) -> str | None:
    if max_norm is not None:
        return f"max_norm={max_norm} changes the table in the forward pass, without noise; set max_norm=None"
    if scale_grad_by_freq:
        return (
            "scale_grad_by_freq=True divides by counts over all buckets of a physical batch; set "
            "scale_grad_by_freq=False"
        )
    return None
