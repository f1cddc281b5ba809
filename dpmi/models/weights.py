"""Starting from weights that exist already: a file of the user's, or torchvision's own download."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present
from torchvision.models import get_model_weights

from .anatomy import head
from .registry import GROUPNORM
from .vision import PREFIX, for_channels

TORCHVISION = "torchvision"
"""As a source: torchvision's default weights of the model, downloaded unless they are in its cache."""

#: What BatchNorm keeps, and GroupNorm has no use for.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")

#: Second heads of googlenet and inception_v3, which are not built.
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")

_SHOWN = 3


def check_source(source: str, name: str) -> None:
    """Refuse a source that no weights of this model can come from, as far as its name tells.

    Raises:
        ValueError: torchvision has no weights for the model.
    """
    if source == TORCHVISION and not name.startswith(PREFIX):
        raise ValueError(
            f"weights = {TORCHVISION!r} needs a model of torchvision's, such as {PREFIX}resnet18, got {name!r}; "
            "name a file"
        )


def source_digest(source: str, name: str) -> str:
    """SHA-256 of the file that weights come from; of torchvision's, of the address that names them and their hash.

    Args:
        source: as for :func:`load_weights`.
        name: as given to :func:`build`.

    Raises:
        ValueError: there is no such file, or it cannot be read.
    """
    check_source(source, name)
    if source == TORCHVISION:
        return hashlib.sha256(get_model_weights(_of_torchvision(name))["DEFAULT"].url.encode()).hexdigest()
    try:
        return hashlib.sha256(Path(source).read_bytes()).hexdigest()
    except OSError as error:
        raise _unreadable(Path(source), error) from error


def load_weights(model: nn.Module, source: str | Path, *, name: str) -> tuple[str, ...]:
    """Replace the weights of a model by existing ones, as far as the head, which stays fresh for other classes.

    Torchvision's weights are for images normalized by the mean and the standard deviation of ImageNet. For grey
    images the kernels of the three colours are added up.

    Args:
        model: as :func:`build` made it; it is changed in place.
        source: path of a file with a state dict, also one under the key ``"state_dict"`` or of ``nn.DataParallel``;
            or ``"torchvision"``. A file is read without running code of its own (``weights_only``).
        name: as given to :func:`build`.

    Returns:
        Names of the parameters that were not loaded: those of the head, if the number of classes is another one.

    Raises:
        ValueError: there is no such file, it holds no state dict, or one of another architecture; the message has
            the first keys that differ. The model is as it was.
    """
    source = str(source)
    check_source(source, name)
    state = _torchvision_state(model, name) if source == TORCHVISION else _state_of(Path(source))
    if name.endswith(GROUPNORM):
        state = {key: value for key, value in state.items() if not key.endswith(_STATISTICS)}
    own = model.state_dict()
    last = head(model)
    fresh = tuple(
        key
        for key in (f"{last}.weight", f"{last}.bias")
        if key in own
        and key in state
        and own[key].shape[1:] == state[key].shape[1:]
        and len(own[key]) != len(state[key])
    )
    differences = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
            for key in own
            if key in state and key not in fresh and own[key].shape != state[key].shape
        ],
    }
    if any(differences.values()):
        parts = (f"{what}: {_first(keys)}" for what, keys in differences.items() if keys)
        raise ValueError(f"the weights in {source} are not of model {name!r}: {'; '.join(parts)}")
    model.load_state_dict(own | {key: value for key, value in state.items() if key not in fresh})
    return fresh


def _state_of(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # whatever the unpickler makes of a file that is something else
        reason = str(error).partition("\n")[0]
        raise ValueError(f"weights {path} is no file of torch.save with tensors alone: {reason}") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"weights {path} holds {type(content).__name__}, and must hold a state dict")
    state = dict(content)
    consume_prefix_in_state_dict_if_present(state, "module.")
    return state


def _unreadable(path: Path, error: OSError) -> ValueError:
    return ValueError(f"weights {path} cannot be read: {error.strerror or error}; name a file")


def _of_torchvision(name: str) -> str:
    return name.removeprefix(PREFIX).removesuffix(GROUPNORM)


def _torchvision_state(model: nn.Module, name: str) -> dict[str, Tensor]:
    state = get_model_weights(_of_torchvision(name))["DEFAULT"].get_state_dict(
        progress=False, check_hash=True
    )
    first, convolution = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    state = {key: value for key, value in state.items() if not key.startswith(_AUXILIARY)}
    state[f"{first}.weight"] = for_channels(state[f"{first}.weight"], convolution.in_channels)
    return state


def _first(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
