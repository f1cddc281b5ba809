"""A study's folder: one subfolder per trained model and per trial, each complete or absent.

Layout::

    study.toml                the spec, as it was given
    matched.toml              the spec with matched strengths, if :mod:`dpmi.study.match` wrote one
    content.json              digests of the data and the weights that the tables are of
    classes.npz               names of the classes, and a training image of each
    models/<key>/             model.pt, record.json, measured.json
    trials/<key>/             recons.npz, record.json, measured.json
    priors/<name>-<key>/      what attackers learnt from public images
    side-effects/<key>-*.json what :mod:`dpmi.study.side_effects` measured of a model, one file per attack
    trials.csv, trials.parquet, per_class.csv, per_class.parquet

A key is the hash of everything that the folder's content depends on, so an interrupted study goes on where it was, and
an edited one runs only what changed. A record holds the SHA-256 of the files beside it: what is damaged is computed
again. What was measured is kept apart, under a key of its own: new metrics need no new training.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from filelock import FileLock, Timeout
from torch import nn

from dpmi.attacks import Reconstructions
from dpmi.whole_files import PARTIAL, replacing

from . import schema
from .content import Content
from .spec import SpecError, load_toml

_SPEC = "study.toml"
_MATCHED = "matched.toml"
_CONTENT = "content.json"
_CLASSES = "classes.npz"
_RECORD = "record.json"
_MEASURED = "measured.json"
_WEIGHTS = "model.pt"
_RECONS = "recons.npz"
_SIDE_EFFECTS = "side-effects"
_LOCK = ".run.lock"

Kind = Literal["models", "trials"]
_log = logging.getLogger("dpmi")


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
    def create(cls, root: Path, spec_text: str, *, replace: bool = False) -> Store:
        """Make the folder, or take up the one that is there.

        Args:
            root: the folder.
            spec_text: of the study, which may be an edited one.
            replace: let a study of another name have the folder.

        Raises:
            StoreError: it cannot be written, it holds something that is not a study or another study, or another run
                is at work in it.
        """
        store = cls(root)
        try:
            root.mkdir(parents=True, exist_ok=True)
            left = (_LOCK, PARTIAL)  # by a run that was killed
            foreign = (path for path in root.iterdir() if not path.name.startswith(left))
            if not (root / _SPEC).exists() and any(foreign):
                raise StoreError(
                    f"output folder {root} is not empty and holds no {_SPEC}; name an empty or a new folder"
                )
            with store.writing():
                store._check_owner(spec_text, replace=replace)
                with replacing(root / _SPEC) as temporary:
                    temporary.write_text(spec_text, encoding="utf-8")
                for kind in ("models", "trials"):
                    (root / kind).mkdir(exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"output folder {root} cannot be written: {error.strerror or error}; name a folder that can"
            ) from error
        return store

    def _check_owner(self, spec_text: str, *, replace: bool) -> None:
        """A folder belongs to one study: tables of two would be taken for one another's."""
        if not (self.root / _SPEC).exists():
            return
        try:
            own, asked = _name(self.spec_text), _name(spec_text)
        except StoreError:
            return  # damaged: it is written anew
        if own is None or own == asked:
            return
        if not replace:
            raise StoreError(
                f"{self.root} belongs to study {own!r}, and this is study {asked!r}; name another folder, or give "
                "--replace to drop what is there"
            )
        for path in self.root.iterdir():
            if path.name != _LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

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
        """The text of the spec.

        Raises:
            StoreError: the file is damaged.
        """
        try:
            return (self.root / _SPEC).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{self.root / _SPEC} is damaged ({error}); run the study again") from error

    def save_matched(self, spec_text: str) -> Path:
        """Write the spec whose strengths were matched; it is the folder's study from now on."""
        for name in (_SPEC, _MATCHED):
            with replacing(self.root / name) as temporary:
                temporary.write_text(spec_text, encoding="utf-8")
        return self.root / _MATCHED

    @property
    def priors(self) -> Path:
        """Folder of what attackers learnt from public images; see :func:`dpmi.attacks.priors.fetch`."""
        return self.root / "priors"

    def lock(self, key: str) -> Path:
        """The file that a worker locks while it trains the model of that key."""
        return self.root / "models" / f"{PARTIAL}{key}.lock"

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
            for partial in folder.glob(f"{PARTIAL}*"):
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()

    @contextmanager
    def marked(self) -> Iterator[Path]:
        """A file in the folder by which a process on another machine can tell that it sees the same one."""
        mark = (self.root / f"{PARTIAL}{uuid.uuid4().hex}").absolute()
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
        with replacing(self.root / _CLASSES) as temporary, temporary.open("wb") as file:
            np.savez(file, names=np.array(names, dtype=np.str_), examples=examples)

    def classes(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Names and example images of the classes.

        Raises:
            StoreError: the study was stopped before it had loaded its data, or the file is damaged.
        """
        try:
            with np.load(self.root / _CLASSES, allow_pickle=False) as file:
                return tuple(str(name) for name in file["names"]), file["examples"]
        except FileNotFoundError as error:
            raise StoreError(f"{self.root} has no finished trial yet; run the study first") from error
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise StoreError(
                f"{self.root / _CLASSES} is damaged; run the study again, which computes nothing twice"
            ) from error

    def save_content(self, content: Content) -> None:
        """Note which data and weights the study's tables are of from now on."""
        with replacing(self.root / _CONTENT) as temporary:
            _write_json(temporary, content.to_json())

    def content(self) -> Content:
        """Which data and weights the study's tables are of.

        Raises:
            StoreError: the study was stopped before it had loaded its data, or the file is damaged.
        """
        path = self.root / _CONTENT
        if not path.exists():
            raise StoreError(f"{self.root} has no finished trial yet; run the study first")
        try:
            return Content.from_json(_read_json(path) or {})
        except TypeError as error:
            raise StoreError(
                f"{path} is damaged; run the study again, which computes nothing twice"
            ) from error

    def save_model(self, key: str, model: nn.Module, record: Mapping[str, Any]) -> None:
        """Write a trained model and what is known about it, whole or not at all."""
        content = io.BytesIO()  # torch tells of a full disk in seven lines of C++
        torch.save(model.state_dict(), content)
        self._save("models", key, _WEIGHTS, lambda path: path.write_bytes(content.getvalue()), record)

    def model_record(self, key: str) -> dict[str, Any] | None:
        """What is known about a trained model; None if it is not there, or damaged."""
        return self._record("models", key, _WEIGHTS)

    def load_weights(self, key: str, model: nn.Module) -> None:
        """Load a trained model's parameters into a freshly built one."""
        state = torch.load(self.root / "models" / key / _WEIGHTS, weights_only=True)
        model.load_state_dict(state)

    def save_trial(self, key: str, recons: Reconstructions, record: Mapping[str, Any]) -> None:
        """Write the reconstructions of a trial and what is known about them, whole or not at all."""
        tensors = ("images", "labels", "scores", "iterations", "diverged")
        arrays = {name: getattr(recons, name).numpy() for name in tensors}
        counts = {name: getattr(recons, name) for name in ("queries", "grad_calls", "stopped_by")}

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, **arrays)

        self._save("trials", key, _RECONS, write, {**record, **counts})

    def trial_record(self, key: str) -> dict[str, Any] | None:
        """What is known about a trial; None if it is not there, or damaged."""
        return self._record("trials", key, _RECONS)

    def reconstructions(self, key: str) -> Reconstructions:
        """All that the attack of a trial returned.

        Raises:
            StoreError: it is not there, or damaged.
        """
        path = self.root / "trials" / key / _RECONS
        record = self.trial_record(key)
        if record is None:
            raise StoreError(f"{path} is damaged; run the study again, which computes it anew")
        with np.load(path, allow_pickle=False) as file:
            found: dict[str, Any] = {name: torch.from_numpy(file[name]) for name in file.files}
        counts = {name: record[name] for name in ("queries", "grad_calls", "stopped_by")}
        return Reconstructions(**found, **counts)

    def recons(self, key: str) -> np.ndarray:
        """The picture of each class of which the target is surest, (K, C, H, W).

        Raises:
            StoreError: as for :meth:`reconstructions`.
        """
        found = self.reconstructions(key)
        scores = found.scores.view(len(set(found.labels.tolist())), -1)
        surest = scores.argmax(dim=1) + torch.arange(len(scores)) * scores.shape[1]
        pictures: np.ndarray = found.images[surest].numpy()
        return pictures

    def save_measured(self, kind: Kind, key: str, measurement: str, found: Mapping[str, Any]) -> None:
        """Write what was measured of a model or a trial.

        Args:
            kind: of what.
            key: of the model or the trial.
            measurement: key of everything that the measurement depends on besides.
            found: the numbers.
        """
        with replacing(self.root / kind / key / _MEASURED) as temporary:
            _write_json(temporary, {"key": measurement, "found": found})

    def measured(self, kind: Kind, key: str, measurement: str) -> dict[str, Any] | None:
        """What was measured, or None where that is not there, or was measured in another way."""
        record = _read_json(self.root / kind / key / _MEASURED)
        if record is None or record.get("key") != measurement or not isinstance(record.get("found"), dict):
            return None
        return dict(record["found"])

    def _save(
        self, kind: Kind, key: str, name: str, write: Callable[[Path], object], record: Mapping[str, Any]
    ) -> None:
        with replacing(self.root / kind / key) as folder:
            folder.mkdir()
            write(folder / name)
            _write_json(folder / _RECORD, {**record, "sha256": _sha256(folder / name)})

    def _record(self, kind: Kind, key: str, name: str) -> dict[str, Any] | None:
        folder = self.root / kind / key
        if not folder.exists():
            return None
        record = _read_json(folder / _RECORD)
        if record is None or "sha256" not in record:
            _tell_damaged(folder / _RECORD)
            return None
        if not _is_whole(folder / name, record.pop("sha256")):
            _tell_damaged(folder / name)
            return None
        return record

    def save_side_effect(self, key: str, name: str, record: dict[str, Any]) -> None:
        """Write one measurement of a trained model, whole or not at all.

        Args:
            key: of the model.
            name: of the attack.
            record: what was measured.
        """
        (self.root / _SIDE_EFFECTS).mkdir(exist_ok=True)
        with replacing(self.root / _SIDE_EFFECTS / f"{key}-{name}.json") as temporary:
            _write_json(temporary, record)

    def side_effect(self, key: str, name: str) -> dict[str, Any] | None:
        """One measurement of a trained model; None if it is not there."""
        return _read_json(self.root / _SIDE_EFFECTS / f"{key}-{name}.json")

    def save_tables(self, trials: pd.DataFrame, per_class: pd.DataFrame) -> None:
        """Write both tables, as Parquet and as CSV."""
        for name, table in (("trials", trials), ("per_class", per_class)):
            with replacing(self.root / f"{name}.csv") as temporary:
                table.to_csv(temporary, index=False)
            with replacing(self.root / f"{name}.parquet") as temporary:
                content = pa.Table.from_pandas(table, preserve_index=False)
                metadata = {
                    **(content.schema.metadata or {}),
                    b"dpmi.schema": f"{name} {schema.VERSION}".encode(),
                }
                pq.write_table(content.replace_schema_metadata(metadata), temporary)


@lru_cache(maxsize=4096)  # one line for each file
def _tell_damaged(path: Path) -> None:
    _log.warning("%s is damaged or missing; a run of the study computes it again", path)


def _is_whole(path: Path, sha256: str) -> bool:
    try:
        status = path.stat()
        return _known_sha256(path, status.st_mtime_ns, status.st_size) == sha256
    except OSError:
        return False


@lru_cache(maxsize=4096)
def _known_sha256(path: Path, mtime_ns: int, size: int) -> str:
    """Of a file that nobody has written since it was read last."""
    return _sha256(path)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _name(spec_text: str) -> object:
    """What a study is called; None where its file is damaged."""
    try:
        return load_toml(spec_text).get("name")
    except SpecError:
        return None


def _write_json(path: Path, record: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(record, file, indent=1)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None  # absent, or damaged: it is computed again
    return record if isinstance(record, dict) else None
