"""Audits of a user's own training function, which need no change of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from dpmi.by_name import imported, is_name

from ..engine import PrivacyEngine
from ..observer import AMBIENT
from .audit import Audit


@contextmanager
def auditing(audit: Audit) -> Iterator[None]:
    """Audit every ``make_private`` inside that is given no audit of its own.

    >>> import torch
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> from dpmi.privacy import Partition
    >>> x, y = torch.randn(40, 20), torch.arange(40) % 4
    >>> model, engine = torch.nn.Linear(20, 4), PrivacyEngine()
    >>> with auditing(Audit(canaries=4)):  # make_private is called as without an audit
    ...     private = engine.make_private(
    ...         module=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    ...         data_loader=DataLoader(TensorDataset(x, y), batch_size=8),
    ...         partition=Partition.by_class(y), sampling_rate=0.5, noise_multiplier=2.0, max_grad_norm=1.0)
    >>> engine.plan.partition.num_buckets, engine.plan.canaries
    (4, 4)
    """
    before = AMBIENT.set(audit)
    try:
        yield
    finally:
        AMBIENT.reset(before)


def audited(function: Callable[[], Any], audit: Audit, *, name: str = "the function") -> PrivacyEngine:
    """Call a training function under an audit, and return its engine.

    Args:
        function: it takes no arguments, trains with a :class:`~dpmi.privacy.PrivacyEngine` that it makes itself, and
            returns this engine, alone or in a tuple, as ``main`` of examples/plain_loop.py does.
        audit: the settings.
        name: of the function, for error messages.

    Raises:
        ValueError: it returns no engine, or its engine released nothing.

    >>> import torch
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> from dpmi.privacy import Partition
    >>> def main() -> PrivacyEngine:
    ...     x, y = torch.randn(40, 20), torch.arange(40) % 4
    ...     model, engine = torch.nn.Linear(20, 4), PrivacyEngine()
    ...     model, optimizer, loader = engine.make_private(
    ...         module=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    ...         data_loader=DataLoader(TensorDataset(x, y), batch_size=8),
    ...         partition=Partition.by_class(y), sampling_rate=0.5, noise_multiplier=2.0, max_grad_norm=1.0)
    ...     for inputs, labels in loader:
    ...         optimizer.zero_grad()
    ...         torch.nn.functional.cross_entropy(model(inputs), labels).backward()
    ...         optimizer.step()
    ...     return engine
    >>> finding = audited(main, Audit(canaries=4)).finding()
    >>> finding.canaries, finding.claimed
    (4, Estimate(sampling_rate=0.5, noise_multiplier=2.0, steps=2))
    """
    with auditing(audit), redirect_stdout(sys.stderr):  # what the function prints is not part of the table
        result = function()
    found = list(result) if isinstance(result, tuple | list) else [result]
    engines = [part for part in found if isinstance(part, PrivacyEngine)]
    if len(engines) != 1:
        kinds = ", ".join(type(part).__name__ for part in found)
        raise ValueError(
            f"{name} returned {kinds}, with {len(engines)} privacy engines; it must return the one PrivacyEngine that "
            "trained the model, alone or in a tuple, as main() of examples/plain_loop.py does"
        )
    try:
        engines[0].finding()
    except RuntimeError as error:
        raise ValueError(f"{name} returned an engine without an audit: {error}") from error
    return engines[0]


def load(target: str) -> Callable[[], Any]:
    """Return the function of "FILE.py:function", or of "module:function".

    Raises:
        ValueError: the text has another form, there is no such file or function, or the file cannot be imported.
    """
    if not is_name(target):
        raise ValueError(f"the target is {target!r}; it must be engine, or FILE.py:function")
    return imported(target)
