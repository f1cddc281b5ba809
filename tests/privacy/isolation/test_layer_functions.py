from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from torch.nn import functional as F

from dpmi.privacy.isolation import layer_functions as layers
from dpmi.privacy.isolation.functions import RULES
from dpmi.privacy.isolation.labels import Records

from .harness import Operand, Trial, check_family, draw_held, draw_label, draw_partner, name_of


def _image(data: st.DataObject, spatial: int, channels: int = 4, size: int = 4) -> Operand:
    """An input of a layer, batched or not, with the records in any dimension: mostly in front."""
    ndim = data.draw(st.sampled_from([spatial + 2] * 3 + [spatial + 1]))
    shape = (2, channels, *[size] * spatial)[-ndim:]
    label = draw_label(data, ndim, front=data.draw(st.integers(0, 3)) > 0)
    return Operand(shape, label)


def _spatial(func: Any) -> int:
    return next(n for n in (1, 2, 3) if f"{n}d" in func.__name__)


def batched(data: st.DataObject, func: Any) -> Trial:
    name = func.__name__
    if name == "unfold":
        return Trial([_image(data, 2)], lambda tensors, _: (*tensors, 2))
    if name == "fold":
        return Trial([_image(data, 1, channels=8, size=9)], lambda tensors, _: (*tensors, (4, 4), 2))
    spatial = _spatial(func)
    x = _image(data, spatial)
    if name.startswith("conv"):
        kernel = data.draw(st.integers(1, 3))
        inner = data.draw(st.sampled_from([4, 4, x.size(2)[-spatial - 1]]))
        weight = Operand((inner, inner, *[kernel] * spatial))
        if data.draw(st.integers(0, 4)) == 0:
            weight.label = Records(0)
        bias = Operand((inner,))
        return Trial([x, weight, bias][: data.draw(st.integers(2, 3))])
    if name.startswith("lp"):
        return Trial([x], lambda tensors, _: (*tensors, 2, 2))
    return Trial([x], lambda tensors, _: (*tensors, 2))


def plain(data: st.DataObject, func: Any) -> Trial:
    name = func.__name__
    x = _image(data, data.draw(st.integers(1, 3)))
    if name in ("interpolate", "upsample"):
        mode = {3: "linear", 4: "bilinear", 5: "trilinear"}.get(len(x.shape), "nearest")
        return Trial([x], keywords={"scale_factor": 2, "mode": data.draw(st.sampled_from(["nearest", mode]))})
    return Trial([x], lambda tensors, _: (*tensors, 2))


def group_norm(data: st.DataObject, func: Any) -> Trial:
    x = _image(data, data.draw(st.integers(1, 2)))
    return Trial([x, Operand((4,)), Operand((4,))], lambda tensors, _: (tensors[0], 2, *tensors[1:]))


def pixel_shuffle(data: st.DataObject, func: Any) -> Trial:
    x = _image(data, 2)
    return Trial([x], lambda tensors, _: (*tensors, 2))


def batch_norm(data: st.DataObject, func: Any) -> Trial:
    x = _image(data, data.draw(st.integers(1, 2)))
    keywords = {"training": data.draw(st.booleans())}
    return Trial([x] + [Operand((4,)) for _ in range(4)], keywords=keywords)


def instance_norm(data: st.DataObject, func: Any) -> Trial:
    x = _image(data, data.draw(st.integers(1, 2)))
    if data.draw(st.booleans()):
        return Trial([x])
    own = data.draw(st.booleans())
    return Trial([x, Operand((4,)), Operand((4,))], keywords={"use_input_stats": own})


def linear(data: st.DataObject, func: Any) -> Trial:
    x = draw_held(data)
    weight = Operand((3, x.size(2)[-1]))
    if data.draw(st.integers(0, 4)) == 0:
        weight.label = Records(0)
    return Trial([x, weight, Operand((3,))][: data.draw(st.integers(2, 3))])


def bilinear(data: st.DataObject, func: Any) -> Trial:
    x = draw_held(data, 2, 3)
    other = draw_partner(data, x)
    return Trial([x, other, Operand((3, x.shape[-1], other.shape[-1] if other.shape else 1))])


def embedding(data: st.DataObject, func: Any) -> Trial:
    keywords = data.draw(st.sampled_from([{}, {}, {"padding_idx": 0}, {"max_norm": 0.1}]))
    return Trial([draw_held(data, kind="index"), Operand((3, 2))], keywords=keywords)


def embedding_bag(data: st.DataObject, func: Any) -> Trial:
    x = draw_held(data, 1, 2, kind="index")
    keywords: dict[str, Any] = {"mode": data.draw(st.sampled_from(["sum", "mean", "max"]))}
    return Trial([x, Operand((3, 2))], keywords=keywords)


def one_hot(data: st.DataObject, func: Any) -> Trial:
    number = data.draw(st.sampled_from([3, 4, -1]))
    return Trial([draw_held(data, kind="index")], lambda tensors, _: (*tensors, number))


def pad(data: st.DataObject, func: Any) -> Trial:
    x = draw_held(data, 2, 4)
    many = data.draw(st.integers(1, len(x.shape)))
    amounts = tuple(data.draw(st.sampled_from([0, 0, 1, 2, -1])) for _ in range(2 * many))
    mode = data.draw(st.sampled_from(["constant", "constant", "reflect", "replicate", "circular"]))
    return Trial([x], lambda tensors, _: (*tensors, amounts, mode))


def grid_sample(data: st.DataObject, func: Any) -> Trial:
    x = Operand((1, 2, 3, 3), draw_label(data, 4, front=data.draw(st.booleans())))
    grid = Operand((1, 2, 2, 2), x.label if x.label.dim < 3 else Records(0))
    if func is F.grid_sample:
        return Trial([x, grid], keywords={"align_corners": False})
    return Trial([x, grid], lambda tensors, _: (*tensors, 0, 0, False))


FAMILIES = dict.fromkeys((layers.batched_1d, layers.batched_2d, layers.batched_3d), batched) | {
    layers.batched: plain,
    layers.group_norm: group_norm,
    layers.pixel_shuffle: pixel_shuffle,
    layers.batch_norm: batch_norm,
    layers.instance_norm: instance_norm,
    layers.linear: linear,
    layers.bilinear: bilinear,
    layers.embedding: embedding,
    layers.embedding_bag: embedding_bag,
    layers.one_hot: one_hot,
    layers.pad: pad,
    layers.grid_sample: grid_sample,
}
TABLE = {func: FAMILIES[rule] for func, rule in RULES.items() if rule in FAMILIES}


@pytest.mark.parametrize("func", TABLE, ids=name_of)
def test_keeps_records_apart(func: Any) -> None:
    check_family(func, TABLE[func])
