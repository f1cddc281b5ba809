"""A study's folder: what is in it is whole, and what is not whole is not in it."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from dpmi.attacks import Reconstructions
from dpmi.study import Content, Store, StoreError

PICTURES = np.random.default_rng(0).random((4, 1, 3, 3), dtype=np.float32)
RECONS = Reconstructions(
    images=torch.from_numpy(PICTURES),
    labels=torch.tensor([0, 0, 1, 1]),
    scores=torch.tensor([0.1, 0.2, 0.4, 0.3]),
    iterations=torch.tensor([5, 6, 7, 8]),
    diverged=torch.tensor([False, True, False, False]),
    queries=30,
    grad_calls=20,
    stopped_by="queries",
)
COUNTS = {"queries": 30, "grad_calls": 20, "stopped_by": "queries"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "study", 'name = "x"\n')


def visible(store: Store) -> set[str]:
    return {str(p.relative_to(store.root)) for p in store.root.rglob("*") if p.is_file()}


def test_round_trip(store: Store) -> None:
    model = nn.Linear(3, 2)
    store.save_model("m", model, {"epsilon": float("inf"), "delta": float("nan"), "steps": 3})
    store.save_trial("t", RECONS, {"score": 0.5})
    store.save_classes(("Zoë", "NaN"), PICTURES)
    store.save_content(Content(data="d", weights="w"))
    again = Store.open(store.root)
    record = again.model_record("m")
    assert record is not None
    assert (record["epsilon"], record["steps"]) == (float("inf"), 3)
    assert np.isnan(record["delta"])
    fresh = nn.Linear(3, 2)
    again.load_weights("m", fresh)
    assert torch.equal(fresh.weight, model.weight)
    assert again.trial_record("t") == {"score": 0.5, **COUNTS}
    assert np.array_equal(again.recons("t"), PICTURES[[1, 2]]), (
        "of each class the one of which the target is surest"
    )
    kept = again.reconstructions("t")
    for field in dataclasses.fields(Reconstructions):
        one, other = getattr(kept, field.name), getattr(RECONS, field.name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    assert again.content() == Content(data="d", weights="w")
    names, examples = again.classes()
    assert names == ("Zoë", "NaN")
    assert np.array_equal(examples, PICTURES)
    assert again.spec_text == 'name = "x"\n'


def test_absent_is_none(store: Store) -> None:
    assert store.model_record("m") is None
    assert store.trial_record("t") is None


def test_a_crash_while_writing_leaves_nothing_to_see(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is written last: the crash comes when the pictures are already on the disk."""
    before = visible(store)

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(json, "dump", crash)
        with pytest.raises(KeyboardInterrupt):
            store.save_trial("t", RECONS, {})
        with pytest.raises(KeyboardInterrupt):
            store.save_model("m", nn.Linear(1, 1), {})
    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_csv", crash)
        with pytest.raises(KeyboardInterrupt):
            store.save_tables(pd.DataFrame({"a": [1]}), pd.DataFrame())
    assert visible(store) == before
    assert store.trial_record("t") is None


def test_a_kill_while_writing_leaves_what_is_never_read_and_is_swept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process cleans up nothing: neither rename nor removal takes place."""

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    before = visible(store)
    store.save_trial("whole", RECONS, {"score": 1.0})
    whole = visible(store)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        patch.setattr("dpmi.study.store.shutil.rmtree", lambda *_, **__: None)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(Killed):
            store.save_trial("t", RECONS, {"score": 0.5})
        with pytest.raises(Killed):
            store.save_model("m", nn.Linear(1, 1), {})
        with pytest.raises(Killed):
            store.save_classes(("a",), PICTURES)
    assert len(visible(store) - whole) == 5
    assert store.trial_record("t") is None
    assert store.model_record("m") is None
    with pytest.raises(StoreError, match="no finished trial yet"):
        store.classes()
    with store.writing():
        assert visible(store) - {".run.lock"} == whole
    assert visible(store) == whole
    assert whole - before == {"trials/whole/record.json", "trials/whole/recons.npz"}


@pytest.mark.parametrize("damage", [b"", b'{"score": 0.', b"\xff\xfe\x00", b"[1, 2]", b"{}"])
def test_a_damaged_record_is_absent_and_is_replaced(store: Store, damage: bytes) -> None:
    store.save_trial("t", RECONS, {"score": 0.5})
    (store.root / "trials/t/record.json").write_bytes(damage)
    assert store.trial_record("t") is None
    store.save_trial("t", dataclasses.replace(RECONS, images=RECONS.images + 1), {"score": 0.75})
    assert store.trial_record("t") == {"score": 0.75, **COUNTS}
    assert np.array_equal(store.recons("t"), PICTURES[[1, 2]] + 1)


DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda _: None,
    "empty": lambda _: b"",
    "cut off": lambda content: content[: len(content) // 2],
    "garbage": lambda _: b"\xff\xfe garbage",
    "one bit": lambda content: content[:-40] + bytes([content[-40] ^ 1]) + content[-39:],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_is_damaged_is_named_and_absent(
    store: Store, damage: Callable[[bytes], bytes | None], caplog: pytest.LogCaptureFixture
) -> None:
    store.save_trial("t", RECONS, {})
    store.save_model("m", nn.Linear(3, 2), {})
    assert store.trial_record("t") is not None
    for name in ("trials/t/recons.npz", "models/m/model.pt"):
        path = store.root / name
        content = damage(path.read_bytes())
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
    assert store.trial_record("t") is None
    assert store.model_record("m") is None
    told = [record.getMessage() for record in caplog.records]
    assert [
        f"{store.root / name} is damaged or missing; the next run of the study computes it again"
        for name in ("trials/t/recons.npz", "models/m/model.pt")
    ] == told
    with pytest.raises(StoreError, match=r"recons\.npz is damaged; run the study again"):
        store.recons("t")


def test_what_was_measured_in_another_way_is_absent(store: Store) -> None:
    store.save_trial("t", RECONS, {})
    assert store.measured("trials", "t", "now") is None
    store.save_measured("trials", "t", "before", {"distance": 1.0})
    assert store.measured("trials", "t", "now") is None
    assert store.measured("trials", "t", "before") == {"distance": 1.0}
    (store.root / "trials/t/measured.json").write_text("{}")
    assert store.measured("trials", "t", "before") is None


def test_damaged_content_and_study_say_what_to_do(store: Store) -> None:
    with pytest.raises(StoreError, match="no finished trial yet; run the study first"):
        store.content()
    for text in ("{}", "garbage", '{"data": 3}', '{"data": "a", "more": "b"}'):
        (store.root / "content.json").write_text(text)
        with pytest.raises(StoreError, match=r"content\.json is damaged; run the study again"):
            store.content()
    (store.root / "study.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(StoreError, match=r"study\.toml is damaged"):
        _ = store.spec_text
    assert Store.create(store.root, 'name = "y"\n').spec_text == 'name = "y"\n'


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut off", b"text"])
def test_damaged_classes_are_no_classes(store: Store, damage: bytes) -> None:
    (store.root / "classes.npz").write_bytes(damage)
    with pytest.raises(StoreError, match=r"classes\.npz is damaged; run the study again"):
        store.classes()


def test_weights_cannot_run_code(store: Store, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "attacked",)

    store.save_model("m", nn.Linear(1, 1), {})
    torch.save({"weight": Attack()}, store.root / "models/m/model.pt")
    with pytest.raises(pickle.UnpicklingError, match=r"[Ww]eights"):
        store.load_weights("m", nn.Linear(1, 1))
    assert not (tmp_path / "attacked").exists()


def test_tables_agree(store: Store) -> None:
    table = pd.DataFrame(
        {"x": [0.1 + 0.2, float("inf"), float("nan")], "n": [1, 2, 3], "s": ["a", "b,c", "d"]}
    )
    store.save_tables(table, table[["n"]])
    parquet = pd.read_parquet(store.root / "trials.parquet")
    pd.testing.assert_frame_equal(parquet, table)
    csv = pd.read_csv(store.root / "trials.csv", float_precision="round_trip")
    pd.testing.assert_frame_equal(csv, table, check_exact=True)
    assert pd.read_csv(store.root / "per_class.csv")["n"].tolist() == [1, 2, 3]


class TestFolder:
    def test_is_taken_up_again(self, store: Store) -> None:
        store.save_trial("t", RECONS, {"score": 1.0})
        again = Store.create(store.root, 'name = "x"\nseeds = [1]\n')
        assert again.trial_record("t") == {"score": 1.0, **COUNTS}
        assert again.spec_text == 'name = "x"\nseeds = [1]\n'

    def test_of_another_study_is_refused_unless_it_is_to_be_replaced(self, store: Store) -> None:
        store.save_trial("t", RECONS, {"score": 1.0})
        before = visible(store)
        with pytest.raises(
            StoreError, match="belongs to study 'x', and this is study 'y'; give another folder"
        ):
            Store.create(store.root, 'name = "y"\n')
        assert visible(store) == before
        assert store.spec_text == 'name = "x"\n'
        again = Store.create(store.root, 'name = "y"\n', replace=True)
        assert visible(again) == {"study.toml"}

    def test_in_which_a_run_is_at_work_keeps_its_study(self, store: Store) -> None:
        with store.writing(), pytest.raises(StoreError, match="another run is using"):
            Store.create(store.root, 'name = "x"\nseeds = [1]\n')
        assert store.spec_text == 'name = "x"\n'

    def test_may_hold_what_a_killed_start_left(self, tmp_path: Path) -> None:
        (tmp_path / ".partial-0123-study.toml").write_text("nam")
        (tmp_path / ".run.lock").touch()
        with Store.create(tmp_path, 'name = "x"\n').writing():
            pass
        assert sorted(p.name for p in tmp_path.iterdir()) == ["models", "study.toml", "trials"]

    def test_of_somebody_else_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("years of work")
        with pytest.raises(
            StoreError, match=r"is not empty and holds no study\.toml; give an empty or a new"
        ):
            Store.create(tmp_path, "")
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]

    @pytest.mark.parametrize("below", ["", "deeper"])
    def test_that_is_a_file_is_refused(self, tmp_path: Path, below: str) -> None:
        file = tmp_path / "file"
        file.write_text("content")
        with pytest.raises(
            StoreError, match=r"output folder .*file.* cannot be written: .*; give a writable"
        ):
            Store.create(file / below, "")
        assert file.read_text() == "content"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_that_is_read_only_is_refused(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        with pytest.raises(StoreError, match="cannot be written: Permission denied"):
            Store.create(tmp_path / "out", "")

    @pytest.mark.parametrize("name", ["missing", "."])
    def test_without_a_study_is_not_opened(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(StoreError, match=r"holds no study: it has no study\.toml"):
            Store.open(tmp_path / name)


def test_a_lock_that_the_next_run_has_opened_already_may_stay(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows then refuses to delete it."""
    plain = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.name == ".run.lock":
            raise PermissionError(13, "The process cannot access the file", str(path))
        plain(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    with store.writing():
        (store.root / "trials" / ".partial-half").touch()
    assert list((store.root / "trials").iterdir()) == []


def test_two_runs_in_one_folder_are_refused_and_the_first_goes_on(store: Store) -> None:
    with store.writing():
        half = store.root / "trials" / ".partial-of-the-first"
        half.mkdir()
        with (
            pytest.raises(StoreError, match=r"another run is using .*; wait until it has ended"),
            store.writing(),
        ):
            pass
        assert half.is_dir()
    with store.writing():
        assert not half.exists()
