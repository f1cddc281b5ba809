"""Bucket gradients of convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .factors import Implicit, factors_or_none
from .layer import Layer, at_least_float32, intercepts
from .linear import write_outer_sums
from .segments import Run, Segments

# Number of window elements of one bucket up to which writing out the windows and multiplying all buckets at once is
# faster than one call of the library's kernel per bucket. Time of the calls relative to the windows, on one CPU core:
# 1.9 at 25,000 elements (16 -> 32 channels, kernel 4, 13 x 13, 4 records), 1.0 at 50,000 (1 -> 16, kernel 8, 28 x 28,
# 4 records), 0.8 at 204,000; on two cores 3.0, 2.1 and 1.1.
_WINDOWS = 2**16
# Number of contiguous elements up to which copying windows one dimension after another is faster: with 8 of them
# (1 channel, kernel 8) 1.3 to 2.7 times as fast, with 64 (16 channels, kernel 4) 0.6 times.
_SHORT = 16
# Number of window elements in memory at a time: 4 MiB of float32. 16 MiB were not faster.
_AT_A_TIME = 2**20


class Conv(Layer):
    """A convolution over one to three dimensions.

    Args:
        weight: (out, in / groups, *kernel).
        bias: (out,) or None.
        stride: of each dimension.
        padding: zeros on each side of each dimension, or "same" or "valid".
        dilation: of each dimension.
        groups: number of groups of channels.
    """

    def __init__(  # noqa: PLR0917 (in the order of the function)
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: int | Sequence[int],
        padding: str | int | Sequence[int],
        dilation: int | Sequence[int],
        groups: int,
    ) -> None:
        super().__init__(weight, bias)
        self._kernel = weight.shape[2:]
        self._stride = self._per_dimension(stride)
        self._dilation = self._per_dimension(dilation)
        self._groups = groups
        # As in the library, "same" with an odd number of zeros puts the extra zero at the end.
        spans = [d * (k - 1) for d, k in zip(self._dilation, self._kernel, strict=True)]
        self._ends = [span % 2 if padding == "same" else 0 for span in spans]
        self.overlap = math.prod(
            -(-k // (s // math.gcd(s, d)))
            for k, s, d in zip(self._kernel, self._stride, self._dilation, strict=True)
        )
        if padding == "same":
            self._padding = [span // 2 for span in spans]
        else:
            self._padding = self._per_dimension(0 if isinstance(padding, str) else padding)

    def weight_rows(self, x: Tensor, g: Tensor, segments: Segments) -> Tensor:
        """Return the weight's gradient, one row per bucket."""
        assert self.weight is not None
        x = self._pad_ends(x.to(g.dtype))
        rows = g.new_empty((segments.num_buckets, *self.weight.shape), dtype=at_least_float32(g.dtype))
        positions = math.prod(g.shape[2:])
        per_position = self.weight[0].numel()
        by_kernel: list[int] = []
        for run in segments.runs():
            windows = run.size * positions * per_position
            if self._groups == 1 and windows <= self.weight.numel():
                # The windows are smaller than the rows. They are written in the weight's order, so that the product is
                # the row; writing in memory order is faster, but the rows then need reordering. For 256 -> 256 channels
                # at 4 x 4 and 512 -> 512 at 2 x 2, with 1 and 4 records, this is 1.4 to 8 times faster than reordered
                # rows, and 2.7 to 12 times faster than the library's kernel.
                seen = self._windows(x[run.records], g.shape[2:], channels_first=True)
                write_outer_sums(seen, g[run.records].movedim(1, -1), rows[run.buckets].flatten(2))
            elif self._groups == 1 and windows <= _WINDOWS:
                self._batched(x, g, run, rows, max(1, _AT_A_TIME // windows))
            else:
                by_kernel += range(run.first_bucket, run.first_bucket + run.count)
        if by_kernel:
            sizes = list(segments.sizes)
            self._bucket_by_bucket(torch.split(x, sizes), torch.split(g, sizes), by_kernel, rows)
        return rows

    def implicit(self, x: Tensor, g: Tensor, segments: Segments) -> Implicit | None:
        """Return the weight's gradients without rows, if that needs less memory."""
        return factors_or_none(self, x, g, segments)

    def outer_factors(self, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the factors of the outer products."""
        if self._groups > 1:
            return None
        return self._windows(self._pad_ends(x), g.shape[2:]).flatten(1, -2), g.flatten(2).transpose(1, 2)

    def bias_rows(self, g: Tensor, segments: Segments) -> Tensor:
        """Return the bias's gradient, one row per bucket."""
        return segments.sum(g, range(2, g.dim()))

    def _pad_ends(self, x: Tensor) -> Tensor:
        if not any(self._ends):
            return x
        return F.pad(x, [zeros for end in reversed(self._ends) for zeros in (0, end)])

    def _windows(self, x: Tensor, out: Sequence[int], *, channels_first: bool = False) -> Tensor:
        """Return the input window of each output position: (records, *out, prod(kernel) * in), without groups."""
        last = self._padded(x).movedim(1, -1).contiguous()
        record, *spatial, channel = last.stride()
        steps = [s * stride for s, stride in zip(self._stride, spatial, strict=True)]
        taps = [d * stride for d, stride in zip(self._dilation, spatial, strict=True)]
        view = last.as_strided((len(x), *out, *self._kernel, x.shape[1]), (record, *steps, *taps, channel))
        if channels_first:
            view = view.movedim(-1, 1 + len(out))
        return view.reshape(len(x), *out, -1)

    def _unrolled(self, x: Tensor, out: Sequence[int]) -> Tensor:
        """Return the windows as :meth:`_windows`, but with the first dimension of the output last.

        One dimension is unrolled after another, so that in the last and largest copy each window is contiguous.
        """
        unrolled = self._padded(x).movedim(1, -1).contiguous()
        for d in reversed(range(len(out))):
            *outer, _, inner = unrolled.shape
            view = unrolled.as_strided(
                (*outer, out[d], self._kernel[d] * inner),
                (*unrolled.stride()[:-2], self._stride[d] * inner, 1),
            )
            unrolled = (view.movedim(-2, 1) if d else view).contiguous()
        return unrolled

    def _padded(self, x: Tensor) -> Tensor:
        pads = [zeros for padding in reversed(self._padding) for zeros in (padding, padding)]
        return F.pad(x, pads) if any(pads) else x

    def _batched(self, x: Tensor, g: Tensor, run: Run, rows: Tensor, at_a_time: int) -> None:
        for first in range(0, run.count, at_a_time):
            count = min(at_a_time, run.count - first)
            start = run.first_record + first * run.size
            records = slice(start, start + count * run.size)
            found = g.new_empty((count, g.shape[1], math.prod(self._kernel) * x.shape[1]))
            if max(self._dilation) == 1 and self._kernel[-1] * x.shape[1] <= _SHORT:
                seen = self._unrolled(x[records], g.shape[2:])
                write_outer_sums(seen, g[records].permute(0, *range(3, g.dim()), 2, 1), found)
            else:
                seen = self._windows(x[records], g.shape[2:])
                write_outer_sums(seen, g[records].movedim(1, -1), found)
            place = rows[run.first_bucket + first : run.first_bucket + first + count]
            place.copy_(found.view(*found.shape[:2], *self._kernel, x.shape[1]).movedim(-1, 2))

    def _bucket_by_bucket(
        self, xs: Sequence[Tensor], gs: Sequence[Tensor], buckets: list[int], rows: Tensor
    ) -> None:
        assert self.weight is not None
        # The kernel uses only type and layout of the weight.
        weight = (
            self.weight.detach()
            if self.weight.dtype == gs[0].dtype
            else torch.empty_like(self.weight, dtype=gs[0].dtype)
        )
        transposed, output_padding, wanted = False, [0] * len(self._kernel), [False, True, False]
        for i in buckets:
            rows[i] = torch.ops.aten.convolution_backward(
                gs[i], xs[i], weight, None, self._stride, self._padding, self._dilation, transposed,
                output_padding, self._groups, wanted,
            )[1]  # fmt: skip

    def _per_dimension(self, value: int | Sequence[int]) -> list[int]:
        values = [value] if isinstance(value, int) else list(value)
        return values * len(self._kernel) if len(values) == 1 else values


@intercepts(torch.conv1d, torch.conv2d, torch.conv3d)
def _conv(  # noqa: PLR0917 (the function's own signature)
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> tuple[Tensor, Layer]:
    return input, Conv(weight, bias, stride, padding, dilation, groups)
