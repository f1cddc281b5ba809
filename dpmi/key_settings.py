"""Settings as they enter the keys of stored results."""

from __future__ import annotations

import dataclasses
from typing import Any

LATER: dict[str, Any] = {
    "average": "none",
    "clipping": "flat",
    "views": 1,
    "weight_decay": 0.0,
    "warm_up": 0,
    "milestones": (),
    "gamma": 0.1,
    "augmentation": (),
    "precision": "float32",
    "directions": "variance",
    "mirrored": False,
}
"""Settings that earlier versions did not have, and what they did: stored results of those stay valid."""


def without_later(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings without those that earlier versions did not have, where they are as those did."""
    return {name: value for name, value in settings.items() if name not in LATER or value != LATER[name]}


def described(value: object) -> str:
    """Return the ``repr`` of a value; that of a dataclass leaves out the settings of :func:`without_later`."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return repr(value)
    shown = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.repr}
    return (
        f"{type(value).__qualname__}({', '.join(f'{k}={own!r}' for k, own in without_later(shown).items())})"
    )
