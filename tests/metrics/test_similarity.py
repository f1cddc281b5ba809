"""Best SSIM and PSNR against torchmetrics pair by pair; LPIPS against its formula with random weights."""

import math
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from dpmi.metrics import best_psnr, best_ssim, lpips_distance, lpips_network, similarity


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


RECONS, LABELS = noise(4, 1, 13, 12), torch.tensor([1, 0, 1, 0])
PRIVATE, PRIVATE_LABELS = noise(9, 1, 13, 12, seed=1), torch.arange(9) % 2


@pytest.mark.parametrize(
    ("measure", "theirs"),
    [(best_ssim, structural_similarity_index_measure), (best_psnr, peak_signal_noise_ratio)],
)
def test_is_the_best_of_torchmetrics(measure: object, theirs: object) -> None:
    assert callable(measure)
    assert callable(theirs)
    found = measure(RECONS, LABELS, PRIVATE, PRIVATE_LABELS)
    for row in range(4):
        best = max(
            float(theirs(RECONS[row : row + 1], PRIVATE[i : i + 1], data_range=1.0))
            for i in range(9)
            if PRIVATE_LABELS[i] == LABELS[row]
        )
        assert float(found[row]) == pytest.approx(best, abs=2e-5)


def test_a_copy() -> None:
    assert best_psnr(PRIVATE[:1], torch.tensor([0]), PRIVATE, PRIVATE_LABELS).tolist() == [math.inf]
    found = best_ssim(PRIVATE[:1], torch.tensor([0]), PRIVATE, PRIVATE_LABELS)
    assert found.tolist() == [pytest.approx(1.0, abs=1e-6)]


def test_no_rescale_and_no_8_bits() -> None:
    """Trap 10: a hundredth of a grey level is 88 dB, and rounded to 8 bits nothing."""
    black = torch.zeros(1, 1, 2, 2)
    found = best_psnr(black + 0.01 / 255, torch.tensor([0]), black, torch.tensor([0]))
    assert found.tolist() == [pytest.approx(-20 * math.log10(0.01 / 255), rel=1e-5)]


@pytest.mark.parametrize("together", [1, 3, 100])
@pytest.mark.parametrize("channels", [1, 3])
def test_lpips_is_the_smallest_over_the_class(
    channels: int, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similarity, "_PAIRS", together)
    recons, private = noise(4, channels, 31, 32), noise(9, channels, 31, 32, seed=1)

    def network(first: Tensor, second: Tensor) -> Tensor:
        assert first.shape[1:] == second.shape[1:] == (3, 31, 32)
        return (first - second).abs().mean(dim=(1, 2, 3), keepdim=True)

    found = lpips_distance(recons, LABELS, private, PRIVATE_LABELS, network=network)
    for row in range(4):
        best = min(
            (float((recons[row] - private[i]).abs().mean()), i)
            for i in range(9)
            if PRIVATE_LABELS[i] == LABELS[row]
        )
        assert (float(found.values[row]), int(found.nearest[row])) == (pytest.approx(best[0]), best[1])


def test_lpips_by_its_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zhang et al., equation 1: weighted squared differences of unit feature vectors, averaged over positions."""
    random = torchvision.models.AlexNet.__new__(torchvision.models.AlexNet)
    nn.Module.__init__(random)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        random.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
    asked = []

    def alexnet(weights: object) -> nn.Module:
        asked.append(weights)
        return random

    monkeypatch.setattr(torchvision.models, "alexnet", alexnet)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    cached = tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth"
    cached.parent.mkdir()
    cached.touch()
    network = lpips_network()
    assert asked == [torchvision.models.AlexNet_Weights.DEFAULT]

    recons, private = noise(2, 1, 31, 31), noise(3, 1, 31, 31, seed=1)
    labels = torch.tensor([0, 0])
    found = lpips_distance(recons, labels, private, torch.zeros(3, dtype=torch.int64), network=network)

    linear = Path(torchvision.__file__).parents[1] / "torchmetrics/functional/image/lpips_models/alex.pth"
    weights = [value.double() for value in torch.load(linear, map_location="cpu", weights_only=True).values()]
    assert [w.shape[1] for w in weights] == [64, 192, 384, 256, 256]
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])

    def activations(image: Tensor) -> list[Tensor]:
        x = (2 * image.expand(3, 31, 31) - 1 - shift[:, None, None]) / scale[:, None, None]
        kept = []
        for index, layer in enumerate(random.features[:12]):
            x = layer(x[None])[0]
            if index in (1, 4, 7, 9, 11):
                kept.append(x.detach().double() / x.detach().double().norm(dim=0))
        return kept

    for row in range(2):
        ours = activations(recons[row])
        distances = [
            sum(
                float((w[0] * (a - b) ** 2).sum(dim=0).nan_to_num().mean())
                for w, a, b in zip(weights, ours, activations(image), strict=True)
            )
            for image in private
        ]
        assert float(found.values[row]) == pytest.approx(min(distances), rel=1e-3)

    smaller = noise(1, 3, 30, 30)
    with pytest.raises(RuntimeError, match="too small"):  # hence the smallest side
        network(smaller, smaller)


def test_lpips_without_weights_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match=r"there is no .*alexnet-owt-7be5be79\.pth.*get them with"):
        lpips_network()


@pytest.mark.parametrize("shape", [(1, 30, 40), (2, 40, 40)])
def test_lpips_refuses_what_alexnet_does_not_take(shape: tuple[int, int, int]) -> None:
    images, labels = noise(1, *shape), torch.tensor([0])
    with pytest.raises(ValueError, match="LPIPS needs images with 1 or 3 channels and at least 31x31"):
        lpips_distance(images, labels, images, labels, network=lambda a, b: a)
