"""Checkpoints: one file with the state of a training and its privacy account."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from accountants.rules import Rule
from dpmi.whole_files import replacing

from .account import Account
from .grad_sample import BucketGradSampleModule
from .loader import BucketDataLoader
from .optimizer import BucketOptimizer
from .plan import Plan
from .samplers import POISSON

FORMAT, VERSION, WITH_SAMPLER = "dpmi-checkpoint", 4, 5
_PARTS = ("facts", "model", "optimizer", "draws", "pending", "noise", "forward", "audit", "others", "sha256")


class Stateful(Protocol):
    """A further object that a checkpoint can hold, such as a learning-rate schedule."""

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state, in tensors, numbers, texts, and lists and dicts of them."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Restore the state."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """The objects of one ``make_private`` call.

    Args:
        plan: the run's plan.
        module: the wrapped module.
        optimizer: the wrapped optimizer.
        loader: the wrapped loader.
    """

    plan: Plan
    module: BucketGradSampleModule
    optimizer: BucketOptimizer
    loader: BucketDataLoader

    def facts(self) -> dict[str, Any]:
        """Return the facts that must be equal when a training is resumed."""
        partition = self.plan.partition
        return {
            "sampling_rate": self.plan.sampling_rate,
            "noise_multiplier": self.plan.noise_multiplier,
            "max_grad_norm": self.plan.max_grad_norm,
            "clipping": str(self.plan.clipping),
            "max_records_per_bucket": self.plan.max_records_per_bucket,
            "views": self.plan.views,
            "buckets": partition.num_buckets,
            "canaries": self.plan.canaries,
            "unit": partition.unit,
            "partition": partition.hash,
            "loss_reduction": self.module.loss_reduction,
            "steps_per_epoch": self.loader.draws.steps,
            "noise": self.loader.draws.source.mode.name,
            # Left out for the default, so that its checkpoints stay what they were.
            **({} if self.plan.sampling == POISSON else {"sampling": str(self.plan.sampling)}),
        }


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The state that the engine takes over from a checkpoint.

    Args:
        account: the account, with every charged step.
        most_steps: number of steps that the target epsilon allows; None without a target.
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
    """Write a checkpoint. ``path`` is replaced only after all of it is on the disk.

    Raises:
        RuntimeError: a logical step is incomplete.
    """
    if not training.loader.is_between_steps:
        raise RuntimeError(
            "the current logical step is incomplete and not released yet; save the checkpoint when "
            "optimizer.released is True, or after the loop"
        )
    position = training.loader.training_position()
    content: dict[str, Any] = {
        "facts": {
            "format": FORMAT,
            "version": VERSION if training.plan.sampling == POISSON else WITH_SAMPLER,
            **training.facts(),
            "account": account.to_json(),
            "most_steps": most_steps,
            "steps_of_pass": position.steps,
            "released_steps": training.optimizer.released_steps,
            "current_norm": training.optimizer.max_grad_norm,
        },
        "model": training.module._module.state_dict(),
        "optimizer": training.optimizer.original_optimizer.state_dict(),
        "draws": position.draws,
        "pending": [
            [torch.from_numpy(draw.buckets), torch.from_numpy(draw.starts)] for draw in position.pending
        ],
        "noise": training.loader.draws.source.noise_state(),
        "forward": _forward_state(training),
        "audit": _audit_state(training),
        "others": {name: other.state_dict() for name, other in others.items()},
    }
    content["sha256"] = _digest(content)
    with replacing(Path(path)) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def load(
    path: str | Path, training: Training, *, rule: Rule | None, others: Mapping[str, Stateful]
) -> Loaded:
    """Restore a training from a checkpoint; nothing is changed if the checkpoint does not match the training.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a checkpoint, is damaged, or belongs to another run; the message names the
            difference.
    """
    content = _read(Path(path))
    facts = content["facts"]
    for name, mine in {"sampling": None, **training.facts()}.items():
        if facts.get(name) != mine:
            raise ValueError(
                f"checkpoint {path} is from another run: {name} is {facts.get(name)!r} there and {mine!r} here; "
                "resume with the arguments and the records of that run"
            )
    account = Account.from_json(facts["account"])
    if account.rule != rule:
        raise ValueError(
            f"checkpoint {path} is of an engine with the rule {account.rule or 'none'}, and this engine has "
            f"{rule or 'none'}; resume with the same privacy_filter"
        )
    if account.partition_hash != training.plan.partition.hash:
        raise ValueError(
            f"checkpoint {path} has the account of another partition, {account.partition_hash}; resume with the "
            "partition of that run"
        )
    _check_same_tensors(path, content["model"], training.module._module.state_dict())
    source = training.loader.draws.source
    _check_same_tensors(
        path,
        {name: content[name] for name in ("draws", "noise")},
        {"draws": source.draws_state(), "noise": source.noise_state()},
    )
    if set(content["others"]) != set(others):
        raise ValueError(
            f"checkpoint {path} holds the states of the further objects {sorted(content['others']) or 'none'}, but "
            f"load_checkpoint got {sorted(others) or 'none'}; pass the same names as to save_checkpoint"
        )
    training.optimizer.original_optimizer.load_state_dict(content["optimizer"])
    training.module._module.load_state_dict(content["model"])
    source.load(draws=content["draws"], noise=content["noise"])
    training.optimizer.abandon()
    training.loader.draws.go_on(
        facts["steps_of_pass"], [(buckets.numpy(), starts.numpy()) for buckets, starts in content["pending"]]
    )
    training.optimizer.released_steps = facts["released_steps"]
    training.optimizer.clip_to(facts["current_norm"])
    _load_forward_state(training, content["forward"])
    if training.optimizer.observer is not None:
        training.optimizer.observer.load_state_dict(content["audit"])
    for name, other in others.items():
        other.load_state_dict(content["others"][name])
    return Loaded(account=account, most_steps=facts["most_steps"])


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # the unpickler raises many types of errors for other files
        raise ValueError(f"checkpoint {path} is damaged, or not a checkpoint: {error}") from error
    if not isinstance(content, dict) or set(content) != set(_PARTS):
        raise ValueError(
            f"{path} is not a dpmi checkpoint: it must have exactly the parts {', '.join(_PARTS)}"
        )
    facts = content["facts"]
    if facts.get("format") != FORMAT or facts.get("version") not in (VERSION, WITH_SAMPLER):
        raise ValueError(
            f"checkpoint {path} has format {facts.get('format')!r}, version {facts.get('version')!r}; this version of "
            f"dpmi reads {FORMAT!r}, version {VERSION}"
        )
    stated = content.pop("sha256")
    if _digest(content) != stated:
        raise ValueError(
            f"checkpoint {path} was changed after it was saved: its SHA-256 is not {stated}; use the original file"
        )
    return content


def _check_same_tensors(path: str | Path, theirs: dict[str, Tensor], mine: dict[str, Tensor]) -> None:
    for name in sorted(set(theirs) | set(mine)):
        shapes = [tuple(side[name].shape) if name in side else None for side in (theirs, mine)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"checkpoint {path} is from another model or device: {name!r} has shape {shapes[0]} there and "
                f"{shapes[1]} here; resume with that model, on that kind of device"
            )


def _audit_state(training: Training) -> dict[str, Any]:
    """Return the state of the audit, with its secrets; empty without one."""
    observer = training.optimizer.observer
    return {} if observer is None else observer.state_dict()


def _forward_state(training: Training) -> list[Tensor]:
    """Return the states of torch's global generators (CPU, and the parameters' GPU), which Dropout draws from."""
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
    """Return the SHA-256 of the whole content, in its order."""
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
