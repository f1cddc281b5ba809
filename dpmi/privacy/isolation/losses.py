"""Rules of losses without a reduction: one number per record, or per entry of a record."""

from __future__ import annotations

from torch.nn import functional as F

from .elementwise import elementwise
from .labels import PUBLIC, Label, Public, Records
from .operands import keywords, meet, public, refuse, rule_of, words
from .rules import Call

_KEYWORDS = frozenset(
    words(
        """weight size_average reduce reduction beta delta pos_weight log_target log_input full eps margin ignore_index
    label_smoothing"""
    )
)


def _unreduced(call: Call) -> None:
    keywords(call, _KEYWORDS)
    if call.kwargs.get("reduction") != "none" or any(
        call.kwargs.get(name) is not None for name in ("size_average", "reduce")
    ):
        refuse(call, 'its reduction is over all records: use reduction="none"')


@rule_of(
    F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.binary_cross_entropy, F.binary_cross_entropy_with_logits,
    F.kl_div, F.poisson_nll_loss, F.soft_margin_loss,
)  # fmt: skip
def entrywise_loss(call: Call) -> Label:
    """An elementwise function of the output, the target and a weight."""
    _unreduced(call)
    return elementwise(Call(call.func, call.args, {}, call.tensors, call.labels, call.records))


@rule_of(F.cross_entropy, F.nll_loss)
def class_loss(call: Call) -> Label:
    """Logits of shape (N, C, *) and classes (N, *), or probabilities (N, C, *)."""
    _unreduced(call)
    x, target = call.tensors[:2]
    label, of_target = call.labels[:2]
    public(call, 2)
    held = [each for each in (label, of_target) if isinstance(each, Records)]
    if not held:
        public(call, 0)
        return PUBLIC
    got = held[0]
    if x.dim() < 2 or got.dim != 0 or held[-1] != got:
        refuse(call, "logits and targets must both hold the records in dimension 0")
    for tensor, each in ((x, label), (target, of_target)):
        if isinstance(each, Public):
            meet(call, tensor, each, 0, got)
    return got
