"""Microseconds that each followed call of a forward pass costs, on a tiny encoder.

``python -m benchmarks.following`` prints a table. The passes take turns: plain, under a mode of PyTorch that only
passes calls on, followed for the first time over so many records (a little more of them each time), and known, see
:mod:`dpmi.privacy.isolation.known`. No parameter is trained, because the gradients of buckets have costs of their own.
Times are those of the process on one thread.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dpmi.privacy.gradients.capture import Capture
from dpmi.privacy.gradients.segments import Segments
from dpmi.privacy.isolation.labels import Records
from dpmi.privacy.isolation.program import RECORDS, Program
from dpmi.privacy.isolation.public import PublicTensors

LAYERS, FEATURES, TOKENS, BATCH = 8, 16, 4, 8
LIMIT = 4.0
"""Most microseconds of a known call."""


class _Mode(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


def run(repeats: int = 60) -> dict[str, float]:
    """Print the table; return the microseconds per call of each way, beyond the plain pass."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = nn.Sequential(
        *(nn.TransformerEncoderLayer(FEATURES, 2, 32, dropout=0.0, batch_first=True) for _ in range(LAYERS))
    ).requires_grad_(requires_grad=False)
    public = PublicTensors(model)

    def followed(x: Tensor, program: Program | None) -> Capture:
        capture = Capture((), Segments([1] * len(x)), public=public)
        capture.take_in(x, Records(0))
        capture.begin_pass([x], program)
        with capture:
            out = model(x)
        capture.finish([out])
        return capture

    traces = [followed(torch.randn(n, TOKENS, FEATURES), None).trace for n in RECORDS]
    program = Program.of(*traces)
    followed(torch.randn(BATCH, TOKENS, FEATURES), program)

    def under_a_mode(x: Tensor) -> None:
        with _Mode():
            model(x)

    ways: dict[str, Callable[[Tensor], Any]] = {
        "a mode that passes calls on": under_a_mode,
        "followed for the first time": lambda x: followed(x, program),
        "known": lambda x: followed(x, program),
    }
    extra: dict[str, list[float]] = {name: [] for name in ways}
    for n in range(1, repeats + 1):
        x = torch.randn(BATCH + n, TOKENS, FEATURES)
        plain = _seconds(model, x)
        for name, way in ways.items():
            extra[name].append((_seconds(way, x) - plain) / len(traces[0]) * 1e6)
    torch.set_num_threads(threads)
    print(f"{len(traces[0])} calls, {repeats} passes in turns; limit {LIMIT:g} us\n")
    print("| pass | us per call beyond the plain pass |")
    print("| --- | --- |")
    for name, own in extra.items():
        print(f"| {name} | {statistics.median(own):.1f} |")
    return {name: statistics.median(own) for name, own in extra.items()}


def _seconds(call: Callable[[Tensor], Any], x: Tensor) -> float:
    start = time.process_time()
    call(x)
    return time.process_time() - start


if __name__ == "__main__":
    run()
