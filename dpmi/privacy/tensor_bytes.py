"""The memory of the tensors that a forward pass makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made inside; those that share memory count once.

    It keeps them until it is left, so that no tensor gets the memory of another. Tensors of parameters count too if
    they are viewed; they do not depend on the number of records.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept: dict[int, torch.UntypedStorage] = {}
        self.total = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Make a call, and count what it returns."""
        del types
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, Tensor) and t.layout == torch.strided:
                storage = t.untyped_storage()
                self._kept[storage.data_ptr()] = storage
        return out

    def __exit__(self, *error: object) -> None:
        """Stop counting."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self.total = sum(storage.nbytes() for storage in self._kept.values())
        self._kept.clear()
