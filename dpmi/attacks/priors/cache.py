"""Cache of trained priors: each is trained once and stored in a folder named by the hash of all its inputs."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn
from torchvision.utils import make_grid, save_image

from accountants.plugins import origin
from dpmi import versions
from dpmi.attacks.target import Target
from dpmi.data.lazy import Images, blocks, placed
from dpmi.key_settings import without_later
from dpmi.models import evaluating, seeded
from dpmi.progress import Progress
from dpmi.whole_files import replacing

from .base import Gan, ImageShape, Prior, Trainer

#: Seconds between two checkpoints of a training.
CHECKPOINT_SECONDS = 30.0

_PRIOR = "prior.pt"
_TRAINING = "training.pt"
_RECORD = "record.json"
_SAMPLES = "samples.png"
_LOCK = ".lock"
_SAMPLE_COUNT = 64


class DamagedCacheWarning(UserWarning):
    """A cache file is corrupt; the prior is trained again.

    >>> from tempfile import TemporaryDirectory
    >>> from dpmi.attacks.priors import WganGP
    >>> with TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as seen:
    ...     warnings.simplefilter("always", DamagedCacheWarning)
    ...     given = {"public": torch.rand(20, 1, 16, 16), "target": None, "image_shape": (1, 16, 16), "num_classes": 3}
    ...     cached = {"folder": Path(folder), "progress": lambda done, total: None}
    ...     gan = fetch(WganGP(steps=1, width=0.1), **given, **cached)
    ...     (file,) = Path(folder).glob("*/prior.pt")
    ...     _ = file.write_bytes(b"half a file")
    ...     again = fetch(WganGP(steps=1, width=0.1), **given, **cached)
    >>> [warning.category.__name__ for warning in seen]
    ['DamagedCacheWarning']
    """


def fetch(
    prior: Prior,
    *,
    public: Images,
    target: Target | None,
    image_shape: ImageShape,
    num_classes: int,
    folder: Path | None,
    progress: Progress,
) -> nn.Module:
    """Return the trained module of a prior, in evaluation mode and frozen: from the cache, or trained now.

    An interrupted training resumes from its last checkpoint, at most :data:`CHECKPOINT_SECONDS` old, and gives the same
    result as an uninterrupted one. Besides the module, the folder contains the losses and, for a generator, sample
    images.

    Several processes may request the same prior at once: one trains it, and the others wait.

    The target's counters grow by the queries of an uninterrupted training, even if the prior comes from the cache. The
    cost of an attack is therefore the same in both cases.

    Args:
        prior: the prior to train.
        public: float32 (M, C, H, W) in [0, 1]; M may be 0 for a prior that is already trained.
        target: the frozen target, queried by a prior that distils it.
        image_shape: (C, H, W) of the target's images.
        num_classes: K of the target.
        folder: parent folder of all priors; None trains without a cache.
        progress: called with (steps done, steps).

    Raises:
        ValueError: there are no public images, their shape is not the target's, the prior does not support this shape,
            or the training diverged.

    >>> from dpmi.attacks.priors import WganGP
    >>> gan = fetch(
    ...     WganGP(steps=1, width=0.1), public=torch.rand(20, 1, 16, 16), target=None, image_shape=(1, 16, 16),
    ...     num_classes=3, folder=None, progress=lambda done, total: print(done, "of", total))
    0 of 1
    1 of 1
    >>> type(gan).__name__, gan.training
    ('Gan', False)
    """
    _check(prior, public, image_shape)
    if not prior.distils:
        target = None
    device = public.device if target is None else target.device
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(prior.seed)
        module = prior.build(image_shape, num_classes).to(device)
    own = None
    if folder is not None:
        own = folder / f"{prior.name}-{_key(prior, module, public, target)}"
    bill = _Bill(target)
    with _alone(own):
        stored = _read(own, _PRIOR)
        if stored is not None:
            module.load_state_dict(stored["module"])
            bill.set(stored["bill"])
            progress(1, 1)
            return module.eval().requires_grad_(False)
        module.train()
        with seeded(module, prior.seed), torch.enable_grad():
            trainer = prior.trainer(module, placed(public, device), target)
            record = _train(prior.name, trainer, module, bill=bill, folder=own, progress=progress)
        module.eval().requires_grad_(False)
        if own is not None:
            _save(module, own, {"prior": {"name": prior.name, **_settings(prior)}, **record}, bill)
    return module


def samples(gan: Gan, count: int, *, seed: int = 0) -> Tensor:
    """Return images (count, C, H, W) that a trained generator makes of random latents, cycling through the classes.

    >>> from dpmi.attacks.priors import WganGP
    >>> gan = WganGP(width=0.1).build((1, 16, 16), num_classes=3).eval()  # untrained
    >>> samples(gan, 4).shape
    torch.Size([4, 1, 16, 16])
    """
    generator = gan.generator
    device = next(gan.parameters()).device
    latents = torch.randn(count, generator.latent_size, generator=torch.Generator().manual_seed(seed))
    labels = None
    if generator.num_classes is not None:
        labels = (torch.arange(count) % generator.num_classes).to(device)
    with evaluating(gan), torch.no_grad():
        images: Tensor = generator(latents.to(device), labels)
    return images.cpu()


@contextmanager
def _alone(folder: Path | None) -> Iterator[None]:
    """Lock the folder: of several processes that need the same prior, one trains it and the others wait."""
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / _LOCK):
        yield


def _check(prior: Prior, public: Images, image_shape: ImageShape) -> None:
    if len(public.shape) != 4 or public.dtype != torch.float32 or (len(public) == 0 and not prior.given):
        raise ValueError(
            f"public must be float32 images (M, C, H, W) with M at least 1, to train {prior.name}; got "
            f"{public.dtype} of shape {tuple(public.shape)}"
        )
    if tuple(public.shape[1:]) != tuple(image_shape):
        raise ValueError(
            f"public images have shape {tuple(public.shape[1:])}, the target takes {tuple(image_shape)}: "
            "resize them"
        )


class _Bill:
    """The target's queries and gradient calls since this object was created."""

    def __init__(self, target: Target | None) -> None:
        self._target = target
        self._before = (0, 0) if target is None else (target.queries, target.grad_calls)

    def __call__(self) -> tuple[int, int]:
        if self._target is None:
            return (0, 0)
        return self._target.queries - self._before[0], self._target.grad_calls - self._before[1]

    def set(self, amounts: tuple[int, int]) -> None:
        if self._target is not None:
            self._target.queries = self._before[0] + amounts[0]
            self._target.grad_calls = self._before[1] + amounts[1]


def _train(
    name: str, trainer: Trainer, module: nn.Module, *, bill: _Bill, folder: Path | None, progress: Progress
) -> dict[str, Any]:
    """Take all remaining steps and return the training record."""
    done, spent = 0, 0.0
    state = _read(folder, _TRAINING)
    if state is not None:
        module.load_state_dict(state["module"])
        trainer.load_state_dict(state["trainer"])
        torch.default_generator.set_state(state["random"])
        # The queries that constructing the trainer repeated were counted before the interruption.
        bill.set(state["bill"])
        done, spent = state["done"], state["seconds"]
    losses: Mapping[str, float] = {}
    started = saved = time.monotonic()
    while done < trainer.steps:
        progress(done, trainer.steps)
        losses = trainer.step()
        done += 1
        if not all(math.isfinite(loss) for loss in losses.values()):
            _refuse_diverged(name, done, trainer.steps, losses)
        now = time.monotonic()
        if folder is not None and now - saved >= CHECKPOINT_SECONDS and done < trainer.steps:
            state = {
                "module": module.state_dict(),
                "trainer": trainer.state_dict(),
                "random": torch.default_generator.get_state(),
                "bill": bill(),
                "done": done,
                "seconds": spent + now - started,
            }
            _write(folder, _TRAINING, state)
            saved = now
    if not all(bool(value.isfinite().all()) for value in module.state_dict().values()):
        _refuse_diverged(name, done, trainer.steps, losses)
    progress(trainer.steps, trainer.steps)
    return {"steps": done, "seconds": spent + time.monotonic() - started, "losses": dict(losses)}


def _refuse_diverged(name: str, done: int, steps: int, losses: Mapping[str, float]) -> None:
    raise ValueError(
        f"prior {name} diverged: its losses or weights are not finite after {done} of {steps} steps (last losses "
        f"{dict(losses)}); lower its learning rate"
    )


def _save(module: nn.Module, folder: Path, record: Mapping[str, Any], bill: _Bill) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(module, Gan):
        with replacing(folder / _SAMPLES) as temporary:
            save_image(make_grid(samples(module, _SAMPLE_COUNT)), temporary, format="png")
    with replacing(folder / _RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
    # Written last: this file marks the folder as complete.
    _write(folder, _PRIOR, {"module": module.state_dict(), "bill": bill()})
    (folder / _TRAINING).unlink(missing_ok=True)


def _write(folder: Path, name: str, state: Mapping[str, Any]) -> None:
    """Store the output of torch.save followed by its SHA-256; torch.load can read the file directly."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / name) as temporary:
        temporary.write_bytes(content + hashlib.sha256(content).digest())


def _read(folder: Path | None, name: str) -> Any:
    """Return the stored state, or None if there is none or the file is corrupt.

    torch.load alone does not detect a changed byte inside a tensor.
    """
    if folder is None:
        return None
    try:
        stored = (folder / name).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        return _damaged(folder / name, str(error))
    size = hashlib.sha256().digest_size
    content, digest = stored[:-size], stored[-size:]
    if hashlib.sha256(content).digest() != digest:
        return _damaged(folder / name, "its SHA-256 does not match its content")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _damaged(path: Path, reason: str) -> None:
    warnings.warn(
        f"the cached prior {path} is corrupt ({reason}); it is trained again",
        DamagedCacheWarning,
        stacklevel=4,
    )


def _key(prior: Prior, module: nn.Module, public: Images, target: Target | None) -> str:
    """Return the hash of code version, settings, layers, initial weights, public images and target."""
    code = [versions.PRIOR, origin(type(prior)), prior.name, _settings(prior), repr(module)]
    digest = hashlib.sha256(json.dumps(code).encode())
    for value in module.state_dict().values():
        digest.update(value.contiguous().cpu().numpy().tobytes())
    digest.update(repr(tuple(public.shape)).encode())
    for block in blocks(public):
        digest.update(block.contiguous().cpu().numpy().tobytes())
    if target is not None:
        digest.update(target.digest())
    return digest.hexdigest()[:16]


def _settings(prior: Prior) -> dict[str, str]:
    found = {field.name: getattr(prior, field.name) for field in dataclasses.fields(prior)}
    return {name: repr(value) for name, value in without_later(found).items()}
