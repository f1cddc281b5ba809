"""The steps that an Opacus checkpoint has recorded, as a ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from accountants import BucketMechanism, Ledger, checks

ACCOUNTANT = "privacy_accountant_state_dict"
"""The key of the accountant in a checkpoint of ``opacus.PrivacyEngine.save_checkpoint``."""

POISSON = (
    "the steps come from Opacus, which drew the records independently only if poisson_sampling was True, and does not "
    "record whether it was; with a shuffled loader, no epsilon here applies"
)
"""What a reader has to know, because the file cannot tell."""

_KINDS = [np.dtype(kind) for kind in (np.float64, np.float32, np.int64, np.int32)]
_SCALAR = np.float64(0).__reduce__()[0]
# A noise multiplier that was computed with numpy is stored as a numpy scalar, under its module's name of then.
_NUMPY: list[Any] = [
    np.dtype,
    *map(type, _KINDS),
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


def read_opacus_history(path: str | Path) -> Ledger:
    """Return the steps in the file of ``opacus.PrivacyEngine.save_checkpoint``, or of an accountant's ``state_dict``.

    They are what Opacus has counted; whether it drew by Poisson sampling, the file does not say.

    Args:
        path: a file of ``torch.save``; code in it is not run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds more than tensors and plain values, or no steps of an Opacus accountant.

    >>> from tempfile import TemporaryDirectory
    >>> from opacus.accountants import RDPAccountant
    >>> opacus = RDPAccountant()
    >>> for _ in range(50):
    ...     opacus.step(noise_multiplier=2.0, sample_rate=0.1)
    >>> with TemporaryDirectory() as folder:
    ...     torch.save(opacus.state_dict(), Path(folder, "accountant.pt"))
    ...     ledger = read_opacus_history(Path(folder, "accountant.pt"))
    >>> ledger.steps, round(ledger.guarantee(delta=1e-3, unit="record", adjacency="add_remove").epsilon, 2)
    (50, 1.05)
    """
    path = Path(path)
    try:
        with path.open("rb") as file, torch.serialization.safe_globals(_NUMPY):
            content = torch.load(file, map_location="meta", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # the unpickler raises many types of errors for other files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} cannot be read as tensors and plain values: {reason} Save the accountant alone: "
            "torch.save(engine.accountant.state_dict(), path)"
        ) from error
    state = content.get(ACCOUNTANT, content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not isinstance(state.get("history"), list) or "mechanism" not in state:
        raise ValueError(
            f"{path} has no history of an Opacus accountant; it must be a file of opacus.PrivacyEngine.save_checkpoint "
            "or of an accountant's state_dict()"
        )
    ledger = Ledger()
    for number, entry in enumerate(state["history"]):
        try:
            noise_multiplier, sample_rate, steps = entry
            step = BucketMechanism(sampling_rate=sample_rate, noise_multiplier=noise_multiplier)
            ledger = ledger.record(step, checks.integer("steps", steps, minimum=1))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: entry {number} of the history, {entry!r}, is not (noise_multiplier, sample_rate, steps): "
                f"{error}"
            ) from None
    if not ledger.steps:
        raise ValueError(
            f"{path} has an empty history: this accountant has seen no step, so it accounts for nothing"
        )
    return ledger
