"""One call of a pass, in the form that is compared between passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Step(NamedTuple):
    """One call, in the form that is compared between passes.

    Args:
        func: the function; None for the end of a pass.
        arguments: its arguments; each tensor is represented by the call that made it.
        shapes: the shapes of the returned tensors.
    """

    func: Callable[..., Any] | None
    arguments: Any
    shapes: tuple[tuple[int, ...], ...]


class Multiple(NamedTuple):
    """A number that was a multiple of the number of records, with this factor, in both dry runs."""

    times: int
