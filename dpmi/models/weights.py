"""Initial weights from a file of the user or from torchvision's download."""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

from .anatomy import head
from .registry import GROUPNORM
from .vision import PREFIX, for_channels

TORCHVISION = "torchvision"
"""The source for torchvision's default weights of the model, which are downloaded unless they are cached."""

#: Statistics of BatchNorm, which GroupNorm does not have.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")

#: Auxiliary heads of googlenet and inception_v3, which are not built.
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")

_WRAPPERS = ("state_dict", "model_state_dict", "module_state_dict", "model")
"""Keys under which training loops, Lightning and Opacus store the state dict."""

_PREFIXES = ("module.", "_orig_mod.", "_module.")
"""What nn.DataParallel, torch.compile and Opacus put before every name."""

_SHOWN = 3


def check_source(source: str, name: str) -> None:
    """Raise an error for a source that has no weights for this model, as far as its name shows.

    Raises:
        ValueError: torchvision has no weights for the model.

    >>> check_source("torchvision", "torchvision/resnet18")  # nothing is downloaded
    >>> try:
    ...     check_source("torchvision", "cnn-small")
    ... except ValueError as error:
    ...     print(str(error).partition(",")[0])
    weights = 'torchvision' needs a torchvision model
    """
    if source == TORCHVISION and not name.startswith(PREFIX):
        raise ValueError(
            f"weights = {TORCHVISION!r} needs a torchvision model, such as {PREFIX}resnet18, got {name!r}; "
            "name a file of weights"
        )


def source_digest(source: str, name: str) -> str:
    """Return the SHA-256 of the file of weights; for torchvision, of its URL, which contains a hash of the file.

    Args:
        source: as for :func:`load_weights`.
        name: as given to :func:`build`.

    Raises:
        ValueError: the file does not exist or cannot be read.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "weights.pt")
    ...     _ = path.write_bytes(b"tensors")
    ...     source_digest(str(path), "softmax")[:16]
    '26cc73f9fbf623d9'
    """
    check_source(source, name)
    if source == TORCHVISION:
        return hashlib.sha256(get_model_weights(_of_torchvision(name))["DEFAULT"].url.encode()).hexdigest()
    try:
        return hashlib.sha256(Path(source).read_bytes()).hexdigest()
    except OSError as error:
        raise _unreadable(Path(source), error) from error


def load_weights(model: nn.Module, source: str | Path, *, name: str) -> tuple[str, ...]:
    """Replace the weights of a model by existing ones; the head keeps its initial weights if the classes differ.

    Torchvision's weights are for images normalized by the mean and the standard deviation of ImageNet. For grey images
    the kernels of the three colours are summed.

    Args:
        model: the result of :func:`build`; it is changed in place.
        source: path of a file with a state dict, of ``torch.save`` or ``.safetensors``; or ``"torchvision"``. The state
            dict may stand under one of the usual keys (``state_dict``, ``model``, ...), and be that of a wrapped or
            compiled module (``module.``, ``_orig_mod.``, ``_module.``). Code in a file is not executed.
        name: as given to :func:`build`.

    Returns:
        Names of the parameters that were not loaded: those of the head if the number of classes differs.

    Raises:
        ValueError: the file does not exist, has no state dict, or one of another architecture; the message lists the
            first keys that differ. The model is not changed.

    >>> from tempfile import TemporaryDirectory
    >>> from dpmi.models import build
    >>> of_ten = build("softmax", image_shape=(1, 8, 8), num_classes=10, seed=0)
    >>> again, of_three = (build("softmax", image_shape=(1, 8, 8), num_classes=n, seed=1) for n in (10, 3))
    >>> with TemporaryDirectory() as folder:
    ...     torch.save(of_ten.state_dict(), Path(folder, "weights.pt"))
    ...     loaded = [load_weights(each, Path(folder, "weights.pt"), name="softmax") for each in (again, of_three)]
    >>> loaded  # of other classes, the head keeps its initial weights
    [(), ('1.weight', '1.bias')]
    """
    source = str(source)
    check_source(source, name)
    state = _torchvision_state(model, name) if source == TORCHVISION else _state_of(Path(source), model)
    if name.endswith(GROUPNORM):
        state = {key: value for key, value in state.items() if not key.endswith(_STATISTICS)}
    own = model.state_dict()
    last = head(model)
    rows = [each[f"{last}.weight"].shape if f"{last}.weight" in each else () for each in (own, state)]
    other_classes = rows[0][1:] == rows[1][1:] and len(rows[0]) == len(rows[1]) and rows[0] != rows[1]
    fresh = tuple(
        key for key in (f"{last}.weight", f"{last}.bias") if other_classes and key in own and key in state
    )
    differences = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "different shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own
            if key in state and key not in fresh and own[key].shape != state[key].shape
        ],
        "different type": [
            f"{key} {_kind(state[key])} instead of {_kind(own[key])}"
            for key in own
            if key in state and not _can_be(own[key], state[key])
        ],
    }
    if any(differences.values()):
        parts = (f"{what}: {_first(keys)}" for what, keys in differences.items() if keys)
        raise ValueError(f"the weights in {source} do not fit model {name!r}: {'; '.join(parts)}")
    for key, parameter in model.named_parameters():
        if key not in fresh and not state[key].to(parameter.dtype).isfinite().all():
            raise ValueError(f"the weights in {source} have a value of {key} that is not finite")
    model.load_state_dict(own | {key: value for key, value in state.items() if key not in fresh})
    return fresh


def _can_be(own: Tensor, found: Tensor) -> bool:
    """Whether a stored tensor can take the place of that of the model; precisions may differ."""
    dense = found.layout == torch.strided and not found.is_meta and not found.is_quantized
    return dense and (found.is_floating_point(), found.is_complex()) == (
        own.is_floating_point(),
        own.is_complex(),
    )


def _kind(t: Tensor) -> str:
    found = str(t.dtype).removeprefix("torch.")
    return found if t.layout == torch.strided and not t.is_meta else f"{found} ({t.layout} on {t.device})"


def _state_of(path: Path, model: nn.Module) -> dict[str, Tensor]:
    content = _content_of(path)
    while isinstance(content, Mapping) and (
        inner := [key for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
    ):
        content = content[inner[0]]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(
            f"weights {path} must contain a state dict, alone or under one of the keys {', '.join(_WRAPPERS)}; got "
            f"{type(content).__name__}"
        )
    state = {str(key): value for key, value in content.items()}
    own = model.state_dict().keys()
    while prefix := next(
        (each for each in _PREFIXES if _all_begin(state, each) and not _all_begin(own, each)), ""
    ):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _all_begin(keys: Collection[str], prefix: str) -> bool:
    return bool(keys) and all(key.startswith(prefix) for key in keys)


def _content_of(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # noqa: PLC0415 (an extra)

            return load_file(path)
        with warnings.catch_warnings():  # an error follows, or a state that fits
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise ValueError(f"weights {path} needs the package safetensors: pip install safetensors") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # the unpickler raises many types of errors for other files
        other = isinstance(error, pickle.UnpicklingError)  # torch proposes to run the code in it
        reason = "it holds other objects, or is damaged" if other else str(error).partition("\n")[0]
        raise ValueError(f"weights {path} is not a file with tensors only: {reason}") from error


def _unreadable(path: Path, error: OSError) -> ValueError:
    return ValueError(f"weights {path} cannot be read: {error.strerror or error}; name a file of weights")


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
