"""Detects whether parameters changed, without a copy of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

COLUMNS = 1024
"""Words of 64 bits per row."""

SAMPLE = 64
"""A quick check reads at least this many values of each parameter, or all of them."""

_ROWS, _COLUMNS, _SAMPLE = "rows", "columns", "sample"
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_Sums = dict[tuple[torch.device, torch.dtype], Tensor]


class _Cut(NamedTuple):
    """One parameter as integers with the same bits: full rows of words (rows, COLUMNS), the rest (n,), and a sample.

    In float64 the sign is the highest bit of a word, so an even number of changed signs cancels in a sum modulo 2^64.
    For float64, the rows are therefore also stored as floating-point values.
    """

    rows: tuple[Tensor, ...]
    rest: tuple[Tensor, ...]
    sample: tuple[Tensor, ...]

    def look(self, at: str) -> tuple[Tensor, ...]:
        """Return the sample, or the sums of rows or columns, as integers; row sums include the rest, unsummed."""
        if at == _SAMPLE:
            return self.sample
        sums = [rows.sum(1 if at == _ROWS else 0).view(torch.int64) for rows in self.rows]
        return (*sums, *self.rest) if at == _ROWS else tuple(sums)


class Comparison(NamedTuple):
    """The parameters compared with an earlier fingerprint.

    Args:
        differ: whether they differ, one () bool for each kind of checksum, not read yet.
        names: returns the names of the parameters that differ.
    """

    differ: tuple[Tensor, ...]
    names: Callable[[], list[str]]


class Fingerprint:
    """Stores checksums of parameters: sums of their bits by row and by column, modulo 2^64, and incomplete rows.

    It needs a hundredth of the parameters' memory. One changed word always changes two sums. Several changed words stay
    unnoticed only if they cancel in each row and each column, which a rescaling, an update or swapped values do not.
    Columns are compared only if a version counter or an address indicates a write. Writes through ``p.data`` and NumPy
    change no counter; the row sums, or a quick check of a sample, detect them.

    Args:
        named: names and parameters.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]]) -> None:
        self._named = [(name, p) for name, p in named if p.numel()]
        self._layouts: list[object] = []
        self._versions: list[int] = []
        self._cuts: list[_Cut] = []
        self._before: dict[str, _Sums] = {}
        self._kinds_before: list[object] = []

    @torch.no_grad()
    def take(self) -> None:
        """Store the checksums of the parameters' current values."""
        self._look()
        self._before = {
            at: {kind: found.clone() for kind, found in self._found(at).items()}
            for at in (_ROWS, _COLUMNS, _SAMPLE)
        }
        self._kinds_before = self._kinds()

    @torch.no_grad()
    def compare(self, *, quick: bool = False) -> Comparison:
        """Compare the parameters with the last :meth:`take`; nothing waits for a GPU.

        Args:
            quick: if no version counter indicates a write, compare only a sample.
        """
        written = self._look()
        if written and (kinds := self._kinds()) != self._kinds_before:
            pairs = zip(self._named, kinds, self._kinds_before, strict=True)
            names = [name for (name, _), now, before in pairs if now != before]
            return Comparison((torch.tensor(True),), lambda: names)
        if not written:
            places: tuple[str, ...] = (_SAMPLE if quick else _ROWS,)
        else:
            places = (_ROWS, _COLUMNS)
        now = {at: self._found(at) for at in places}
        differ = tuple(
            (found != self._before[at][kind]).any() for at in places for kind, found in now[at].items()
        )
        return Comparison(differ, partial(self._different, now))

    def changed(self, *, quick: bool = False) -> list[str]:
        """Return the names of the parameters whose bits or layout differ from the last :meth:`take`."""
        compared = self.compare(quick=quick)
        return compared.names() if any(bool(differs) for differs in compared.differ) else []

    def _look(self) -> bool:
        """Rebuild the views if a parameter has new memory; return whether torch's counters indicate any write."""
        layouts: list[object] = [(p.data_ptr(), p.shape, p.stride()) for _, p in self._named]
        versions = [p._version for _, p in self._named]
        written = (layouts, versions) != (self._layouts, self._versions)
        if layouts != self._layouts:
            flat = [_flat(p) for _, p in self._named]
            self._cuts = [_cut(values) for values, _ in flat]
            # A parameter with gaps in memory is copied, and the copy has to be renewed every time.
            self._layouts = layouts if all(is_view for _, is_view in flat) else []
        self._versions = versions
        return written

    def _kinds(self) -> list[object]:
        """Shape, type and device of every parameter; checksums are comparable only if these are equal."""
        return [(p.shape, p.dtype, p.device) for _, p in self._named]

    def _different(self, now: Mapping[str, _Sums]) -> list[str]:
        """Return the names of the parameters of which some checksums differ."""
        different: set[str] = set()
        for at, sums in now.items():
            owners: dict[object, list[str]] = {}
            for (name, _), cut in zip(self._named, self._cuts, strict=True):
                for part in cut.look(at):
                    owners.setdefault((part.device, part.dtype), []).extend([name] * len(part))
            for kind, found in sums.items():
                places = (found != self._before[at][kind]).nonzero()[:, 0].tolist()
                different.update(owners[kind][place] for place in places)
        return [name for name, _ in self._named if name in different]

    def _found(self, at: str) -> _Sums:
        found: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for cut in self._cuts:
            for part in cut.look(at):
                found.setdefault((part.device, part.dtype), []).append(part)
        return {kind: torch.cat(parts) if len(parts) > 1 else parts[0] for kind, parts in found.items()}


def _flat(p: Tensor) -> tuple[Tensor, bool]:
    """Return all elements in one dimension, and whether the result is a view (it is, unless memory has gaps)."""
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
    parts = (rows, flat[:whole]) if flat.dtype == torch.float64 else (rows,)
    return _Cut(
        rows=tuple(part.view(-1, COLUMNS) for part in parts if whole),
        rest=(integers[whole:],) if whole < len(integers) else (),
        sample=(integers[:: max(1, len(integers) // SAMPLE)],),
    )
