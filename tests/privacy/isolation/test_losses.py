from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from torch.nn import functional as F

from dpmi.privacy.isolation import losses
from dpmi.privacy.isolation.functions import RULES
from dpmi.privacy.isolation.labels import Records

from .harness import Operand, Trial, check_family, draw_held, draw_label, draw_partner, name_of


def _reduction(data: st.DataObject) -> str:
    return data.draw(st.sampled_from(["none", "none", "none", "mean", "sum"]))


def entrywise_loss(data: st.DataObject, func: Any) -> Trial:
    x = draw_held(data)
    operands = [x, draw_partner(data, x)]
    if func in (F.binary_cross_entropy, F.binary_cross_entropy_with_logits) and data.draw(st.booleans()):
        operands.append(draw_partner(data, x))
    return Trial(operands, keywords={"reduction": _reduction(data)})


def class_loss(data: st.DataObject, func: Any) -> Trial:
    ndim = data.draw(st.integers(1, 4))
    x = Operand((2, 3, 2, 2)[:ndim], draw_label(data, ndim))
    assert isinstance(x.label, Records)
    target = Operand((2, 2, 2)[: max(ndim - 1, 1)], x.label, "index")
    if target.label.dim >= len(target.shape):
        target.label = Records(0)
    if func is F.cross_entropy and data.draw(st.booleans()):
        target = Operand(x.shape, x.label)
    operands = [x, target, Operand((3,))][: data.draw(st.integers(2, 3))]
    keywords: dict[str, Any] = {"reduction": _reduction(data)}
    if func is F.cross_entropy:
        keywords["label_smoothing"] = data.draw(st.sampled_from([0.0, 0.1]))
    return Trial(operands, keywords=keywords)


FAMILIES = {losses.entrywise_loss: entrywise_loss, losses.class_loss: class_loss}
TABLE = {func: FAMILIES[rule] for func, rule in RULES.items() if rule in FAMILIES}


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("func", TABLE, ids=name_of)
def test_keeps_records_apart(func: Any) -> None:
    check_family(func, TABLE[func])
