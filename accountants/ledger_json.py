"""A ledger as JSON: what an auditor can read, and a program reads back exactly or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accountants import checks, documents
from accountants.mechanism import BucketMechanism

if TYPE_CHECKING:
    from accountants.ledger import Ledger

FORMAT, VERSION = "dpmi-ledger", 1


def content(ledger: Ledger) -> dict[str, Any]:
    """Return what the hash of a ledger is computed over."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "steps": ledger.steps,
        "runs": [
            {
                "sampling_rate": mechanism.sampling_rate,
                "noise_multiplier": mechanism.noise_multiplier,
                "steps": steps,
            }
            for mechanism, steps in ledger.runs
        ],
    }


def read(document: Any) -> Ledger:
    """Return the ledger in a document, as `documents.load` gives it.

    Raises:
        ValueError: any part of it is missing, unknown, out of range, or does not fit the rest.
    """
    # A Ledger reads itself by this function, so this module cannot import it before that class exists.
    from accountants.ledger import Ledger  # noqa: PLC0415

    found = documents.fields(document, format=FORMAT, version=VERSION, names=("runs", "steps"))
    runs = enumerate(documents.items("runs", found["runs"]))
    ledger = Ledger(tuple(_run(f"runs[{index}]", run) for index, run in runs))
    steps = checks.integer("steps", found["steps"], minimum=0)
    if steps != ledger.steps:
        raise ValueError(f"steps must be {ledger.steps}, the sum over the runs, got {steps}")
    documents.check_hash(found["sha256"], ledger.hash)
    return ledger


def _run(where: str, value: Any) -> tuple[BucketMechanism, int]:
    with documents.inside(where):
        run = documents.exactly(value, ("sampling_rate", "noise_multiplier", "steps"))
        mechanism = BucketMechanism(
            sampling_rate=run["sampling_rate"], noise_multiplier=run["noise_multiplier"]
        )
        return mechanism, checks.integer("steps", run["steps"], minimum=1)
