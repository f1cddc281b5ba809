"""Time of the metrics compared with named peers: MIA distance to every private image of a class, and FID.

``python -m benchmarks.metrics`` prints a table. The slow peers run on less work: torchmetrics on the pairs of one
class, SciPy's matrix square root once. Torch uses two threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import scipy.linalg
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from dpmi.metrics import fid, mia_distance

THREADS = 2
REPEATS = 7

#: Faces94: one reconstruction of each of 152 people with 190 training images each.
FACES, PEOPLE, FACES_EACH, SSIM_LIMIT = (1, 70, 60), 152, 190, 1.0
#: MNIST: ten reconstructions of each of 10 digits with 6,000 training images each.
DIGITS, CLASSES, DIGITS_EACH, RECONS_EACH, EUCLIDEAN_LIMIT = (1, 28, 28), 10, 6000, 10, 0.2
#: Number of features of an Inception-v3.
FEATURES, RECONS, PRIVATE, FID_LIMIT, FID_ERROR = 2048, 300, 500, 100.0, 1e-6


@dataclass(frozen=True)
class Measured:
    """Times (the fastest of seven runs), and comparisons."""

    ssim_seconds: float
    ssim_speed: float
    """Time of torchmetrics for the same number of pairs / time of dpmi."""
    euclidean_seconds: float
    fid_seconds: float
    fid_speed: float
    """Time of SciPy / time of dpmi."""
    fid_error: float
    """|value of dpmi - value of SciPy| / value of SciPy."""


def run() -> Measured:
    """Run all measurements."""
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        ssim_seconds, ssim_speed = _ssim()
        return Measured(ssim_seconds, ssim_speed, _euclidean(), *_fid())
    finally:
        torch.set_num_threads(threads)


def _ssim() -> tuple[float, float]:
    recons, private = _noise(PEOPLE, *FACES), _noise(PEOPLE * FACES_EACH, *FACES)
    labels, private_labels = torch.arange(PEOPLE), torch.arange(PEOPLE).repeat_interleave(FACES_EACH)
    ours = _seconds(lambda: mia_distance(recons, labels, private, private_labels, kind="ssim"))
    one, many = recons[:1].expand(FACES_EACH, *FACES), private[:FACES_EACH]
    theirs = _seconds(
        lambda: structural_similarity_index_measure(one, many, reduction="none", data_range=1.0)
    )
    return ours, PEOPLE * theirs / ours


def _euclidean() -> float:
    recons, private = _noise(CLASSES * RECONS_EACH, *DIGITS), _noise(CLASSES * DIGITS_EACH, *DIGITS)
    labels, private_labels = torch.arange(len(recons)) % CLASSES, torch.arange(len(private)) % CLASSES
    return _seconds(lambda: mia_distance(recons, labels, private, private_labels))


def _fid() -> tuple[float, float, float]:
    mix = torch.randn(FEATURES, FEATURES, generator=torch.Generator().manual_seed(0)) / FEATURES**0.5
    recons, private = (
        (torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(count)) @ mix).relu()
        for count in (RECONS, PRIVATE)
    )
    ours = _seconds(lambda: fid(recons, private, feature_net="noise"))
    start = time.perf_counter()
    expected = _by_square_root(recons.double(), private.double())
    theirs = time.perf_counter() - start
    return ours, theirs / ours, abs(fid(recons, private, feature_net="noise").value - expected) / expected


def _by_square_root(first: Tensor, second: Tensor) -> float:
    """FID by the usual computation, with the square root of covariances (d, d)."""
    covariances = [torch.cov(features.T).numpy() for features in (first, second)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    traces = covariances[0].trace() + covariances[1].trace()
    means = (first.mean(dim=0) - second.mean(dim=0)).square().sum()
    return float(means) + float(traces - 2 * root.trace().real)


def _noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(len(shape)))


def _seconds(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def main() -> Measured:
    """Print the table."""
    m = run()
    print(f"metrics, {THREADS} threads; (limit)")
    print(
        f"  MIA distance, 1 - SSIM, {PEOPLE} recons, {FACES_EACH} faces each"
        f"{m.ssim_seconds:10.2f} s (at most {SSIM_LIMIT} s)   {m.ssim_speed:.0f} times as fast as torchmetrics"
    )
    print(
        f"  MIA distance, Euclidean, {CLASSES * RECONS_EACH} recons, {DIGITS_EACH} digits each"
        f"{m.euclidean_seconds:8.2f} s (at most {EUCLIDEAN_LIMIT} s)"
    )
    print(
        f"  FID, {FEATURES} features, {RECONS} and {PRIVATE} images{m.fid_seconds:18.3f} s   "
        f"{m.fid_speed:.0f} times as fast as sqrtm (at least {FID_LIMIT:.0f}), relative difference {m.fid_error:.0e} "
        f"(at most {FID_ERROR:.0e})"
    )
    return m


if __name__ == "__main__":
    main()
