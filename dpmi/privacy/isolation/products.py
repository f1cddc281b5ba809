"""Rules of products: they must not sum over the dimension of the records, nor combine two records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from .labels import PUBLIC, Label, Public, Records
from .operands import align, argument, keywords, meet, public, refuse, rule_of
from .rules import Call, rule


def _product(call: Call, a: Tensor, of_a: Label, b: Tensor, of_b: Label) -> Label:
    """Return the label of ``a @ b``."""
    ndim_a, ndim_b = a.dim(), b.dim()
    ndim = max(ndim_a, ndim_b)
    got: Records | None = None
    if isinstance(of_a, Records):
        if of_a.dim == ndim_a - 1:
            refuse(call, "it sums over the records")
        got = of_a if ndim_a == ndim else Records(of_a.dim + ndim - ndim_a, of_a.before, of_a.within)
    if isinstance(of_b, Records):
        if of_b.dim == max(ndim_b - 2, 0):
            refuse(call, "it sums over the records")
        here = of_b if ndim_b == ndim else Records(of_b.dim + ndim - ndim_b, of_b.before, of_b.within)
        if got is not None and (got != here or here.dim >= ndim - 2):
            refuse(call, "it combines every record with every other")
        got = here
    if got is None:
        return _public_product(call, a, cast(Public, of_a), b, cast(Public, of_b))
    for tensor, label in ((a, of_a), (b, of_b)):
        if isinstance(label, Public):
            # The rows of a and the columns of b are not aligned with each other; only the dimensions before them are.
            meet(call, tensor, label, got.dim - ndim + tensor.dim() if got.dim < ndim - 2 else -1, got)
    if ndim_a == 1:
        return Records(got.dim - 1, got.before, got.within) if got.dim == ndim - 1 else got
    return got


def _public_product(call: Call, a: Tensor, of_a: Public, b: Tensor, of_b: Public) -> Label:
    if of_a is PUBLIC and of_b is PUBLIC:
        return PUBLIC
    if a.dim() - 1 in of_a.following or max(b.dim() - 2, 0) in of_b.following:
        refuse(call, "it sums public values over a dimension whose size follows the number of records")
    if a.dim() < 2 or b.dim() < 2:
        return PUBLIC
    ndim = max(a.dim(), b.dim())
    constant = set()
    if of_a.is_constant(a.dim() - 2):
        constant.add(ndim - 2)
    if of_b.is_constant(b.dim() - 1):
        constant.add(ndim - 1)
    for dim in range(ndim - 2):
        if all(
            (at := dim - ndim + tensor.dim()) < 0
            or (tensor.shape[at] == 1 and at not in label.following)
            or label.is_constant(at)
            for tensor, label in ((a, of_a), (b, of_b))
        ):
            constant.add(dim)
    return Public(frozenset(constant), same=of_a.same and of_b.same)


@rule("matmul", "mm", "bmm", "mv", "__matmul__", "__rmatmul__")
def matmul(call: Call) -> Label:
    """``a @ b``."""
    keywords(call, ("other", "mat2", "vec"))
    (a, b), (of_a, of_b) = call.tensors, call.labels
    if call.name == "__rmatmul__":
        return _product(call, b, of_b, a, of_a)
    return _product(call, a, of_a, b, of_b)


@rule("addmm", "baddbmm", "addmm_", "baddbmm_", "addmv")
def add_product(call: Call) -> Label:
    """``base + a @ b``."""
    keywords(call, ("beta", "alpha"))
    base, a, b = call.tensors
    of_base = call.labels[0]
    label = _product(call, a, call.labels[1], b, call.labels[2])
    off = a.dim() - (b.dim() == 1) - base.dim()
    if isinstance(of_base, Records):
        if Records(of_base.dim + off, of_base.before, of_base.within) != label:
            refuse(
                call, f"records are at different places in the sum and in the product: {of_base} and {label}"
            )
    elif isinstance(label, Records):
        if call.name[-1] == "_":
            refuse(call, "records are written into a tensor that holds no records")
        meet(call, base, of_base, label.dim - off, label)
    else:
        public(call, 0)
    return label if isinstance(label, Records) else PUBLIC


@rule("outer", "ger")
def outer(call: Call) -> Label:
    """The outer product of two vectors, one of which is public."""
    keywords(call, ("vec2",))
    (of_a, of_b) = call.labels
    if isinstance(of_a, Records) and isinstance(of_b, Records):
        refuse(call, "it combines every record with every other")
    if isinstance(of_a, Records):
        public(call, 1)
        return of_a
    if isinstance(of_b, Records):
        public(call, 0, 1)
        return Records(1, of_b.before, of_b.within)
    return PUBLIC


@rule_of(torch.cdist)
def cdist(call: Call) -> Label:
    """Distances between the rows of two batches of matrices."""
    keywords(call, ("p", "compute_mode"))
    a, b = call.tensors[:2]
    of_a, of_b = call.labels
    for tensor, label in ((a, of_a), (b, of_b)):
        if isinstance(label, Public) and tensor.dim() - 1 in label.following:
            refuse(call, "the distances are over a dimension whose size follows the number of records")
    if isinstance(of_b, Records):
        # Treated as a product with the transposed second operand, whose last two dimensions are swapped.
        last = b.dim() - 1
        of_b = Records({last: last - 1, last - 1: last}.get(of_b.dim, of_b.dim), of_b.before, of_b.within)
    elif isinstance(of_b, Public) and of_b is not PUBLIC:
        public(call, 1)
        of_b = PUBLIC
    return _product(call, a, of_a, b.mT, of_b)


@rule_of(F.scaled_dot_product_attention)
def attention(call: Call) -> Label:
    """Queries, keys and values of shape (*, L, E), and a mask of shape (*, L, L')."""
    keywords(call, ("key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa"))
    ndim = max([tensor.dim() for tensor in call.tensors])
    got = align(call, call.tensors, call.labels, ndim)
    if got is None:
        if any(cast(Public, label).following for label in call.labels):
            refuse(call, "the size of a public operand follows the number of records")
        return PUBLIC
    grouped = argument(call, 7, "enable_gqa", default=False)
    if got.dim >= ndim - (3 if grouped else 2):
        refuse(call, "it is attention between records")
    return got


def _letters(equation: str, operands: Sequence[Tensor]) -> tuple[list[list[Any]], list[Any]]:
    """Return the subscripts of each operand and of the output; those of an ellipsis are numbers, from its end."""
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms = []
    for term, tensor in zip(inputs.split(","), operands, strict=True):
        head, dots, tail = term.partition("...")
        extra = tensor.dim() - len(head) - len(tail) if dots else 0
        terms.append([*head, *range(extra - 1, -1, -1), *tail])
    most = max([1 + sum(isinstance(each, int) for each in term) for term in terms]) - 1
    if arrow:
        head, dots, tail = output.partition("...")
        return terms, [*head, *(range(most - 1, -1, -1) if dots else ()), *tail]
    letters = [each for term in terms for each in term if isinstance(each, str)]
    return terms, [
        *range(most - 1, -1, -1),
        *sorted(each for each in set(letters) if letters.count(each) == 1),
    ]


@rule_of(torch.einsum)
def einsum(call: Call) -> Label:
    """``einsum(equation, ...)``: operands with records must use one letter for them, which is also in the output."""
    keywords(call, ())
    equation = call.args[0]
    if not isinstance(equation, str):
        refuse(call, "the subscripts must be a string")
    if len(equation.replace(" ", "").partition("->")[0].split(",")) != len(call.tensors):
        refuse(call, "the numbers of subscripts and operands differ")
    terms, output = _letters(equation, call.tensors)
    held = {
        (term[label.dim], label.before, label.within)
        for term, label in zip(terms, call.labels, strict=True)
        if isinstance(label, Records)
    }
    if len(held) > 1:
        refuse(call, "it combines every record with every other")
    if not held:
        for term, label in zip(terms, call.labels, strict=True):
            if any(term[dim] not in output for dim in cast(Public, label).following):
                refuse(
                    call, "it sums public values over a dimension whose size follows the number of records"
                )
        return PUBLIC
    ((letter, before, within),) = held
    if letter not in output:
        refuse(call, "it sums over the records")
    for term, tensor, label in zip(terms, call.tensors, call.labels, strict=True):
        if term.count(letter) > 1:
            refuse(call, "it takes a diagonal over the records")
        if isinstance(label, Public):
            dim = term.index(letter) if letter in term else -1
            meet(call, tensor, label, dim, Records(dim, before, within))
    return Records(output.index(letter), before, within)
