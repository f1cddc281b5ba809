"""Layers of unknown types are followed, or run bucket by bucket; neither carries anything to another bucket."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dpmi.privacy.gradients.capture import Capture
from dpmi.privacy.gradients.other_layers import other_leaves
from dpmi.privacy.gradients.segments import Segments
from dpmi.privacy.isolation.provenance import CarriedOver
from dpmi.privacy.isolation.public import PublicTensors

from .test_layers import Scale, brute_force, capture_of, loss_of, relative_error, run, send_back, trained


def test_a_layer_whose_calls_cannot_be_seen_runs_bucket_by_bucket() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.rand(5))

        def forward(self, x: Tensor) -> Tensor:
            with torch._C.DisableTorchFunction():
                return x * self.scale

    module, x, sizes = nn.Sequential(Hidden(), nn.Linear(5, 3)), torch.randn(6, 5), [2, 4]
    leaves = {module[0]: False}
    capture = Capture(trained(module), Segments(sizes), public=PublicTensors(module), leaves=leaves)
    send_back(loss_of(run(module, x, capture)), capture)
    assert leaves == {module[0]: True}
    assert (
        relative_error({name: capture.rows[p] for name, p in trained(module)}, brute_force(module, x, sizes))
        < 1e-5
    )


def test_a_layer_of_an_unknown_type_is_followed() -> None:
    """It is not run bucket by bucket where its calls have rules."""
    module, x = Scale(), torch.randn(6, 4)
    leaves = other_leaves(module, trained(module))
    assert list(leaves.values()) == [False]
    run(module, x, Capture(trained(module), Segments([2, 4]), public=PublicTensors(module), leaves=leaves))
    assert list(leaves.values()) == [False]


def test_a_leaf_that_keeps_something_of_one_bucket_for_the_next_is_refused() -> None:
    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(5))
            self.before: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            out = x * self.scale
            if self.before is not None:
                out = out + self.before
            self.before = x.mean()
            return out

    module = Keeping()
    with pytest.raises(CarriedOver, match="of another bucket"):
        run(module, torch.randn(4, 5), capture_of(module, [2, 2]))
