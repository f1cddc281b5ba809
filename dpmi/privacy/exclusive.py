"""Only one optimizer may update the trained parameters of a private module; the step of any other one is blocked."""

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
    """The exclusive right of one private optimizer to update its trained parameters.

    The newest claim to a parameter counts: after a second ``make_private`` on the same module, the optimizer of the
    first call can release nothing more. A claim ends when its private optimizer is deleted.

    Args:
        named: names and trained parameters.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]]) -> None:
        # Strong references, so that every id in the registry is that of an existing parameter.
        self.names = {p: name for name, p in named}
        self.is_releasing = False

    def take(self) -> None:
        """Claim the parameters, even if an older optimizer has claimed them."""
        _watch_every_optimizer()
        _claims.update({id(p): self for p in self.names})

    def check(self) -> None:
        """Raise an error if a newer optimizer has claimed a parameter.

        Raises:
            RuntimeError: the parameter has a newer claim; the message names it.
        """
        for p, name in self.names.items():
            if _claims.get(id(p)) is not self:
                raise RuntimeError(
                    f"parameter {name!r} belongs to the private optimizer of a later make_private call, so this "
                    "optimizer can no longer release anything. Train with what the last call returned, or give every "
                    "call its own module (copy.deepcopy)"
                )

    @contextmanager
    def releasing(self) -> Iterator[None]:
        """Allow updates of the parameters, so that the user's optimizer can apply the noisy gradient."""
        self.is_releasing = True
        try:
            yield
        finally:
            self.is_releasing = False


_claims: WeakValueDictionary[int, Claim] = WeakValueDictionary()
"""The newest claim to every parameter, by the parameter's id."""


@functools.cache
def _watch_every_optimizer() -> None:
    register_optimizer_step_pre_hook(_stop_others)


def _stop_others(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Run before every step of every torch optimizer of this process, including ones that are built later."""
    del args, kwargs
    if _claimed(optimizer) is None:
        return
    # An engine and its optimizer refer to each other, so an unused pair exists until the garbage collector runs.
    gc.collect()
    if name := _claimed(optimizer):
        raise RuntimeError(
            f"{type(optimizer).__name__}.step() would update parameter {name!r} of a private module without clipping "
            "and noise; nothing was updated. Call step() of the optimizer that make_private returned. To train on "
            "public records, train a copy.deepcopy of the module"
        )


def _claimed(optimizer: Optimizer) -> str | None:
    """Return the name of a parameter that this optimizer may not update now, or None."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            claim = _claims.get(id(p))
            if claim is not None and not claim.is_releasing:
                return claim.names[p]
    return None
