"""Gradients that are never written out: their norms and their weighted sum are those of the rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dpmi.privacy.gradients.factors import Factors, SparseRows, rows_are_smaller
from dpmi.privacy.gradients.linear import Linear
from dpmi.privacy.gradients.segments import Segments

GENERATOR = torch.Generator().manual_seed(0)
WIDTHS = 60, 80


def rows_of(x: Tensor, g: Tensor, segments: Segments) -> Tensor:
    """The sum over each bucket's records and positions of the outer product, (k, o, d) float64."""
    of_record = torch.einsum("n...o,n...d->nod", g.double(), x.double())
    return torch.stack([part.sum(0) for part in torch.split(of_record, list(segments.sizes))])


@pytest.mark.parametrize("positions", [(), (3,)])
@pytest.mark.parametrize("sizes", [[1, 40, 1], [40, 2, 40], [2, 2, 40, 40, 3], [1, 2, 3]])
def test_rows_that_are_kept_and_factors_add_up(sizes: list[int], positions: tuple[int, ...]) -> None:
    """Of buckets of 40 records a row is smaller than the factors; of up to three it is not."""
    segments = Segments(sizes)
    x, g = (torch.randn(sum(sizes), *positions, width, generator=GENERATOR) for width in WIDTHS)
    layer = Linear(torch.zeros(WIDTHS[1], WIDTHS[0]))
    if not positions:
        assert {run.size for run in segments.runs() if rows_are_smaller(layer, x, g, run)} <= {40}
    expected, found = rows_of(x, g, segments), Factors(layer, x, g, segments)
    torch.testing.assert_close(found.squared_norms.sqrt(), expected.flatten(1).norm(dim=1), rtol=1e-5, atol=0)
    factors = torch.rand(len(sizes), generator=GENERATOR, dtype=torch.float64)
    total = found.weighted_sum(factors)
    torch.testing.assert_close(total.double(), torch.tensordot(factors, expected, 1), rtol=1e-5, atol=1e-4)
    # What was measured is not used up by the sum.
    torch.testing.assert_close(found.weighted_sum(factors), total)


def test_a_line_that_a_bucket_meets_twice_is_one_line() -> None:
    line, bucket = torch.tensor([2, 2, 0, 2]), torch.tensor([0, 0, 0, 1])
    values = torch.tensor([[1.0, 0.0], [2.0, 1.0], [5.0, 5.0], [1.0, 1.0]])
    found = SparseRows(line, bucket, values, lines=3, num_buckets=3)
    assert found.squared_norms.tolist() == pytest.approx([3**2 + 1 + 50, 2, 0])
    total = found.weighted_sum(torch.tensor([2.0, 10.0, 1.0]))
    assert total.tolist() == [[10.0, 10.0], [0.0, 0.0], [2 * 3.0 + 10.0, 2 * 1.0 + 10.0]]
