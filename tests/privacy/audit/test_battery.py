"""The battery: it covers every way to train, and finds nothing in the engine."""

from __future__ import annotations

import dataclasses

import pytest

from dpmi.privacy.audit import battery
from dpmi.privacy.audit.battery import BATTERY, audit_engine
from dpmi.privacy.audit.trainings import Configuration


def test_it_covers_every_strategy_partition_loop_and_mode() -> None:
    assert {c.strategy for c in BATTERY} == {"stream", "hooks", "ghost"}
    for strategy in ("stream", "hooks", "ghost"):
        assert len({c.partition for c in BATTERY if c.strategy == strategy}) >= 2
        assert len({c.physical for c in BATTERY if c.strategy == strategy}) >= 2
        assert any(c.secure for c in BATTERY if c.strategy == strategy)
    assert {c.partition for c in BATTERY} == {"class", "subclass", "user"}
    assert {c.loop for c in BATTERY} == {"whole", "left early", "resumed"}
    assert {c.ranks for c in BATTERY} == {1, 2}
    assert {c.network for c in BATTERY} == {"mlp", "wide", "cnn"}
    assert any(c.sampling_rate == 1 and c.steps == 1 for c in BATTERY)
    assert any((1 - c.sampling_rate) ** 210 > 0.3 for c in BATTERY)  # steps without any bucket


@pytest.mark.parametrize(
    "configuration",
    [
        Configuration(strategy="hooks", partition="subclass", physical=24, loop="left early", steps=15),
        Configuration(strategy="ghost", partition="class", physical=10, loop="resumed", steps=9),
        Configuration(strategy="stream", partition="class", network="cnn", secure=True, steps=6),
    ],
    ids=str,
)
def test_the_engine_passes(configuration: Configuration) -> None:
    replace, add_remove = audit_engine([configuration])
    assert (replace.adjacency, add_remove.adjacency) == ("replace", "add_remove")
    for row in (replace, add_remove):
        assert row.configuration == str(configuration)
        assert row.verdict == "consistent"
        assert 0 < row.lower_bound < 1.4 * row.claimed  # above the claim in one of twenty runs
        assert 0 < row.ceiling < row.claimed


def test_two_ranks_pass() -> None:
    done: list[int] = []
    rows = audit_engine(
        [
            dataclasses.replace(BATTERY[-1], steps=8),
            Configuration(strategy="stream", partition="class", steps=4),
        ],
        tell=done.append,
    )
    assert [row.verdict for row in rows] == ["consistent"] * 4
    assert done == [0, 1, 2]
    assert "2 ranks" in rows[-1].configuration


def test_a_process_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(battery, "TIMEOUT", 5.0)
    wrong = dataclasses.replace(BATTERY[-1], noise_multiplier=-1.0)
    with pytest.raises(
        RuntimeError, match=r"a process of the two-rank trainings failed: rank .*noise_multiplier"
    ):
        audit_engine([wrong])
