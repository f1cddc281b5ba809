"""Bucket gradients of embeddings."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from .factors import Implicit, SparseRows
from .layer import Layer, at_least_float32, intercepts
from .segments import Segments


class _Table(Layer):
    """A table (V, d) whose lines are looked up.

    Args:
        weight: the table.
        padding: the token that gets no gradient, or None.
        unsupported: a message about an option whose gradients cannot be split by bucket, or None.
    """

    def __init__(self, weight: Tensor, padding: int | None, unsupported: str | None) -> None:
        super().__init__(weight)
        self._lines, self._width = weight.shape
        self._padding = padding if padding is None or padding >= 0 else padding + self._lines
        self.unsupported = unsupported

    @abstractmethod
    def _lookups(self, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return token (m,), record (m,) and gradient (m, d) of every lookup."""

    def weight_rows(self, x: Tensor, g: Tensor, segments: Segments) -> Tensor:
        """Return the weight's gradient, one row per bucket."""
        token, bucket, values = self._by_bucket(x, g, segments)
        rows = values.new_zeros((segments.num_buckets * self._lines, self._width))
        return rows.index_add_(0, bucket * self._lines + token, values).view(-1, self._lines, self._width)

    def implicit(self, x: Tensor, g: Tensor, segments: Segments) -> Implicit:
        """Return the weight's gradients without rows, if that needs less memory."""
        return SparseRows(*self._by_bucket(x, g, segments), self._lines, segments.num_buckets)

    def bias_rows(self, g: Tensor, segments: Segments) -> Tensor:
        """Raise an error, because a table has no bias."""
        raise NotImplementedError

    def _by_bucket(self, x: Tensor, g: Tensor, segments: Segments) -> tuple[Tensor, Tensor, Tensor]:
        token, record, values = self._lookups(x, g)
        if self._padding is not None:
            kept = token != self._padding  # as an index, it would wait for a GPU, which has to count it
            values = torch.where(kept[:, None], values, 0)
        bucket = segments.bucket_of_record(x.device)[record]
        return token, bucket, values.to(at_least_float32(g.dtype))


class Embedding(_Table):
    """A lookup of one line per token, for tokens of any shape."""

    def _lookups(self, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x.flatten(), _repeated(len(x), x[0].numel(), x.device), g.reshape(-1, self._width)


class EmbeddingBag(_Table):
    """The sum or mean of the lines of each record's tokens.

    Args:
        weight: the table.
        padding: the token that is skipped, or None.
        unsupported: a message about an option whose gradients cannot be split by bucket, or None.
        mean: whether it is a mean instead of a sum.
        factors: one factor per token, or None.
    """

    def __init__(
        self,
        weight: Tensor,
        padding: int | None,
        unsupported: str | None,
        *,
        mean: bool,
        factors: Tensor | None,
    ) -> None:
        super().__init__(weight, padding, unsupported)
        self._mean = mean
        self._factors = factors

    def _lookups(self, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        token = x.flatten()
        record = _repeated(len(x), x.shape[1], x.device)
        values = g[record]
        if self._factors is not None:
            values = values * self._factors.flatten()[:, None]
        if self._mean:
            counted = (
                (token != self._padding).to(g.dtype) if self._padding is not None else g.new_ones(len(token))
            )
            counts = g.new_zeros(len(g)).index_add_(0, record, counted)
            values = values / counts[record, None]
        return token, record, values


def _repeated(records: int, times: int, device: torch.device) -> Tensor:
    return torch.arange(records, device=device).repeat_interleave(times)


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
    return input, Embedding(weight, padding_idx, _coupling(scale_grad_by_freq))


@intercepts(torch.embedding)
def _embedding_of_aten(
    weight: Tensor,
    indices: Tensor,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> tuple[Tensor, Layer]:
    padding = padding_idx if padding_idx >= 0 else None
    return indices, Embedding(weight, padding, _coupling(scale_grad_by_freq))


@intercepts(F.embedding_bag)
def _embedding_bag(  # noqa: PLR0917 (the function's own signature)
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> tuple[Tensor, Layer]:
    unsupported = _coupling(scale_grad_by_freq)
    if offsets is not None:
        unsupported = (
            "offsets define the start of each record, so no dimension of the input holds the records; pass indices of "
            "shape (N, L)"
        )
    if mode == "max":
        unsupported = 'mode="max" is not supported; use "mean" or "sum"'
    layer = EmbeddingBag(
        weight,
        padding_idx,
        unsupported,
        mean=mode == "mean",
        factors=None if per_sample_weights is None else per_sample_weights.detach(),
    )
    return input, layer


def _coupling(scale_grad_by_freq: bool) -> str | None:
    if scale_grad_by_freq:
        return (
            "scale_grad_by_freq=True divides by counts over all buckets of a physical batch; set "
            "scale_grad_by_freq=False"
        )
    return None
