"""The trainings of the battery: planted faults are found."""

from __future__ import annotations

import pytest
import torch

from dpmi.privacy.audit.battery import audit_engine
from dpmi.privacy.audit.trainings import Configuration
from dpmi.privacy.gradients.bucket_gradients import Ghost, Rows
from dpmi.privacy.noise import NoiseSource

SHORT = {"steps": 12}
"""Few steps: clipping and noise show in one."""


def least(*configurations: Configuration) -> list[float]:
    return [row.p_value for row in audit_engine(configurations)]


def test_norms_that_are_too_small_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    norms = Ghost.norms
    monkeypatch.setattr(Ghost, "norms", lambda self: norms(self) / 3)
    assert least(Configuration(strategy="ghost", partition="user", **SHORT))[0] == 0.0
    monkeypatch.undo()
    rows = Rows.norms

    def without_biases(self: Rows) -> torch.Tensor:
        return rows(Rows([row for row in self.rows if row is not None and row.dim() != 2]))

    monkeypatch.setattr(Rows, "norms", without_biases)
    assert least(Configuration(strategy="stream", partition="class", **SHORT))[0] == 0.0


def test_noise_that_repeats_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    source = NoiseSource.of

    def repeating(*args: object, **options: object) -> NoiseSource:
        made = source(*args, **options)  # type: ignore[arg-type]

        def fill_(flat: torch.Tensor, std: float) -> None:
            flat.normal_(0.0, std, generator=torch.Generator().manual_seed(1))

        made.fill_ = fill_  # type: ignore[method-assign]
        return made

    monkeypatch.setattr(NoiseSource, "of", repeating)
    assert least(Configuration(strategy="stream", partition="class", **SHORT))[0] < 1e-12
