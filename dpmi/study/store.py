"""The store, a study's folder: one subfolder per trained model and per trial, each complete or absent.

Layout::

    study.toml                the study file
    matched.toml              the study file with matched strengths, if :mod:`dpmi.study.match` wrote one
    content.json              digests of the data and the initial weights of the current tables
    classes.npz               names of the classes, and one training image per class
    models/<key>/             model.pt, record.json, measured.json
    trials/<key>/             recons.npz, record.json, measured.json
    priors/<name>-<key>/      priors that attacks trained on public images
    side-effects/<key>-*.json measurements of :mod:`dpmi.study.side_effects`, one file per model and attack
    trials.csv, trials.parquet, per_class.csv, per_class.parquet

A key is the hash of everything on which a subfolder depends. An interrupted study therefore resumes, and an edited
study runs only its changed trials. A record holds the SHA-256 of the file next to it; a damaged file is computed again.
Measurements have a file and a key of their own, so new metrics need no new training.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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
from dpmi.whole_files import PARTIAL, replacing, sha256

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
    """A problem with a study's folder; the message names the folder and the problem.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "notes.txt").write_text("of another project")
    ...     try:
    ...         Store.create(Path(folder), 'name = "mine"')
    ...     except StoreError as error:
    ...         print(str(error).partition(" is ")[2])
    not empty and holds no study.toml; give an empty or a new folder
    """


class Store:
    """Reads and writes a study's folder.

    Args:
        root: the folder; :meth:`create` makes it.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     store = Store.create(Path(folder, "runs"), 'name = "mine"')
    ...     print(store.spec_text, sorted(path.name for path in store.root.iterdir() if path.is_dir()))
    name = "mine" ['models', 'trials']
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def create(cls, root: Path, spec_text: str, *, replace: bool = False) -> Store:
        """Make the folder, or open an existing one for the same study.

        Args:
            root: the folder.
            spec_text: text of the study file; it may differ from the stored one.
            replace: delete the content of a folder that belongs to a study of another name.

        Raises:
            StoreError: the folder cannot be written, it holds other files or another study, or another run uses it.
        """
        store = cls(root)
        try:
            root.mkdir(parents=True, exist_ok=True)
            left = (_LOCK, PARTIAL)  # left behind by a killed run
            foreign = (path for path in root.iterdir() if not path.name.startswith(left))
            if not (root / _SPEC).exists() and any(foreign):
                raise StoreError(
                    f"output folder {root} is not empty and holds no {_SPEC}; give an empty or a new folder"
                )
            with store.writing():
                store._check_owner(spec_text, replace=replace)
                with replacing(root / _SPEC) as temporary:
                    temporary.write_text(spec_text, encoding="utf-8")
                for kind in ("models", "trials"):
                    (root / kind).mkdir(exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"output folder {root} cannot be written: {error.strerror or error}; give a writable folder"
            ) from error
        return store

    def _check_owner(self, spec_text: str, *, replace: bool) -> None:
        """A folder belongs to one study; otherwise results of two studies could be confused."""
        if not (self.root / _SPEC).exists():
            return
        try:
            own, asked = _name(self.spec_text), _name(spec_text)
        except StoreError:
            return  # damaged; create() writes it again
        if own is None or own == asked:
            return
        if not replace:
            raise StoreError(
                f"{self.root} belongs to study {own!r}, and this is study {asked!r}; give another folder, or use "
                "--replace to delete the content of this one"
            )
        for path in self.root.iterdir():
            if path.name != _LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    @classmethod
    def open(cls, root: Path) -> Store:
        """Open the folder of a study.

        Raises:
            StoreError: the folder does not exist or holds no study.
        """
        if not (root / _SPEC).is_file():
            raise StoreError(f"{root} holds no study: it has no {_SPEC}; give the folder of a study")
        return cls(root)

    @property
    def spec_text(self) -> str:
        """Text of the study file.

        Raises:
            StoreError: the file is damaged.
        """
        try:
            return (self.root / _SPEC).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{self.root / _SPEC} is damaged ({error}); run the study again") from error

    def save_matched(self, spec_text: str) -> Path:
        """Write the study file with matched strengths, which becomes the study of the folder."""
        for name in (_SPEC, _MATCHED):
            with replacing(self.root / name) as temporary:
                temporary.write_text(spec_text, encoding="utf-8")
        return self.root / _MATCHED

    @property
    def priors(self) -> Path:
        """Folder of the priors that attacks train on public images; see :func:`dpmi.attacks.priors.fetch`."""
        return self.root / "priors"

    @contextmanager
    def training(self, key: str, *, patience: float = -1) -> Iterator[bool]:
        """Context in which a worker trains a model that others may need, too: yield whether it is missing.

        If several workers need the model at once, one trains it and the others wait until it is stored.

        Args:
            key: key of the model.
            patience: how long to wait for another worker, in seconds; -1: until it has finished.

        Raises:
            Timeout: another worker is still training the model.
        """
        if self.model_record(key) is not None:
            yield False
            return
        with FileLock(self.root / "models" / f"{PARTIAL}{key}.lock", timeout=patience):
            yield self.model_record(key) is None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Context of every run that writes: lock the folder, and delete locks and the partial files of a killed run.

        Raises:
            StoreError: another run holds the lock.
        """
        lock = FileLock(self.root / _LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise StoreError(
                f"another run is using {self.root}; wait until it has ended, or give another folder"
            ) from error
        try:
            self._sweep()
            yield
            self._sweep()  # locks of models
        finally:
            lock.release()
            with suppress(PermissionError):  # on Windows, where another run has opened it already
                (self.root / _LOCK).unlink(missing_ok=True)

    def _sweep(self) -> None:
        for folder in (self.root, *(self.root / kind for kind in ("models", "trials", _SIDE_EFFECTS))):
            for partial in folder.glob(f"{PARTIAL}*"):
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()

    @contextmanager
    def marked(self) -> Iterator[Path]:
        """Create a mark file, by which a process on another machine verifies that it sees the same folder."""
        mark = (self.root / f"{PARTIAL}{uuid.uuid4().hex}").absolute()
        mark.touch()
        try:
            yield mark
        finally:
            mark.unlink(missing_ok=True)

    def save_classes(self, names: Sequence[str], examples: np.ndarray) -> None:
        """Save the class names and example images, so that a report needs no data set.

        Args:
            names: one per class.
            examples: (K, C, H, W), one training image per class.
        """
        with replacing(self.root / _CLASSES) as temporary, temporary.open("wb") as file:
            np.savez(file, names=np.array(names, dtype=np.str_), examples=examples)

    def classes(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Names of the K classes, and example images (K, C, H, W).

        Raises:
            StoreError: the study stopped before it had loaded its data, or the file is damaged.
        """
        try:
            with np.load(self.root / _CLASSES, allow_pickle=False) as file:
                return tuple(str(name) for name in file["names"]), file["examples"]
        except FileNotFoundError as error:
            raise StoreError(f"{self.root} has no finished trial yet; run the study first") from error
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise StoreError(
                f"{self.root / _CLASSES} is damaged; run the study again (finished trials are kept)"
            ) from error

    def save_content(self, content: Content) -> None:
        """Save the digests of the data and the weights of the study's current run."""
        with replacing(self.root / _CONTENT) as temporary:
            _write_json(temporary, content.to_json())

    def content(self) -> Content:
        """Digests of the data and the weights of the study's current run.

        Raises:
            StoreError: the study stopped before it had loaded its data, or the file is damaged.
        """
        path = self.root / _CONTENT
        if not path.exists():
            raise StoreError(f"{self.root} has no finished trial yet; run the study first")
        try:
            return Content.from_json(_read_json(path) or {})
        except TypeError as error:
            raise StoreError(f"{path} is damaged; run the study again (finished trials are kept)") from error

    def save_model(self, key: str, model: nn.Module, record: Mapping[str, Any]) -> None:
        """Write a trained model and its record, atomically."""
        content = io.BytesIO()  # torch.save to a file reports a full disk in seven lines of C++
        # On the CPU, so that a machine without the device can read it.
        torch.save({name: value.cpu() for name, value in model.state_dict().items()}, content)
        self._save("models", key, _WEIGHTS, lambda path: path.write_bytes(content.getvalue()), record)

    def model_record(self, key: str) -> dict[str, Any] | None:
        """Record of a trained model; None if it is missing or damaged."""
        return self._record("models", key, _WEIGHTS)

    def weights(self, key: str) -> Path:
        """The file with the state dict of a trained model."""
        return self.root / "models" / key / _WEIGHTS

    def weights_digest(self, key: str) -> str:
        """The SHA-256 of that file."""
        return _digest(self.weights(key))

    def load_weights(self, key: str, model: nn.Module) -> None:
        """Load the parameters of a trained model into a newly built one."""
        state = torch.load(self.weights(key), weights_only=True)
        model.load_state_dict(state)

    def save_trial(self, key: str, recons: Reconstructions, record: Mapping[str, Any]) -> None:
        """Write the reconstructions of a trial and their record, atomically."""
        tensors = ("images", "labels", "scores", "iterations", "diverged")
        arrays = {name: getattr(recons, name).numpy() for name in tensors}
        counts = {name: getattr(recons, name) for name in ("queries", "grad_calls", "stopped_by")}

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, **arrays)

        self._save("trials", key, _RECONS, write, {**record, **counts})

    def trial_record(self, key: str) -> dict[str, Any] | None:
        """Record of a trial; None if it is missing or damaged."""
        return self._record("trials", key, _RECONS)

    def reconstructions(self, key: str) -> Reconstructions:
        """The result of a trial's attack.

        Raises:
            StoreError: it is missing or damaged.
        """
        path = self.root / "trials" / key / _RECONS
        record = self.trial_record(key)
        if record is None:
            raise StoreError(f"{path} is damaged; run the study again to recompute it")
        with np.load(path, allow_pickle=False) as file:
            found: dict[str, Any] = {name: torch.from_numpy(file[name]) for name in file.files}
        counts = {name: record[name] for name in ("queries", "grad_calls", "stopped_by")}
        return Reconstructions(**found, **counts)

    def recons(self, key: str) -> np.ndarray:
        """The reconstruction per class with the highest confidence of the target, (K, C, H, W).

        Raises:
            StoreError: as for :meth:`reconstructions`.
        """
        found = self.reconstructions(key)
        scores = found.scores.view(len(set(found.labels.tolist())), -1)
        surest = scores.argmax(dim=1) + torch.arange(len(scores)) * scores.shape[1]
        pictures: np.ndarray = found.images[surest].numpy()
        return pictures

    def save_measured(self, kind: Kind, key: str, measurement: str, found: Mapping[str, Any]) -> None:
        """Write the measurements of a model or a trial.

        Args:
            kind: "models" or "trials".
            key: key of the model or the trial.
            measurement: key of everything else on which the measurement depends.
            found: the measurements.
        """
        with replacing(self.root / kind / key / _MEASURED) as temporary:
            _write_json(temporary, {"key": measurement, "found": found})

    def measured(self, kind: Kind, key: str, measurement: str) -> dict[str, Any] | None:
        """The measurements; None if they are missing or belong to another measurement key."""
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
            _write_json(folder / _RECORD, {**record, "sha256": sha256(folder / name)})

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
        """Write one side effect of a trained model, atomically.

        Args:
            key: key of the model.
            name: name of the attack.
            record: the measurement.
        """
        (self.root / _SIDE_EFFECTS).mkdir(exist_ok=True)
        with replacing(self.root / _SIDE_EFFECTS / f"{key}-{name}.json") as temporary:
            _write_json(temporary, record)

    def side_effect(self, key: str, name: str) -> dict[str, Any] | None:
        """One side effect of a trained model; None if it is missing."""
        return _read_json(self.root / _SIDE_EFFECTS / f"{key}-{name}.json")

    def save_tables(self, trials: pd.DataFrame, per_class: pd.DataFrame) -> None:
        """Write both tables, as CSV and as Parquet."""
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


@lru_cache(maxsize=4096)  # one log line per file
def _tell_damaged(path: Path) -> None:
    _log.warning("%s is damaged or missing; the next run of the study computes it again", path)


def _is_whole(path: Path, digest: str) -> bool:
    try:
        return _digest(path) == digest
    except OSError:
        return False


def _digest(path: Path) -> str:
    status = path.stat()
    return _known_sha256(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4096)
def _known_sha256(path: Path, mtime_ns: int, size: int) -> str:
    """SHA-256 of a file, cached until its modification time or size changes."""
    return sha256(path)


def _name(spec_text: str) -> object:
    """Name of a study; None if its file is damaged."""
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
        return None  # missing or damaged; the caller computes it again
    return record if isinstance(record, dict) else None
