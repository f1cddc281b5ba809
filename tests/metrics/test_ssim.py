"""Many structural similarities at once against torchmetrics pair by pair."""

import pytest
import torch

from dpmi.metrics import ssim
from dpmi.metrics.ssim import LocalMoments, most_similar, ssim_pairs

from .test_distance import noise, reference_ssim


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 11, 17), (1, 70, 60)])
@pytest.mark.parametrize(("count", "chunk"), [(6, 2**18), (40, 1)])
def test_ssim_is_that_of_torchmetrics(
    shape: tuple[int, int, int], count: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssim, "_CHUNK", chunk)
    first, second = noise(count, *shape), noise(count, *shape, seed=1)
    second[0] = first[0]
    second[1] = 0
    second[2] = 1 - first[2]
    found = ssim_pairs(first, second)
    torch.testing.assert_close(found, reference_ssim(first, second), atol=2e-5, rtol=0)
    pairs = [reference_ssim(image.expand_as(second), second) for image in first]
    moments = LocalMoments.of(first)
    best, index = most_similar(moments, second, torch.arange(count))
    torch.testing.assert_close(best, torch.stack(pairs).amax(dim=1), atol=2e-5, rtol=0)
    assert torch.equal(index, torch.stack(pairs).argmax(dim=1))
    # Against one image alone, the best of a row is the pair itself.
    each = [most_similar(moments, second, torch.tensor([other]))[0] for other in range(count)]
    torch.testing.assert_close(torch.stack(each, dim=1), torch.stack(pairs), atol=2e-5, rtol=0)
