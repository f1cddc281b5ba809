"""Freed memory that stays with the process, so that the next tensor of its size costs no page faults."""

from __future__ import annotations

from functools import cache

import torch

KEPT = 2**26
"""Bytes of freed memory that malloc keeps at most: 64 MiB, twice the largest block that it remembers."""


@cache  # once per process, because malloc keeps the threshold
def keep_freed_memory() -> None:
    """Make glibc's malloc keep up to :data:`KEPT` bytes of freed memory for the next batch.

    By default malloc returns freed blocks of megabytes to the system, and the page faults of new blocks take as long as
    the computation. malloc keeps blocks up to the size of the largest freed block, but at most 32 MiB, and twice as
    much in total; see mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD. With another malloc this call has no effect.
    """
    torch.empty(KEPT // 2 - 2**16, dtype=torch.uint8)  # the block is never written to, so it takes no memory
