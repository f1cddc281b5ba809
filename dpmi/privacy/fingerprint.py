"""Whether parameters hold the same bits as before, without a copy of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

COLUMNS = 1024
"""Words of 64 bits in one row."""

EVERY = 16
"""Of so many rows, a quick look reads one."""

_ROWS, _COLUMNS, _QUICK = (1, 1), (0, 1), (1, EVERY)
"""Over which dimension is summed, and which rows: every so many."""

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_Sums = dict[tuple[torch.device, torch.dtype], Tensor]


class _Cut(NamedTuple):
    """One parameter as integers with the same bits: full rows of words (rows, COLUMNS), and the rest (n,).

    In float64 the sign is the highest bit of a word, and an even number of signs cancels: its rows come as values, too.
    """

    rows: tuple[Tensor, ...]
    rest: Tensor

    def sums(self, dim: int, every: int) -> list[Tensor]:
        """Sums over ``dim``, as integers; with those of the rows comes what fills no row."""
        sums = [rows[::every].sum(dim).view(torch.int64) for rows in self.rows if len(rows)]
        return [*sums, self.rest] if dim and len(self.rest) else sums


class Fingerprint:
    """Remembers what parameters hold: the sums of their bits by row and by column, modulo 2^64, and what fills no row.

    It takes a hundredth of the parameters' memory. One changed word always changes two sums. If several change, each
    row and each column would have to cancel, which neither a rescaling, nor an update, nor values that trade places
    do. Columns are looked at only if a version counter or an address says that something was written; ``p.data`` and
    NumPy move no counter, and what they write is found by the rows, or by a quick look at some of them. Nothing waits
    for a GPU before :meth:`changed`.

    Args:
        named: the parameters and their names.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]]) -> None:
        self._named = [(name, p) for name, p in named if p.numel()]
        self._layouts: list[object] = []
        self._versions: list[int] = []
        self._cuts: list[_Cut] = []
        self._before: dict[tuple[int, int], _Sums] = {}
        self._kinds_before: list[object] = []

    @torch.no_grad()
    def take(self) -> None:
        """Remember what the parameters hold now."""
        self._look()
        self._before = {which: self._sums(*which) for which in (_ROWS, _COLUMNS, _QUICK)}
        self._kinds_before = self._kinds()

    @torch.no_grad()
    def changed(self, *, quick: bool = False) -> list[str]:
        """Names of the parameters that do not hold the bits, in the layout, of the last :meth:`take`.

        Args:
            quick: of what no counter tells, look at every 16th row only.
        """
        written = self._look()
        if written and (kinds := self._kinds()) != self._kinds_before:
            pairs = zip(self._named, kinds, self._kinds_before, strict=True)
            return [name for (name, _), now, before in pairs if now != before]
        if not written:
            different = self._different(_QUICK if quick else _ROWS)
        else:
            different = self._different(_ROWS) | self._different(_COLUMNS)
        return [name for name, _ in self._named if name in different]

    def _look(self) -> bool:
        """Make the views again if a parameter's memory is another; whether any was written, as far as torch counts."""
        layouts: list[object] = [(p.data_ptr(), p.shape, p.stride()) for _, p in self._named]
        versions = [p._version for _, p in self._named]
        written = (layouts, versions) != (self._layouts, self._versions)
        if layouts != self._layouts:
            flat = [_flat(p) for _, p in self._named]
            self._cuts = [_cut(values) for values, _ in flat]
            # A copy, of a parameter with gaps, is made every time.
            self._layouts = layouts if all(is_view for _, is_view in flat) else []
        self._versions = versions
        return written

    def _kinds(self) -> list[object]:
        """Without which sums are not of the same things."""
        return [(p.shape, p.dtype, p.device) for _, p in self._named]

    def _different(self, which: tuple[int, int]) -> set[str]:
        before, now = self._before[which], self._sums(*which)
        if all(torch.equal(now[kind], before[kind]) for kind in now):
            return set()
        owners: dict[object, list[str]] = {}
        for (name, _), cut in zip(self._named, self._cuts, strict=True):
            for part in cut.sums(*which):
                owners.setdefault((part.device, part.dtype), []).extend([name] * len(part))
        return {
            owners[kind][place]
            for kind in now
            for place in (now[kind] != before[kind]).nonzero()[:, 0].tolist()
        }

    def _sums(self, dim: int, every: int) -> _Sums:
        found: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for cut in self._cuts:
            for part in cut.sums(dim, every):
                found.setdefault((part.device, part.dtype), []).append(part)
        return {kind: torch.cat(parts) for kind, parts in found.items()}


def _flat(p: Tensor) -> tuple[Tensor, bool]:
    """All elements in one dimension, and whether that is a view: it is unless there are gaps between them."""
    p = torch.view_as_real(p.detach()) if p.is_complex() else p.detach()
    dense = p.permute(sorted(range(p.dim()), key=p.stride, reverse=True))
    return dense.contiguous().view(-1), dense.is_contiguous()


def _cut(flat: Tensor) -> _Cut:
    size = flat.dtype.itemsize
    per_word = max(1, 8 // size)
    integers = flat.view(_INTEGERS[size])
    whole = len(flat) // (per_word * COLUMNS) * (per_word * COLUMNS)
    rows = integers[:whole]
    if flat.storage_offset() % per_word == 0:
        rows = rows.view(torch.int64)
    values = [flat[:whole].view(-1, COLUMNS)] if flat.dtype == torch.float64 else []
    return _Cut((rows.view(-1, COLUMNS), *values), integers[whole:])
