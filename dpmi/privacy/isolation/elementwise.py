"""Rules of elementwise functions: the records must be at the same place in all operands."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from .arguments import writes_in_place
from .labels import CONSTANT, SAME, Label, Public, Records
from .operands import align, apart, broadcast, keywords, public, refuse, rule_of, words
from .rules import Call, rule

_ONE = words(
    """abs absolute neg negative positive exp exp2 expm1 log log1p log2 log10 sqrt rsqrt square reciprocal sign sgn
    signbit round floor ceil trunc fix frac sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh
    arcsin arccos arctan sigmoid erf erfc erfinv lgamma digamma sinc logit nan_to_num deg2rad rad2deg i0
    isnan isfinite isinf isposinf isneginf logical_not bitwise_not relu relu6 elu selu celu leaky_relu gelu
    silu mish hardtanh hardswish hardsigmoid hardshrink softshrink softplus softsign tanhshrink threshold
    _threshold logsigmoid __neg__ __pos__ __abs__ __invert__ clone detach contiguous requires_grad_ zero_"""
)
_SEVERAL = words(
    """add sub subtract mul multiply div divide true_divide floor_divide rsub remainder fmod pow float_power atan2
    arctan2 hypot copysign logaddexp logaddexp2 xlogy heaviside nextafter maximum minimum fmax fmin clamp
    clip clamp_min clamp_max lerp addcmul addcdiv where masked_fill eq ne lt le gt ge greater greater_equal
    less less_equal not_equal isclose logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor
    __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __div__ __rdiv__
    __floordiv__ __rfloordiv__ __mod__ __rmod__ __pow__ __rpow__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__
    __and__ __rand__ __or__ __ror__ __xor__ __rxor__ __iadd__ __isub__ __imul__ __itruediv__ __idiv__
    __ifloordiv__ __imod__ __ipow__ __iand__ __ior__ __ixor__ copy_ fill_"""
)

_DRAWN = words(
    """dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout feature_alpha_dropout rrelu bernoulli
    normal_ uniform_ exponential_ log_normal_ cauchy_ geometric_ random_ normal"""
)

_KEYWORDS = frozenset(
    words(
        """inplace alpha beta lambd negative_slope eps approximate min max min_val max_val lower upper threshold value
    rounding_mode decimals nan posinf neginf other mask exponent end weight tensor1 tensor2 src rtol atol
    equal_nan memory_format requires_grad non_blocking p training train generator mean std low high sigma
    median to from"""
    )
)


def _in_place(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names, and those of their in-place versions."""
    return names + tuple(
        f"{name}_" for name in names if not name.endswith("_") and hasattr(Tensor, f"{name}_")
    )


@rule(*_in_place(_ONE), *_in_place(_SEVERAL))
def elementwise(call: Call) -> Label:
    """Elementwise functions: records are at the same place in all operands, and public values do not vary by record."""
    if call.kwargs or not call.args:
        keywords(call, _KEYWORDS)
    tensors, labels = call.tensors, call.labels
    if len(labels) == 1:
        if call.name == "where" and len(call.args) + len(call.kwargs) == 1:
            refuse(call, "the size of its result depends on the values of all records")
        return labels[0]
    ndim = max([tensor.dim() for tensor in tensors])
    got = align(call, tensors, labels, ndim)
    if got is None:
        return broadcast(tensors, cast("list[Public]", labels), ndim)
    if writes_in_place(call.func, call.name, call.kwargs) and labels[0] != got:
        refuse(call, "records are written into a tensor that holds no records")
    return got


@rule(*_in_place(_DRAWN))
def drawn(call: Call) -> Label:
    """Elementwise functions that also use torch's random generator, which does not depend on records."""
    label = elementwise(call) if call.labels else CONSTANT
    if isinstance(label, Public) and label.same:
        return Public(label.constant, everywhere=label.everywhere)
    return label


@rule(
    "to",
    "type",
    "type_as",
    "float",
    "double",
    "half",
    "bfloat16",
    "long",
    "int",
    "short",
    "bool",
    "cpu",
    "cuda",
)
def cast_to(call: Call) -> Label:
    """Conversion to another type or device, which a second operand may define, without using its values."""
    keywords(call, ("dtype", "device", "non_blocking", "copy", "memory_format", "other"))
    return call.labels[0]


@rule("zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like")
def like(call: Call) -> Label:
    """A new tensor that depends on the operand's shape only. It holds records if the operand does, so that records may
    be written to it."""
    keywords(
        call,
        (
            "dtype",
            "device",
            "layout",
            "memory_format",
            "requires_grad",
            "fill_value",
            "low",
            "high",
            "pin_memory",
        ),
    )
    if isinstance(call.labels[0], Records):
        return call.labels[0]
    return CONSTANT if call.name.startswith("rand") else SAME


@rule_of(torch.prelu, F.prelu, Tensor.prelu)
def prelu(call: Call) -> Label:
    """``prelu(x, weight)`` with one slope, or one for each entry of dimension 1."""
    keywords(call, ())
    public(call, 1)
    x, weight = call.tensors
    return apart(call, call.labels[0], x.dim(), (1,) if weight.numel() > 1 else ())
