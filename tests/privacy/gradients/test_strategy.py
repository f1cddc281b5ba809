"""Which strategy is chosen, for how many buckets at a time, and why."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dpmi.privacy import Partition, Plan
from dpmi.privacy.gradients.strategy import THRESHOLDS, Choice, choose, is_compiled

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ROWS_BYTES, SMALL_ROW, BUSY = (
    THRESHOLDS["cpu"].rows_bytes,
    THRESHOLDS["cpu"].small_row,
    THRESHOLDS["cpu"].busy,
)
LARGE = SMALL_ROW + 1


def chosen(
    mode: Any = "auto", *, size: int = 4, buckets: int = 100, elements: int = 1000, **changed: Any
) -> Choice:
    plan = Plan(
        partition=Partition.by_column(np.repeat(np.arange(buckets), size)),
        sampling_rate=0.5,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
    )
    arguments = {
        "max_physical_batch_size": 512,
        "criterion": True,
        "own_collate": False,
        "device": CPU,
        **changed,
    }
    module = arguments.pop("module", nn.Linear(2, 2))
    return choose(mode, module, plan, row_elements=elements, **arguments)


def test_a_strategy_that_is_named_is_taken() -> None:
    assert chosen("hooks") == Choice("hooks", ROWS_BYTES // 4000, insist=True)
    assert chosen("hooks", elements=ROWS_BYTES) == Choice("hooks", 1, insist=True)
    assert chosen("ghost", max_physical_batch_size=99) == Choice("ghost", 99, insist=True)
    assert chosen("stream", criterion=False) == Choice("stream", 1, insist=False)


def test_small_rows_are_kept_and_large_ones_never_made() -> None:
    assert chosen() == Choice("hooks", ROWS_BYTES // 4000, insist=False)
    assert chosen(elements=SMALL_ROW).strategy == "hooks"
    found = chosen(elements=LARGE, size=8)
    assert (found.strategy, found.max_buckets, found.insist) == ("ghost", 512, False)
    assert found.most_work == BUSY * LARGE / 8
    assert chosen().most_work == math.inf


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"criterion": False}, "criterion"),
        ({"own_collate": True}, "collate_fn"),
        ({"size": 257}, "two buckets"),
        ({"buckets": 3}, "two buckets"),
        ({"elements": LARGE, "size": BUSY}, f"{BUSY} records"),
    ],
)
def test_one_bucket_at_a_time_where_several_would_not_pay(
    changed: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="dpmi"):
        assert chosen(**changed) == Choice("stream", 1, insist=False)
    (message,) = caplog.messages
    assert reason in message


def test_buckets_on_the_other_side_of_each_limit_share_a_batch() -> None:
    assert chosen(size=256).strategy == chosen(buckets=4).strategy == "hooks"
    assert chosen(elements=LARGE, size=BUSY - 1).strategy == "ghost"


@pytest.mark.parametrize(
    ("mode", "changed", "message"),
    [
        ("fast", {}, r"'fast'.* auto, stream, hooks, ghost"),
        ("hooks", {"criterion": False}, r"'hooks'.*criterion"),
        ("ghost", {"criterion": False}, r"'ghost'.*criterion"),
        ("stream", {}, r"criterion.*'stream'"),
    ],
)
def test_a_mode_that_does_not_fit_is_refused(mode: str, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chosen(mode, **changed)


def test_a_gpu_takes_more_at_a_time() -> None:
    """One bucket of 120 small images is bound by the launches of its calls; two cores are busy with it."""
    assert chosen(elements=LARGE, size=BUSY).strategy == "stream"
    on_gpu = chosen(elements=THRESHOLDS["cuda"].small_row + 1, size=BUSY, device=CUDA)
    assert on_gpu.strategy == "ghost"
    assert on_gpu.most_work == THRESHOLDS["cuda"].busy * (THRESHOLDS["cuda"].small_row + 1) / BUSY
    assert chosen(elements=LARGE, size=BUSY, device=CUDA).strategy == "hooks"
    assert chosen(device=CUDA).max_buckets == THRESHOLDS["cuda"].rows_bytes // 4000 > ROWS_BYTES // 4000
    assert chosen(device=torch.device("mps")) == chosen(device=CUDA)


def in_place(model: nn.Sequential) -> nn.Module:
    model[1].compile(backend="eager")
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda model: torch.compile(model, backend="eager"),
        in_place,
        torch.jit.script,
        lambda model: nn.Sequential(torch.jit.trace(model, torch.zeros(2, 2))),
    ],
    ids=["compiled", "a part in place", "scripted", "a traced part"],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_calls_that_cannot_be_seen_are_refused_or_streamed(make: Any) -> None:
    plain = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    assert not is_compiled(plain)
    module = make(plain)
    assert is_compiled(module)
    for mode in ("hooks", "ghost"):
        with pytest.raises(ValueError, match=f"'{mode}', but module is compiled"):
            chosen(mode, module=module)
    assert chosen(module=module).strategy == "stream"
