"""MIA distance against loops in float64 and against torchmetrics."""

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from dpmi.metrics import mia_distance, neighbors, ssim


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def reference_ssim(first: Tensor, second: Tensor) -> Tensor:
    value = structural_similarity_index_measure(first, second, reduction="none", data_range=1.0)
    assert isinstance(value, Tensor)
    return value.reshape(-1)


@pytest.mark.parametrize("kind", ["euclidean", "ssim"])
@pytest.mark.parametrize("chunk", [1, 2000, 2**22])
def test_is_the_minimum_over_the_class(kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "_CHUNK", chunk)
    monkeypatch.setattr(ssim, "_CHUNK", chunk)
    recons, private = noise(5, 1, 12, 13), noise(120, 1, 12, 13, seed=1)
    labels, private_labels = torch.tensor([2, 0, 1, 2, 0]), torch.arange(120) % 3
    found = mia_distance(recons, labels, private, private_labels, kind=kind)
    for row in range(5):
        best = min(
            (
                (recons[row].double() - private[i].double()).norm().item()
                if kind == "euclidean"
                else 1 - reference_ssim(recons[row : row + 1], private[i : i + 1]).item(),
                i,
            )
            for i in range(120)
            if private_labels[i] == labels[row]
        )
        assert found.values[row].item() == pytest.approx(best[0], abs=2e-5)
        assert found.nearest[row].item() == best[1]
    assert found.mean == pytest.approx(found.values.mean().item())


def test_distance_zero_is_exact_where_norms_are_large() -> None:
    """||a||^2 + ||b||^2 - 2ab leaves 1e-6 of 4,000 pixels; the difference leaves nothing."""
    private = 0.9 + 0.1 * noise(3, 1, 64, 64)
    found = mia_distance(private[1:2].clone(), torch.tensor([0]), private, torch.zeros(3, dtype=torch.int64))
    assert found.values.tolist() == [0.0]
    assert found.nearest.tolist() == [1]
    nearly = private[1:2].clone()
    nearly[0, 0, 0, 0] -= 1e-3
    found = mia_distance(nearly, torch.tensor([0]), private, torch.zeros(3, dtype=torch.int64))
    assert found.values.item() == pytest.approx(1e-3, rel=1e-4)


def test_images_are_not_rescaled_or_rounded() -> None:
    """Trap 10: neither a min-max rescale nor 8 bits would leave these distances."""
    private = torch.zeros(1, 1, 2, 2)
    faint = torch.full((1, 1, 2, 2), 0.0004)
    found = mia_distance(faint, torch.tensor([0]), private, torch.tensor([0]))
    assert found.values.item() == pytest.approx(0.0008)


def test_two_classes_and_two_recons_of_one_class() -> None:
    private = torch.stack([torch.zeros(1, 1, 1), torch.ones(1, 1, 1)])
    recons = torch.tensor([0.1, 0.2, 0.7]).view(3, 1, 1, 1)
    found = mia_distance(recons, torch.tensor([0, 0, 1]), private, torch.tensor([0, 1]))
    torch.testing.assert_close(found.values, torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))


IMAGES, LABELS = noise(2, 1, 12, 12), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((IMAGES, torch.tensor([0, 2]), IMAGES, LABELS), "class 2 has no private image"),
        ((IMAGES[0], LABELS, IMAGES, LABELS), r"recons must be \(n, C, H, W\)"),
        ((IMAGES * 255, LABELS, IMAGES, LABELS), r"recons must have pixels in \[0, 1\]"),
        ((IMAGES, LABELS, IMAGES - 1, LABELS), r"private_images must have pixels in \[0, 1\]"),
        ((IMAGES * torch.nan, LABELS, IMAGES, LABELS), "range from nan"),
        ((IMAGES, LABELS[:1], IMAGES, LABELS), r"labels of recons .* got torch.int64 of shape \(1,\)"),
        ((IMAGES, LABELS.float(), IMAGES, LABELS), "got torch.float32"),
        ((IMAGES, LABELS, IMAGES[..., :8], LABELS), r"recons have shape \(1, 12, 12\).*\(1, 12, 8\)"),
    ],
)
def test_bad_input(arguments: tuple[Tensor, ...], message: str) -> None:
    """Trap 9: what cannot be measured raises, and never counts as near."""
    for kind in ("euclidean", "ssim"):
        with pytest.raises(ValueError, match=message):
            mia_distance(*arguments, kind=kind)


def test_ssim_refuses_images_smaller_than_its_window() -> None:
    small = IMAGES[..., :8, :8]
    with pytest.raises(ValueError, match=r"window of 11x11.*8x8.*kind='euclidean'"):
        mia_distance(small, LABELS, small, LABELS, kind="ssim")


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match=r"kind must be one of .* got 'lpips'"):
        mia_distance(IMAGES, LABELS, IMAGES, LABELS, kind="lpips")
