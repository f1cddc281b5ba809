"""The noisy sum of one logical step, in one flat buffer per device."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from dpmi.privacy.distributed import Ranks


class RunningSum:
    """Sums clipped bucket gradients on top of the noise.

    The noise is drawn into the buffer before anything is added, so it needs no extra memory, and one call serves all
    parameters. Sums are stored in float32, or in float64 for parameters of that type.

    Args:
        trained: the parameters; the gradients get their layout.
    """

    def __init__(self, trained: list[nn.Parameter]) -> None:
        kinds: dict[tuple[torch.device, torch.dtype], int] = {}
        places = []
        for p in trained:
            kind = (p.device, torch.promote_types(p.dtype, torch.float32))
            places.append((kind, kinds.get(kind, 0)))
            kinds[kind] = kinds.get(kind, 0) + p.numel()
        self._flat = {
            kind: torch.empty(count, device=kind[0], dtype=kind[1]) for kind, count in kinds.items()
        }
        self._parts = [
            self._flat[kind][start : start + p.numel()]
            for p, (kind, start) in zip(trained, places, strict=True)
        ]
        self._views = [
            part.as_strided(p.shape, _dense_strides(p), part.storage_offset())
            for p, part in zip(trained, self._parts, strict=True)
        ]

    @property
    def flat(self) -> list[Tensor]:
        """The sum, as the flat buffers (n,) that hold it."""
        return list(self._flat.values())

    def start(self, fill: Callable[[Tensor], None]) -> None:
        """Start a logical step: ``fill`` overwrites every flat buffer with noise, or with zeros."""
        for flat in self._flat.values():
            fill(flat)

    def add(self, gradients: Iterable[Tensor | None], factor: float) -> None:
        """Add one gradient times a factor; it has (*shape) for every parameter, and None for zero."""
        pairs = [(view, g) for view, g in zip(self._views, gradients, strict=True) if g is not None]
        torch._foreach_add_(
            [view for view, _ in pairs], [g.to(view.dtype) for view, g in pairs], alpha=factor
        )

    def add_rows(self, rows: list[Tensor | None], factors: Tensor) -> None:
        """Add rows (k, *shape), each multiplied by its factor, (k,) float64."""
        for part, view, row in zip(self._parts, self._views, rows, strict=True):
            if row is None:
                continue
            weights, flat = factors.to(part), row.reshape(len(row), -1).to(part)
            if view.is_contiguous():
                part.addmv_(flat.T, weights)
            else:
                view.add_((weights @ flat).view(view.shape))

    def finish(self) -> None:
        """End the part of this rank, which then has nothing to add."""

    def sum_over(self, ranks: Ranks, *others: Tensor) -> None:
        """Replace the sum by that of all ranks, and other tensors too."""
        ranks.sum_([*self.flat, *others])

    def gradients(self) -> list[Tensor]:
        """Return the sum, one tensor (*shape) for every parameter; valid until the next :meth:`start`."""
        return self._views


def _dense_strides(p: Tensor) -> tuple[int, ...]:
    """Return the strides of the parameter's layout, such as channels_last, without gaps."""
    return torch.empty_like(p, device="meta", memory_format=torch.preserve_format).stride()
