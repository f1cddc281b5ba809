"""A prior is trained once: its folder is named by the hash of everything that it depends on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.utils import make_grid, save_image

from dpmi.attacks.target import Target
from dpmi.models import seeded

from .base import Gan, ImageShape, Prior, Trainer

Progress = Callable[[int, int], None]

#: Seconds between two checkpoints of a training.
CHECKPOINT_SECONDS = 30.0

_PRIOR = "prior.pt"
_TRAINING = "training.pt"
_RECORD = "record.json"
_SAMPLES = "samples.png"
_SAMPLE_COUNT = 64


class DamagedCacheWarning(UserWarning):
    """A stored prior could not be read; it is trained again."""


def fetch(
    prior: Prior,
    *,
    public: Tensor,
    target: Target | None,
    image_shape: ImageShape,
    num_classes: int,
    folder: Path | None,
    progress: Progress,
) -> nn.Module:
    """Return the trained module of a prior, in evaluation mode and frozen: from the cache, or trained now.

    A training that was interrupted goes on from its last checkpoint, at most :data:`CHECKPOINT_SECONDS` back, and
    ends where it would have ended. Beside the module the folder has the losses and, of a generator, pictures.

    Args:
        prior: what to train.
        public: float32 (M, C, H, W) in [0, 1].
        target: what a prior that distils asks; frozen.
        image_shape: (C, H, W) of the target's images.
        num_classes: K of the target.
        folder: of all priors; None trains in memory.
        progress: called with (steps done, steps).

    Raises:
        ValueError: no public images, images of another shape than the target's, a prior that cannot make such
            images, or a training that diverged.
    """
    _check(prior, public, image_shape)
    device = public.device if target is None else target.device
    with _seeded(prior.seed):
        module = prior.build(image_shape, num_classes).to(device)
    key = _key(prior, public, target if prior.distils else None, image_shape, num_classes)
    own = None if folder is None else folder / f"{prior.name}-{key}"
    if own is None or not _load(module, own):
        module.train()
        with seeded(module, prior.seed), torch.enable_grad():
            trainer = prior.trainer(module, public.to(device), target if prior.distils else None)
            _train(trainer, module, own, prior, progress)
    else:
        progress(1, 1)
    return module.eval().requires_grad_(False)


def _check(prior: Prior, public: Tensor, image_shape: ImageShape) -> None:
    if public.ndim != 4 or public.dtype != torch.float32 or len(public) == 0:
        raise ValueError(
            f"public must be float32 images (M, C, H, W) with M at least 1, which {prior.name} is trained on; got "
            f"{public.dtype} of shape {tuple(public.shape)}"
        )
    if tuple(public.shape[1:]) != tuple(image_shape):
        raise ValueError(
            f"public images have shape {tuple(public.shape[1:])}, the target takes {tuple(image_shape)}: "
            "resize them"
        )


def _train(
    trainer: Trainer, module: nn.Module, folder: Path | None, prior: Prior, progress: Progress
) -> None:
    done, spent = _resume(trainer, module, folder)
    started = saved = time.monotonic()
    losses: Mapping[str, float] = {}
    while done < trainer.steps:
        progress(done, trainer.steps)
        losses = trainer.step()
        done += 1
        now = time.monotonic()
        if folder is not None and now - saved > CHECKPOINT_SECONDS:
            _save_training(trainer, module, folder, done, spent + now - started)
            saved = now
    if not all(bool(value.isfinite().all()) for value in module.state_dict().values()):
        raise ValueError(
            f"prior {prior.name} diverged: its weights are not finite after {trainer.steps} steps (last losses "
            f"{dict(losses)}); lower its learning rate"
        )
    progress(trainer.steps, trainer.steps)
    if folder is not None:
        record = {
            "prior": {"name": prior.name, **{f.name: repr(getattr(prior, f.name)) for f in _fields(prior)}},
            "steps": trainer.steps,
            "seconds": spent + time.monotonic() - started,
            "losses": dict(losses),
        }
        _save(module, folder, record)


def _resume(trainer: Trainer, module: nn.Module, folder: Path | None) -> tuple[int, float]:
    """Steps and seconds that are behind an interrupted training."""
    if folder is None:
        return 0, 0.0
    state = _read(folder / _TRAINING)
    if state is None:
        return 0, 0.0
    module.load_state_dict(state["module"])
    trainer.load_state_dict(state["trainer"])
    torch.default_generator.set_state(state["random"])
    return int(state["done"]), float(state["seconds"])


def _save_training(trainer: Trainer, module: nn.Module, folder: Path, done: int, seconds: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "module": module.state_dict(),
        "trainer": trainer.state_dict(),
        "random": torch.default_generator.get_state(),
        "done": done,
        "seconds": seconds,
    }
    with _replacing(folder / _TRAINING) as temporary:
        torch.save(state, temporary)


def _save(module: nn.Module, folder: Path, record: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(module, Gan):
        with _replacing(folder / _SAMPLES) as temporary:
            save_image(make_grid(samples(module, _SAMPLE_COUNT)), temporary, format="png")
    with _replacing(folder / _RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
    # Last: what is there once it is there is complete.
    with _replacing(folder / _PRIOR) as temporary:
        torch.save(module.state_dict(), temporary)
    (folder / _TRAINING).unlink(missing_ok=True)


def samples(gan: Gan, count: int, *, seed: int = 0) -> Tensor:
    """Return images (count, C, H, W) that a trained generator makes of random latents, classes in turn."""
    generator = gan.generator
    device = next(gan.parameters()).device
    latents = torch.randn(count, generator.latent_size, generator=torch.Generator().manual_seed(seed))
    labels = None
    if generator.num_classes is not None:
        labels = (torch.arange(count) % generator.num_classes).to(device)
    was_training = gan.training
    with torch.no_grad():
        images: Tensor = gan.eval().generator(latents.to(device), labels)
    gan.train(was_training)
    return images.cpu()


def _load(module: nn.Module, folder: Path) -> bool:
    """Whether the trained module was there."""
    state = _read(folder / _PRIOR)
    if state is None:
        return False
    try:
        module.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        _warn(folder / _PRIOR, error)
        return False
    return True


def _read(path: Path) -> Any:
    """What torch saved, or None where there is nothing that can be read."""
    try:
        return torch.load(path, weights_only=True)
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        _warn(path, error)
        return None


def _warn(path: Path, error: Exception) -> None:
    warnings.warn(
        f"the stored prior {path} is damaged ({error}); it is trained again",
        DamagedCacheWarning,
        stacklevel=4,
    )


def _key(
    prior: Prior, public: Tensor, target: Target | None, image_shape: ImageShape, num_classes: int
) -> str:
    settings = {field.name: repr(getattr(prior, field.name)) for field in _fields(prior)}
    digest = hashlib.sha256(
        json.dumps([prior.name, settings, list(image_shape), num_classes], sort_keys=True).encode()
    )
    digest.update(public.contiguous().cpu().numpy().tobytes())
    if target is not None:
        digest.update(target.digest())
    return digest.hexdigest()[:16]


def _fields(prior: Prior) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(prior)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Initial weights from the seed, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def _replacing(final: Path) -> Iterator[Path]:
    """A path beside ``final`` that takes its place only when everything has been written."""
    temporary = final.with_name(f".partial-{uuid.uuid4().hex}-{final.name}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)
