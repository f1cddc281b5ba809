"""Checkpoints: one file that holds a model together with what it owes."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from dpmi.whole_files import replacing

from .account import Account
from .grad_sample import BucketGradSampleModule
from .loader import BucketDataLoader
from .optimizer import BucketOptimizer
from .plan import Plan

FORMAT, VERSION = "dpmi-checkpoint", 2
_PARTS = ("facts", "model", "optimizer", "draws", "pending", "noise", "forward", "others", "sha256")


class Stateful(Protocol):
    """What a checkpoint can hold besides: a learning-rate schedule, for instance."""

    def state_dict(self) -> dict[str, Any]:
        """All that has to be remembered, in tensors, numbers, texts, and lists and dicts of them."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Go on from there."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What one ``make_private`` made.

    Args:
        plan: that all of it follows.
        module: wrapped.
        optimizer: wrapped.
        loader: wrapped.
    """

    plan: Plan
    module: BucketGradSampleModule
    optimizer: BucketOptimizer
    loader: BucketDataLoader

    def facts(self) -> dict[str, Any]:
        """What has to be the same where a training goes on."""
        partition = self.plan.partition
        return {
            "sampling_rate": self.plan.sampling_rate,
            "noise_multiplier": self.plan.noise_multiplier,
            "max_grad_norm": self.plan.max_grad_norm,
            "max_records_per_bucket": self.plan.max_records_per_bucket,
            "buckets": partition.num_buckets,
            "unit": partition.unit,
            "partition": partition.hash,
            "loss_reduction": self.module.loss_reduction,
            "steps_per_epoch": self.loader.draws.steps,
            "noise": self.loader.draws.source.mode.name,
        }


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What the engine has to take over.

    Args:
        account: every step that was billed.
        most_steps: after which the target is used up; None without one.
    """

    account: Account
    most_steps: int | None


def save(
    path: str | Path,
    training: Training,
    *,
    account: Account,
    most_steps: int | None,
    others: Mapping[str, Stateful],
) -> None:
    """Write a checkpoint; ``path`` is not touched before all of it is on the disk.

    Raises:
        RuntimeError: a logical step is under way.
    """
    if not training.loader.is_between_steps:
        raise RuntimeError(
            "a logical step is under way, of which nothing was released; save the checkpoint where "
            "optimizer.released is True, or after the loop"
        )
    position = training.loader.training_position()
    content: dict[str, Any] = {
        "facts": {
            "format": FORMAT,
            "version": VERSION,
            **training.facts(),
            "account": account.to_json(),
            "most_steps": most_steps,
            "steps_of_pass": position.steps,
            "released_steps": training.optimizer.released_steps,
        },
        "model": training.module._module.state_dict(),
        "optimizer": training.optimizer.original_optimizer.state_dict(),
        "draws": position.draws,
        "pending": [
            [torch.from_numpy(draw.buckets), torch.from_numpy(draw.starts)] for draw in position.pending
        ],
        "noise": training.loader.draws.source.noise_state(),
        "forward": _forward_state(training),
        "others": {name: other.state_dict() for name, other in others.items()},
    }
    content["sha256"] = _digest(content)
    with replacing(Path(path)) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def load(path: str | Path, training: Training, *, others: Mapping[str, Stateful]) -> Loaded:
    """Go on where a checkpoint was saved; nothing is changed if it does not fit.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint, it is damaged, or it is of another run; names what differs.
    """
    content = _read(Path(path))
    facts = content["facts"]
    for name, mine in training.facts().items():
        if facts.get(name) != mine:
            raise ValueError(
                f"checkpoint {path} is of another run: {name} is {facts.get(name)!r} there and {mine!r} here; go on "
                "with the arguments and the records of that run"
            )
    account = Account.from_json(facts["account"])
    if account.partition_hash != training.plan.partition.hash:
        raise ValueError(f"checkpoint {path} has the account of another partition: {account.partition_hash}")
    _check_same_tensors(path, content["model"], training.module._module.state_dict())
    source = training.loader.draws.source
    _check_same_tensors(
        path,
        {name: content[name] for name in ("draws", "noise")},
        {"draws": source.draws_state(), "noise": source.noise_state()},
    )
    if set(content["others"]) != set(others):
        raise ValueError(
            f"checkpoint {path} also holds the states of {sorted(content['others']) or 'nothing'}, and was to be "
            f"loaded into {sorted(others) or 'nothing'}; name the same objects as when it was saved"
        )
    training.optimizer.original_optimizer.load_state_dict(content["optimizer"])
    training.module._module.load_state_dict(content["model"])
    source.load(draws=content["draws"], noise=content["noise"])
    training.optimizer.abandon()
    training.loader.draws.go_on(
        facts["steps_of_pass"], [(buckets.numpy(), starts.numpy()) for buckets, starts in content["pending"]]
    )
    training.optimizer.released_steps = facts["released_steps"]
    _load_forward_state(training, content["forward"])
    for name, other in others.items():
        other.load_state_dict(content["others"][name])
    return Loaded(account=account, most_steps=facts["most_steps"])


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"checkpoint {path} is damaged, or is not one: {error}") from error
    if not isinstance(content, dict) or set(content) != set(_PARTS):
        raise ValueError(f"checkpoint {path} is not one of dpmi: it has not the parts {', '.join(_PARTS)}")
    facts = content["facts"]
    if (facts.get("format"), facts.get("version")) != (FORMAT, VERSION):
        raise ValueError(
            f"checkpoint {path} has format {facts.get('format')!r}, version {facts.get('version')!r}; this dpmi reads "
            f"{FORMAT!r}, version {VERSION}"
        )
    stated = content.pop("sha256")
    if _digest(content) != stated:
        raise ValueError(f"checkpoint {path} was changed after it was saved: its SHA-256 is not {stated}")
    return content


def _check_same_tensors(path: str | Path, theirs: dict[str, Tensor], mine: dict[str, Tensor]) -> None:
    for name in sorted(set(theirs) | set(mine)):
        shapes = [tuple(side[name].shape) if name in side else None for side in (theirs, mine)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"checkpoint {path} is of another model or device: {name!r} has shape {shapes[0]} there and "
                f"{shapes[1]} here"
            )


def _forward_state(training: Training) -> list[Tensor]:
    """torch's global generators, which Dropout draws from: of the CPU, and of the parameters' GPU."""
    device = next(training.module.parameters()).device
    return [
        torch.get_rng_state(),
        *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else []),
    ]


def _load_forward_state(training: Training, states: list[Tensor]) -> None:
    device = next(training.module.parameters()).device
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)


def _digest(content: dict[str, Any]) -> str:
    """SHA-256 of everything, in order."""
    digest = hashlib.sha256()
    for piece in _pieces(content):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield json.dumps(key).encode()
            yield from _pieces(item)
    elif isinstance(value, list | tuple):
        yield f"{len(value)}[".encode()
        for item in value:
            yield from _pieces(item)
    else:
        yield repr(value).encode()
