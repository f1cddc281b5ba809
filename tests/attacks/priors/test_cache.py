"""Every prior here is trained once, resumed bit for bit, and trained again when its file is damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor, nn

from dpmi.attacks.priors import (
    ConditionalGan,
    DamagedCacheWarning,
    FeatureStatistics,
    InversionGan,
    Prior,
    Surrogates,
    WganGP,
    cache,
    fetch,
)
from dpmi.attacks.priors.training import BatchPrior
from dpmi.attacks.target import Target
from dpmi.testing.digits import SHAPE, classifier

SMALL = {"steps": 6, "batch_size": 8, "width": 0.05, "latent_size": 4, "generator_every": 2}
PRIORS: list[Prior] = [
    WganGP(**SMALL),
    InversionGan(**SMALL),
    ConditionalGan(**SMALL),
    Surrogates(steps=6, batch_size=8, count=2),
    FeatureStatistics(),
]
every_prior = pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: prior.name)
trained_in_steps = pytest.mark.parametrize("prior", PRIORS[:-1], ids=lambda prior: prior.name)


class Interrupted(Exception):
    pass


def _fetch(
    prior: Prior,
    public: Tensor,
    target: Target,
    folder: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, steps: None,
) -> nn.Module:
    return fetch(
        prior,
        public=public,
        target=target,
        image_shape=SHAPE,
        num_classes=10,
        folder=folder,
        progress=progress,
    )


def _same(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _interrupt_at(step: int) -> Callable[[int, int], None]:
    def progress(done: int, steps: int) -> None:
        if done == step:
            raise Interrupted

    return progress


@trained_in_steps
def test_interrupted_training_ends_where_an_uninterrupted_one_does(
    prior: Prior, public: Tensor, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 20 images in batches of 8: the break is in the middle of a pass over them.
    public = public[:20]
    whole = _fetch(prior, public, target)
    cost = target.queries, target.grad_calls
    monkeypatch.setattr(cache, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(Interrupted):
        _fetch(prior, public, target, tmp_path, _interrupt_at(3))
    torch.manual_seed(1)
    calls: list[tuple[int, int]] = []
    target.queries = target.grad_calls = 0
    resumed = _fetch(prior, public, target, tmp_path, lambda done, steps: calls.append((done, steps)))
    assert calls == [(3, 6), (4, 6), (5, 6), (6, 6)]
    assert _same(resumed, whole)
    assert (target.queries, target.grad_calls) == cost
    assert not list(tmp_path.rglob("training.pt")), "nothing is left of a training that ended"


@every_prior
def test_second_time_comes_from_the_cache(
    prior: Prior, public: Tensor, target: Target, tmp_path: Path
) -> None:
    before = torch.get_rng_state()
    first = _fetch(prior, public, target, tmp_path)
    cost = target.queries, target.grad_calls
    assert (cost[0] > 0) == prior.distils
    calls: list[tuple[int, int]] = []
    target.queries = target.grad_calls = 0
    second = _fetch(prior, public, target, tmp_path, lambda done, steps: calls.append((done, steps)))
    assert calls == [(1, 1)], "nothing was trained"
    assert _same(first, second)
    assert (target.queries, target.grad_calls) == cost, "an attack costs the same whoever trained its prior"
    assert not second.training
    assert not any(parameter.requires_grad for parameter in second.parameters())
    assert torch.equal(torch.get_rng_state(), before), "the caller's random numbers"


@every_prior
def test_folder_follows_from_everything_that_the_prior_depends_on(
    prior: Prior, public: Tensor, target: Target, tmp_path: Path
) -> None:
    other_target = deepcopy(classifier()).eval().requires_grad_(False)
    with torch.no_grad():
        other_target[-1].bias[0] += 1e-3
    other_public = public.clone()
    other_public[0, 0, 0, 0] = 0.5

    def folders() -> int:
        return len(list(tmp_path.iterdir()))

    _fetch(prior, public, target, tmp_path)
    assert folders() == 1
    _fetch(prior, public, Target(other_target), tmp_path)
    assert folders() == 1 + prior.distils, "the target matters to what distils it, and to nothing else"
    _fetch(prior, other_public, target, tmp_path)
    assert folders() == 2 + prior.distils
    _fetch(replace(prior, seed=1), public, target, tmp_path)
    assert folders() == 3 + prior.distils
    if not isinstance(prior, FeatureStatistics):
        _fetch(replace(prior, steps=2), public, target, tmp_path)
        assert folders() == 4 + prior.distils
    if isinstance(prior, BatchPrior):
        _fetch(replace(prior, precision="bf16"), public, target, tmp_path)
        assert folders() == 5 + prior.distils


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flip(content: bytes) -> bytes:
    """One byte in the middle, which is inside a tensor: torch.load alone reads it without a word."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [_cut, _flip, lambda content: b""], ids=["cut", "flipped", "empty"])
def test_damaged_prior_is_trained_again(
    damage: Callable[[bytes], bytes], public: Tensor, target: Target, tmp_path: Path
) -> None:
    prior = PRIORS[0]
    first = _fetch(prior, public, target, tmp_path)
    (stored,) = tmp_path.rglob("prior.pt")
    content = stored.read_bytes()
    stored.write_bytes(damage(content))
    with pytest.warns(DamagedCacheWarning, match=r"prior\.pt is corrupt .*; it is trained again"):
        again = _fetch(prior, public, target, tmp_path)
    assert _same(first, again)
    assert stored.read_bytes() == content


def test_damaged_checkpoint_starts_again(
    public: Tensor, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = PRIORS[0]
    monkeypatch.setattr(cache, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(Interrupted):
        _fetch(prior, public, target, tmp_path, _interrupt_at(3))
    (checkpoint,) = tmp_path.rglob("training.pt")
    checkpoint.write_bytes(_flip(checkpoint.read_bytes()))
    with pytest.warns(DamagedCacheWarning, match=r"training\.pt is corrupt"):
        again = _fetch(prior, public, target, tmp_path)
    assert _same(again, _fetch(prior, public, target))


def test_pictures_and_losses_are_beside_the_prior(public: Tensor, target: Target, tmp_path: Path) -> None:
    prior = ConditionalGan(**SMALL)
    _fetch(prior, public, target, tmp_path)
    (folder,) = tmp_path.iterdir()
    record = json.loads((folder / "record.json").read_text())
    assert record["prior"] | {"alpha": "0.2", "name": "conditional-gan"} == record["prior"]
    assert record["steps"] == 6
    assert record["losses"].keys() == {"discriminator", "generator"}
    # 64 images of 8x8 in rows of 8, two pixels between them.
    assert Image.open(folder / "samples.png").size == (82, 82)


@every_prior
def test_public_images_that_do_not_fit_are_refused(prior: Prior, public: Tensor, target: Target) -> None:
    with pytest.raises(
        ValueError, match=rf"M at least 1, to train {prior.name}; got torch.float32 of shape \(0, 1"
    ):
        _fetch(prior, public[:0], target)
    with pytest.raises(ValueError, match=r"public must be float32 images.*got torch\.float64"):
        _fetch(prior, public.double(), target)
    with pytest.raises(
        ValueError, match=r"public images have shape \(1, 8, 6\), the target takes \(1, 8, 8\)"
    ):
        _fetch(prior, public[..., :6], target)


@trained_in_steps
def test_divergence_is_refused_and_nothing_stored(
    prior: Prior, public: Tensor, target: Target, tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match=rf"prior {prior.name} diverged: .* after \d of 6 .*lower its learning"
    ):
        _fetch(replace(prior, learning_rate=1e30), public, target, tmp_path)
    assert not list(tmp_path.rglob("prior.pt"))


def test_image_shape_that_no_generator_makes(target: Target) -> None:
    with pytest.raises(ValueError, match=r"sides of 5 to 1024 pixels.*got \(1, 4, 4\)"):
        fetch(
            PRIORS[0],
            public=torch.zeros(2, 1, 4, 4),
            target=target,
            image_shape=(1, 4, 4),
            num_classes=10,
            folder=None,
            progress=lambda done, steps: None,
        )


@pytest.mark.parametrize(
    ("prior", "setting", "limit"),
    [
        (WganGP, {"steps": 0}, "steps must be at least 1; got 0"),
        (WganGP, {"batch_size": 1}, "batch_size must be at least 2; got 1"),
        (InversionGan, {"learning_rate": 0.0}, "learning_rate must be above 0 and finite; got 0.0"),
        (InversionGan, {"generator_every": 0}, "generator_every must be at least 1; got 0"),
        (ConditionalGan, {"width": -1.0}, "width must be above 0 and finite; got -1.0"),
        (ConditionalGan, {"latent_size": 0}, "latent_size must be at least 1; got 0"),
        (ConditionalGan, {"top_n": 0}, "top_n must be at least 1; got 0"),
        (ConditionalGan, {"alpha": -0.1}, "alpha must be at least 0 and finite; got -0.1"),
        (Surrogates, {"count": 0}, "count must be at least 1; got 0"),
        (Surrogates, {"precision": "fp16"}, "precision must be 'float32' or 'bf16'; got 'fp16'"),
        (FeatureStatistics, {"count": 1}, "count must be at least 2; got 1"),
    ],
)
def test_settings_out_of_range(prior: type[Prior], setting: dict[str, float], limit: str) -> None:
    with pytest.raises(ValueError, match=f"^{limit}$"):
        prior(**setting)


def test_of_two_that_need_the_same_prior_one_waits(public: Tensor, target: Target, tmp_path: Path) -> None:
    """Until the other, here this test, has let go of the folder."""
    _fetch(PRIORS[0], public, target, tmp_path)
    (folder,) = tmp_path.iterdir()
    waiting = Thread(target=_fetch, args=(PRIORS[0], public, target, tmp_path))
    with FileLock(folder / ".lock"):
        waiting.start()
        waiting.join(timeout=0.5)
        assert waiting.is_alive()
    waiting.join(timeout=60)
    assert not waiting.is_alive()
