"""The most records in a physical batch: given, or found for the device, and halved where its memory does not suffice.

The limit decides in how many parts a logical step is computed. It changes memory, time and rounding, and nothing else:
the draw, the clipped gradient of each bucket, the noise and the charge do not depend on it. It follows from numbers of
records, the sizes of tensors, and free memory. Every process has its own.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal, Protocol

import torch

from dpmi.freed_memory import KEPT, keep_freed_memory

from .batch import PhysicalBatch

_LOG = logging.getLogger("dpmi")

PhysicalBatchSize = int | Literal["auto"]

OF_A_MODEL, OF_A_HEAD = 512, 8192
"""Physical batch sizes: the default, and that of a small head on known features, whose records are a few hundred bytes.
Small batches would make the engine's cost per batch the largest part of such a step."""

MOST = 8192
"""Most records that "auto" takes: the engine's cost per batch is then well below that of its records."""

FORWARD_BYTES = 3 * KEPT // 4
"""Memory of the forward pass of a physical batch up to which malloc keeps it for the next batch, on a CPU. The rest is
for the gradients of the backward pass. Beyond it page faults take 10 to 90 % of the time of the step."""

LEAST = 128
"""Fewest records that "auto" takes on a CPU, where smaller batches do not keep two cores busy."""

FIRST = 32
"""Records of the first physical batch of "auto" on a device whose memory was not measured yet."""

MARGIN = 0.8
"""The part of the free memory that "auto" plans for; the rest is for fragments and for batches that need more."""


class DeviceMemory(Protocol):
    """The memory of a device, in bytes, as torch's allocator sees it."""

    def begin(self) -> None:
        """Start to measure."""

    @property
    def free(self) -> int:
        """What could be allocated when the measurement started."""

    @property
    def used(self) -> int:
        """The most that was allocated since then, beyond what was allocated before."""

    @property
    def failures(self) -> int:
        """How often an allocation has failed in this process."""


class CudaMemory:
    """The memory of a GPU. The peak that ``torch.cuda.max_memory_allocated`` returns starts again at every batch.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0
        self.free = 0

    def begin(self) -> None:
        """Start to measure."""
        torch.cuda.reset_peak_memory_stats(self._device)
        self._before = torch.cuda.memory_allocated(self._device)
        cached = torch.cuda.memory_reserved(self._device) - self._before
        self.free = torch.cuda.mem_get_info(self._device)[0] + cached

    @property
    def used(self) -> int:
        """The growth of the peak."""
        return torch.cuda.max_memory_allocated(self._device) - self._before

    @property
    def failures(self) -> int:
        """How often an allocation has failed in this process."""
        failures: int = torch.cuda.memory_stats(self._device).get("num_ooms", 0)
        return failures


class PhysicalLimit:
    """The most records in one physical batch of this process.

    Args:
        size: the number; or "auto": on a GPU what fits into its memory, on a CPU what is fastest.
        memory: the memory of the device; None on a CPU.

    Attributes:
        records: the limit of the draws that are packed from now on.
        failed: the physical batch that did not fit into memory, until the next loop starts.
    """

    def __init__(self, size: PhysicalBatchSize, *, memory: DeviceMemory | None = None) -> None:
        self.records = size if size != "auto" else OF_A_MODEL if memory is None else FIRST
        self.failed: PhysicalBatch | None = None
        self._adapts = size == "auto"
        self._memory = memory
        self._largest = self._failures = 0

    @staticmethod
    def of(size: PhysicalBatchSize, device: torch.device) -> PhysicalLimit:
        """Return the limit for a device; on one that is neither a CPU nor a GPU of CUDA, "auto" is the default."""
        if device.type == "cpu":
            keep_freed_memory()
        elif device.type != "cuda" and size == "auto":
            size = OF_A_MODEL
        return PhysicalLimit(size, memory=CudaMemory(device) if device.type == "cuda" else None)

    @property
    def most(self) -> int:
        """The largest limit that may be found."""
        return max(self.records, MOST) if self._adapts else self.records

    def begin(self) -> None:
        """Start a physical batch, before its records are fetched."""
        if self._memory is not None:
            self._failures = self._memory.failures
            if self._adapts:
                self._memory.begin()

    def end(self, batch: PhysicalBatch) -> None:
        """Learn from a physical batch, or a dry run, how much memory a record takes.

        The memory that does not grow with the records counts as theirs, so the result is too small at first, and better
        after every larger batch.
        """
        if self._adapts and self._memory is not None and batch.records >= self._largest:
            self._largest = batch.records
            fit = int(MARGIN * self._memory.free * batch.records / max(1, self._memory.used))
            self.records = min(MOST, max(1, fit))

    def suit(self, bytes_per_record: int) -> None:
        """Choose what is fastest on a CPU.

        Larger batches are faster as long as malloc keeps the memory of a batch for the next one.

        Args:
            bytes_per_record: memory of the tensors of a forward pass, per record; 0 if it is unknown.
        """
        if self._adapts and self._memory is None and bytes_per_record:
            self.records = min(MOST, max(LEAST, FORWARD_BYTES // bytes_per_record))

    def halve(self, batch: PhysicalBatch, error: BaseException | None = None) -> None:
        """Halve the limit after a physical batch that did not fit into memory, and say so in the error and the log.

        Args:
            batch: the batch.
            error: the error, if it is known.
        """
        if self.failed is batch:
            return
        self.failed = batch
        text = f"memory did not suffice for a physical batch of {batch.records} records"
        if batch.draw is None:
            text += (
                ", copies of one record, in a dry run; nothing was released. Use a smaller model, or "
                "grad_sample_mode='stream' without a criterion, which makes no dry runs"
            )
        elif batch.records == 1:
            text += "; nothing of its logical step was released. Use a smaller model"
        else:
            self.records, self._adapts = batch.records // 2, False
            text += (
                f"; physical batches now have at most {self.records}. "
                + (
                    "Its logical step was charged, and is lost"
                    if batch.draw.spent
                    else "Nothing of its logical step was released or charged, and its draw is kept"
                )
                + ". Start the loop again, after the except clause, which keeps tensors: the pass goes on"
            )
        _LOG.warning(text)
        if error is not None and sys.version_info >= (3, 11):
            error.add_note(text)

    def ran_out(self, batch: PhysicalBatch) -> bool:
        """Return whether an allocation has failed since :meth:`begin`, and halve the limit if so."""
        if self._memory is not None and self._memory.failures > self._failures:
            self.halve(batch)
        return self.failed is batch


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation of a tensor has failed; on a CPU torch raises no error of its own for this."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )
