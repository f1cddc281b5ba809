"""Bucket gradients of normalisation layers: normalised input times output gradient, summed over each bucket."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .layer import Layer, at_least_float32, intercepts
from .segments import Segments


class Norm(Layer):
    """An affine map after a normalisation.

    Args:
        weight: the factors, or None.
        bias: the offsets, or None.
        normalise: the normalisation without the affine map.
        affine_dims: the dimensions of the input that the affine map's shape corresponds to, as a slice.
    """

    def __init__(
        self,
        weight: Tensor | None,
        bias: Tensor | None,
        normalise: Callable[[Tensor], Tensor],
        affine_dims: slice,
    ) -> None:
        super().__init__(weight, bias)
        self._normalise = normalise
        self._affine_dims = affine_dims

    def weight_rows(self, x: Tensor, g: Tensor, segments: Segments) -> Tensor:
        """Return the weight's gradient, one row per bucket."""
        dtype = at_least_float32(g.dtype)
        return self.bias_rows(self._normalise(x).to(dtype) * g.to(dtype), segments)

    def bias_rows(self, g: Tensor, segments: Segments) -> Tensor:
        """Return the bias's gradient, one row per bucket."""
        dims = range(g.dim())
        return segments.sum(g, [d for d in dims[1:] if d not in dims[self._affine_dims]])


_CHANNELS = slice(1, 2)


@intercepts(F.layer_norm, torch.layer_norm)
def _layer_norm(  # noqa: PLR0917 (the function's own signature)
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> tuple[Tensor, Layer]:
    shape = list(normalized_shape)
    last = slice(-len(shape), None)
    return input, Norm(weight, bias, lambda x: F.layer_norm(x, shape, eps=eps), last)


@intercepts(F.rms_norm, torch.rms_norm)
def _rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> tuple[Tensor, Layer]:
    shape = list(normalized_shape)
    last = slice(-len(shape), None)
    return input, Norm(weight, None, lambda x: F.rms_norm(x, shape, eps=eps), last)


@intercepts(F.group_norm, torch.group_norm)
def _group_norm(  # noqa: PLR0917 (the function's own signature)
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> tuple[Tensor, Layer]:
    return input, Norm(weight, bias, lambda x: F.group_norm(x, num_groups, eps=eps), _CHANNELS)


@intercepts(F.instance_norm)
def _instance_norm(  # noqa: PLR0917 (the function's own signature)
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Tensor, Layer]:
    # With the input's own statistics, the running ones would only be updated, which must not happen a second time.
    mean, variance = (None, None) if use_input_stats else (running_mean, running_var)

    def normalise(x: Tensor) -> Tensor:
        return F.instance_norm(x, mean, variance, use_input_stats=use_input_stats, eps=eps)

    return input, Norm(weight, bias, normalise, _CHANNELS)


@intercepts(torch.instance_norm)
def _instance_norm_of_aten(  # noqa: PLR0917 (the function's own signature)
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> tuple[Tensor, Layer]:
    return _instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
