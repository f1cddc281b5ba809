"""A study's folder: one subfolder per trained model and per trial, each complete or absent.

Layout::

    study.toml                the spec, as it was given
    matched.toml              the spec with matched strengths, if :mod:`dpmi.study.match` wrote one
    classes.npz               names of the classes, and a training image of each
    models/<key>/             model.pt, record.json
    trials/<key>/             recons.npy, record.json
    priors/<name>-<key>/      what attackers learnt from public images
    side-effects/<key>-*.json what :mod:`dpmi.study.side_effects` measured of a model, one file per attack
    trials.csv, trials.parquet, per_class.csv, per_class.parquet

A key is the content hash of everything that the folder's content depends on, so an interrupted study goes on
where it was, and an edited one runs only what changed.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from torch import nn

_SPEC = "study.toml"
_MATCHED = "matched.toml"
_CLASSES = "classes.npz"
_RECORD = "record.json"
_SIDE_EFFECTS = "side-effects"
_PARTIAL = ".partial-"
_LOCK = ".run.lock"


class StoreError(RuntimeError):
    """A folder that cannot hold the study; the message names it and what is wrong."""


class Store:
    """Reads and writes a study's folder.

    Args:
        root: the folder; :meth:`create` makes it.
    """

    def __init__(self, root: Path) -> None:
        """Read or write nothing yet."""
        self.root = root

    @classmethod
    def create(cls, root: Path, spec_text: str) -> Store:
        """Make the folder, or take up the one that is there.

        Raises:
            StoreError: it cannot be written, or it holds something that is not a study.
        """
        store = cls(root)
        try:
            root.mkdir(parents=True, exist_ok=True)
            foreign = (path for path in root.iterdir() if not path.name.startswith(_PARTIAL))
            if not (root / _SPEC).exists() and any(foreign):
                raise StoreError(
                    f"output folder {root} is not empty and holds no {_SPEC}; name an empty or a new folder"
                )
            with store._replacing(root / _SPEC) as temporary:
                temporary.write_text(spec_text, encoding="utf-8")
            for kind in ("models", "trials"):
                (root / kind).mkdir(exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"output folder {root} cannot be written: {error.strerror or error}; name a folder that can"
            ) from error
        return store

    @classmethod
    def open(cls, root: Path) -> Store:
        """Take up a folder that a study has written.

        Raises:
            StoreError: it is not there, or holds no study.
        """
        if not (root / _SPEC).is_file():
            raise StoreError(f"{root} holds no study: there is no {_SPEC} in it; name a study's folder")
        return cls(root)

    @property
    def spec_text(self) -> str:
        """The text of the spec."""
        return (self.root / _SPEC).read_text(encoding="utf-8")

    def save_matched(self, spec_text: str) -> Path:
        """Write the spec whose strengths were matched; it is the folder's study from now on."""
        for name in (_SPEC, _MATCHED):
            with self._replacing(self.root / name) as temporary:
                temporary.write_text(spec_text, encoding="utf-8")
        return self.root / _MATCHED

    @property
    def priors(self) -> Path:
        """Folder of what attackers learnt from public images; see :func:`dpmi.attacks.priors.fetch`."""
        return self.root / "priors"

    def lock(self, key: str) -> Path:
        """The file that a worker locks while it trains the model of that key."""
        return self.root / "models" / f"{_PARTIAL}{key}.lock"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """What every run that writes does its work in: alone, and after what a killed run left half-written is gone.

        Raises:
            StoreError: another run writes here.
        """
        lock = FileLock(self.root / _LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise StoreError(
                f"another run is at work in {self.root}; wait until it has ended, or name another folder"
            ) from error
        try:
            self._sweep()
            yield
        finally:
            lock.release()
            (self.root / _LOCK).unlink(missing_ok=True)

    def _sweep(self) -> None:
        for folder in (self.root, *(self.root / kind for kind in ("models", "trials", _SIDE_EFFECTS))):
            for partial in folder.glob(f"{_PARTIAL}*"):
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()

    @contextmanager
    def marked(self) -> Iterator[Path]:
        """A file in the folder by which a process on another machine can tell that it sees the same one."""
        mark = (self.root / f"{_PARTIAL}{uuid.uuid4().hex}").absolute()
        mark.touch()
        try:
            yield mark
        finally:
            mark.unlink(missing_ok=True)

    def save_classes(self, names: Sequence[str], examples: np.ndarray) -> None:
        """Keep what a report shows of the data, so that it can be drawn where the data are not.

        Args:
            names: one per class.
            examples: (K, C, H, W), a training image of each class.
        """
        with self._replacing(self.root / _CLASSES) as temporary, temporary.open("wb") as file:
            np.savez(file, names=np.array(names, dtype=np.str_), examples=examples)

    def classes(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Names and example images of the classes.

        Raises:
            StoreError: the study was stopped before it had loaded its data.
        """
        try:
            with np.load(self.root / _CLASSES, allow_pickle=False) as file:
                return tuple(str(name) for name in file["names"]), file["examples"]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise StoreError(f"{self.root} has no finished trial yet; run the study first") from error

    def save_model(self, key: str, model: nn.Module, record: dict[str, Any]) -> None:
        """Write a trained model and what is known about it, whole or not at all."""
        with self._replacing(self.root / "models" / key) as folder:
            folder.mkdir()
            torch.save(model.state_dict(), folder / "model.pt")
            _write_json(folder / _RECORD, record)

    def model_record(self, key: str) -> dict[str, Any] | None:
        """What is known about a trained model; None if it is not there."""
        return _read_json(self.root / "models" / key / _RECORD)

    def load_weights(self, key: str, model: nn.Module) -> None:
        """Load a trained model's parameters into a freshly built one."""
        state = torch.load(self.root / "models" / key / "model.pt", weights_only=True)
        model.load_state_dict(state)

    def save_trial(self, key: str, recons: np.ndarray, record: dict[str, Any]) -> None:
        """Write a trial's pictures and numbers, whole or not at all."""
        with self._replacing(self.root / "trials" / key) as folder:
            folder.mkdir()
            np.save(folder / "recons.npy", recons, allow_pickle=False)
            _write_json(folder / _RECORD, record)

    def trial_record(self, key: str) -> dict[str, Any] | None:
        """A trial's numbers; None if it is not there."""
        return _read_json(self.root / "trials" / key / _RECORD)

    def recons(self, key: str) -> np.ndarray:
        """A trial's pictures, (K, C, H, W)."""
        path = self.root / "trials" / key / "recons.npy"
        try:
            recons: np.ndarray = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise StoreError(f"{path} is damaged ({error}); delete {path.parent} and run again") from error
        return recons

    def save_side_effect(self, key: str, name: str, record: dict[str, Any]) -> None:
        """Write one measurement of a trained model, whole or not at all.

        Args:
            key: of the model.
            name: of the attack.
            record: what was measured.
        """
        (self.root / _SIDE_EFFECTS).mkdir(exist_ok=True)
        with self._replacing(self.root / _SIDE_EFFECTS / f"{key}-{name}.json") as temporary:
            _write_json(temporary, record)

    def side_effect(self, key: str, name: str) -> dict[str, Any] | None:
        """One measurement of a trained model; None if it is not there."""
        return _read_json(self.root / _SIDE_EFFECTS / f"{key}-{name}.json")

    def save_tables(self, trials: pd.DataFrame, per_class: pd.DataFrame) -> None:
        """Write both tables, as Parquet and as CSV."""
        for name, table in (("trials", trials), ("per_class", per_class)):
            with self._replacing(self.root / f"{name}.csv") as temporary:
                table.to_csv(temporary, index=False)
            with self._replacing(self.root / f"{name}.parquet") as temporary:
                table.to_parquet(temporary, index=False)

    @contextmanager
    def _replacing(self, final: Path) -> Iterator[Path]:
        """A temporary path beside ``final`` that takes its place only when everything has been written."""
        temporary = final.with_name(f"{_PARTIAL}{uuid.uuid4().hex}-{final.name}")
        try:
            yield temporary
            if final.is_dir():  # a folder whose record could not be read
                shutil.rmtree(final)
            _sync(temporary)
            temporary.replace(final)
        finally:
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                with suppress(FileNotFoundError):
                    temporary.unlink()


def _write_json(path: Path, record: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(record, file, indent=1)


def _sync(path: Path) -> None:
    """Wait until the disk has it: a power cut must not leave an empty file under its final name."""
    for part in path.iterdir() if path.is_dir() else [path]:
        with part.open("rb") as file:
            os.fsync(file.fileno())


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None  # absent, or damaged: it is computed again
    return record if isinstance(record, dict) else None
