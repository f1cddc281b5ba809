"""Trained parameters of a private module are moved by one optimizer only; any other is stopped before it moves them."""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook


class Claim:
    """The right of one private optimizer to move its trained parameters.

    The newest claim to a parameter counts: after a second ``make_private`` on the same module, the optimizer of the
    first one releases nothing any more. A claim ends with the private optimizer that holds it.

    Args:
        named: the trained parameters and their names.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]]) -> None:
        # Held strongly, so that an id in the registry is that of a living parameter.
        self.names = {p: name for name, p in named}
        self.is_releasing = False

    def take(self) -> None:
        """Claim the parameters, also those that an older optimizer has claimed."""
        _watch_every_optimizer()
        _claims.update({id(p): self for p in self.names})

    def check(self) -> None:
        """Refuse to release if the parameters are another optimizer's by now.

        Raises:
            RuntimeError: names the parameter.
        """
        for p, name in self.names.items():
            if _claims.get(id(p)) is not self:
                raise RuntimeError(
                    f"parameter {name!r} belongs to the private optimizer of a later make_private call, so this one "
                    "releases nothing any more. Train with what the last call returned, or give every call a module "
                    "of its own (copy.deepcopy)"
                )

    @contextmanager
    def releasing(self) -> Iterator[None]:
        """Let any optimizer move the parameters: the user's own does, with the noisy gradients of a release."""
        self.is_releasing = True
        try:
            yield
        finally:
            self.is_releasing = False


_claims: WeakValueDictionary[int, Claim] = WeakValueDictionary()
"""The newest claim to every parameter, by its id."""


@functools.cache
def _watch_every_optimizer() -> None:
    register_optimizer_step_pre_hook(_stop_others)


def _stop_others(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Run before every step of every torch optimizer of this process, also one that is built later."""
    del args, kwargs
    if _claimed(optimizer) is None:
        return
    # An engine and its optimizer refer to each other: those that nobody holds any more are there until collected.
    gc.collect()
    if name := _claimed(optimizer):
        raise RuntimeError(
            f"{type(optimizer).__name__}.step() would move parameter {name!r} of a private module without clipping "
            "and noise; nothing was moved. Call step() of the optimizer that make_private returned. To train on "
            "public records, train a copy.deepcopy of the module"
        )


def _claimed(optimizer: Optimizer) -> str | None:
    """The name of a parameter that this optimizer may not move now."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            claim = _claims.get(id(p))
            if claim is not None and not claim.is_releasing:
                return claim.names[p]
    return None
