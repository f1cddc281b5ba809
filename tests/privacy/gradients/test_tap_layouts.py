"""Rows of a layer whose input does not have one record after another in its first dimension.

Modules: dpmi/privacy/gradients/capture.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from .test_capture import rows_of
from .test_layers import brute_force, capture_of, loss_of, relative_error, run, send_back


class Laid(nn.Module):
    """A linear layer on another layout of (n, 3, 4), which is undone after it."""

    def __init__(self, there: Callable[[Tensor], Tensor], back: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 5)
        self.there, self.back = there, back

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.layer(self.there(x)), len(x))


LAYOUTS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, int], Tensor]]] = {
    "time first": (lambda x: x.transpose(0, 1), lambda h, _: h.transpose(0, 1)),
    "tokens in rows": (lambda x: x.reshape(-1, 4), lambda h, n: h.view(n, 3, 5)),
    "time first, in rows": (
        lambda x: x.transpose(0, 1).reshape(-1, 4),
        lambda h, n: h.view(3, n, 5).transpose(0, 1),
    ),
    "twice the batch": (lambda x: torch.cat([x, x.sin()]), lambda h, n: h.view(2, n, 3, 5).sum(0)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_equal_a_backward_pass_per_bucket(name: str) -> None:
    torch.manual_seed(0)
    module, x, sizes = Laid(*LAYOUTS[name]), torch.randn(6, 3, 4), [1, 2, 3]
    capture = capture_of(module, sizes)
    send_back(loss_of(run(module, x, capture)), capture)
    assert relative_error(rows_of(module, capture), brute_force(module, x, sizes)) < 1e-5
