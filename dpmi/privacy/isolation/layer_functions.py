"""Rules of layers: functions with a batch in dimension 0, and functions of the last dimension or of each entry."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from .labels import PUBLIC, Label, Public, Records
from .operands import align, apart, argument, keywords, public, refuse, rule_of, words
from .rules import Call, rule

_KEYWORDS = frozenset(
    words(
        """weight bias stride padding dilation groups output_padding kernel_size ceil_mode return_indices
    count_include_pad divisor_override output_size norm_type size scale_factor mode align_corners
    recompute_scale_factor antialias alpha beta k eps num_groups"""
    )
)


def _batched(call: Call, ndim: int) -> Label:
    """Return the label after a layer that, for inputs with ``ndim`` dimensions, treats dimension 0 as a batch."""
    if call.kwargs or not call.args:
        keywords(call, _KEYWORDS)
    label, have = call.labels[0], call.tensors[0].dim()
    if len(call.labels) > 1:
        public(call, 1)
    if isinstance(label, Records) and label.dim == 0 and have == ndim:
        return label
    if label is PUBLIC:
        return label
    return apart(call, label, have, range(have) if have != ndim else range(1, have))


@rule("conv1d", "conv_transpose1d")
@rule("max_pool1d", "max_pool1d_with_indices", "avg_pool1d", "lp_pool1d")
@rule("adaptive_avg_pool1d", "adaptive_max_pool1d", "adaptive_max_pool1d_with_indices")
@rule_of(F.fold)
def batched_1d(call: Call) -> Label:
    """An input of shape (N, C, L)."""
    return _batched(call, 3)


@rule("conv2d", "conv_transpose2d")
@rule("max_pool2d", "max_pool2d_with_indices", "avg_pool2d", "lp_pool2d")
@rule("adaptive_avg_pool2d", "adaptive_max_pool2d", "adaptive_max_pool2d_with_indices")
@rule_of(F.unfold)
def batched_2d(call: Call) -> Label:
    """An input of shape (N, C, H, W)."""
    return _batched(call, 4)


@rule("conv3d", "conv_transpose3d")
@rule("max_pool3d", "max_pool3d_with_indices", "avg_pool3d", "lp_pool3d")
@rule("adaptive_avg_pool3d", "adaptive_max_pool3d", "adaptive_max_pool3d_with_indices")
def batched_3d(call: Call) -> Label:
    """An input of shape (N, C, D, H, W)."""
    return _batched(call, 5)


@rule_of(F.interpolate, F.upsample, F.local_response_norm, torch.channel_shuffle)
def batched(call: Call) -> Label:
    """An input of shape (N, C, *), with at least 3 dimensions."""
    return _batched(call, max(call.tensors[0].dim() if call.tensors else 0, 3))


@rule_of(F.group_norm, torch.group_norm)
def group_norm(call: Call) -> Label:
    """An input of shape (N, C, *)."""
    return _batched(call, max(call.tensors[0].dim() if call.tensors else 0, 2))


@rule("pixel_shuffle", "pixel_unshuffle")
def pixel_shuffle(call: Call) -> Label:
    """An input of shape (*, C, H, W)."""
    keywords(call, ("upscale_factor", "downscale_factor"))
    ndim = call.tensors[0].dim()
    return apart(call, call.labels[0], ndim, range(ndim - 3, ndim))


@rule_of(F.batch_norm)
def batch_norm(call: Call) -> Label:
    """Evaluation mode only: each channel is shifted and scaled by public numbers."""
    keywords(call, ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"))
    if argument(call, 5, "training", default=False):
        refuse(call, "batch normalisation in training mode averages over the records: use GroupNorm")
    public(call, 1)
    return apart(call, call.labels[0], call.tensors[0].dim(), (1,))


@rule_of(F.instance_norm)
def instance_norm(call: Call) -> Label:
    """An input of shape (N, C, *), normalised by its own statistics, or by running ones that are not updated."""
    keywords(call, ("running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps"))
    own = argument(call, 5, "use_input_stats", default=True)
    if own and any(
        argument(call, i, name) is not None for i, name in ((1, "running_mean"), (2, "running_var"))
    ):
        refuse(call, "its running statistics are over the records: use track_running_stats=False")
    public(call, 1)
    ndim = call.tensors[0].dim()
    return apart(call, call.labels[0], ndim, range(1, ndim) if ndim > 2 else range(ndim))


@rule("linear")
def linear(call: Call) -> Label:
    """An input of shape (*, C)."""
    if call.kwargs or not call.args:
        keywords(call, ("weight", "bias"))
    label, last = call.labels[0], call.tensors[0].dim() - 1
    public(call, 1)
    if isinstance(label, Records) and label.dim != last:
        return label
    return apart(call, label, last + 1, (last,))


@rule_of(F.bilinear)
def bilinear(call: Call) -> Label:
    """Two inputs of shape (*, C)."""
    keywords(call, ("weight", "bias"))
    public(call, 2)
    ndim = call.tensors[0].dim()
    got = align(call, call.tensors[:2], call.labels[:2], ndim)
    if got is None:
        public(call, 0)
        return PUBLIC
    return apart(call, got, ndim, (ndim - 1,))


@rule_of(F.embedding)
def embedding(call: Call) -> Label:
    """``embedding(indices, table)``: adds a dimension at the end."""
    keywords(call, ("weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse"))
    if argument(call, 3, "max_norm") is not None:
        refuse(call, "max_norm rescales the table depending on the indices of the records: use max_norm=None")
    if argument(call, 5, "scale_grad_by_freq", default=False):
        refuse(
            call,
            "scale_grad_by_freq scales gradients by the indices of all records: use scale_grad_by_freq=False",
        )
    public(call, 1)
    return apart(call, call.labels[0], call.tensors[0].dim(), ())


@rule_of(F.embedding_bag)
def embedding_bag(call: Call) -> Label:
    """``embedding_bag(indices, table)`` with bags of equal size: indices of shape (N, L)."""
    keywords(
        call,
        words(
            """weight max_norm norm_type scale_grad_by_freq mode sparse per_sample_weights padding_idx
            include_last_offset"""
        ),
    )
    if len(call.args) > 2 or call.kwargs.get("max_norm") is not None or call.kwargs.get("scale_grad_by_freq"):
        refuse(call, "offsets, max_norm and scale_grad_by_freq depend on all records: omit them")
    x, label = call.tensors[0], call.labels[0]
    if x.dim() != 2:
        refuse(call, f"the indices have {x.dim()} dimensions, but must have 2")
    if len(call.labels) == 3:
        weights, of_weights = call.tensors[2], call.labels[2]
        if not isinstance(label, Records):
            refuse(call, "weights are supported only for indices that hold records")
        align(call, (x, weights), (label, of_weights), 2)
    public(call, 1, 2)
    return apart(call, label, 2, (1,))


@rule_of(F.one_hot)
def one_hot(call: Call) -> Label:
    """``one_hot(classes, num_classes)``: adds a dimension at the end."""
    keywords(call, ("num_classes",))
    number = argument(call, 1, "num_classes", default=-1)
    if type(number) is not int or number < 1:
        refuse(
            call,
            "without num_classes, its shape depends on the largest class of all records: pass num_classes",
        )
    return apart(call, call.labels[0], call.tensors[0].dim(), ())


@rule("pad")
def pad(call: Call) -> Label:
    """``pad(x, (before, after, ...))``, starting with the last dimension."""
    keywords(call, ("pad", "mode", "value"))
    amounts: Any = argument(call, 1, "pad")
    ndim = call.tensors[0].dim()
    padded = [
        ndim - 1 - i for i in range(len(amounts) // 2) if amounts[2 * i] != 0 or amounts[2 * i + 1] != 0
    ]
    return apart(call, call.labels[0], ndim, padded)


@rule_of(F.grid_sample, torch.grid_sampler)
def grid_sample(call: Call) -> Label:
    """Images (N, C, H, W), each with its own grid, (N, H', W', 2)."""
    keywords(call, ("mode", "padding_mode", "align_corners"))
    ndim = call.tensors[0].dim()
    got = align(call, call.tensors, call.labels, ndim)
    if got is None:
        public(call, 0)
        return PUBLIC
    for tensor, label in zip(call.tensors, call.labels, strict=True):
        if isinstance(label, Public) and tensor.shape[0] != got.before * call.records * got.within:
            refuse(call, "the numbers of images and grids differ")
    return apart(call, got, ndim, range(1, ndim))
