"""Class sizes from files of labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dpmi.cli.labels import class_sizes

from .conftest import Dpmi
from .test_plan import TARGET, check


class TestLabels:
    def test_text(self, tmp_path: Path) -> None:
        path = tmp_path / "labels.txt"
        path.write_text("10\n9\ncat\n9\n cat \n9\n", encoding="utf-8")
        assert list(class_sizes(path).items()) == [("class 9", 3), ("class 10", 1), ("class cat", 2)]

    def test_table(self, tmp_path: Path) -> None:
        path = tmp_path / "records.csv"
        path.write_text('name,person\n"a, b",anna\nc,bert\n\nd,anna\n', encoding="utf-8-sig")
        assert class_sizes(path, column="person") == {"class anna": 2, "class bert": 1}
        path.write_text("person\nanna\nbert\n", encoding="utf-8")
        assert class_sizes(path) == {"class anna": 1, "class bert": 1}

    @pytest.mark.parametrize("kind", [np.uint8, np.int64])
    def test_array(self, tmp_path: Path, kind: type[np.generic]) -> None:
        np.save(tmp_path / "labels.npy", np.array([2, 0, 2], dtype=kind))
        assert class_sizes(tmp_path / "labels.npy") == {"class 0": 1, "class 2": 2}

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("labels.idx", b"", "labels.idx must end in .txt, .csv, .npy"),
            ("labels.txt", b"", "labels.txt holds no labels"),
            ("labels.txt", b"1\n\n2\n", "labels.txt: line 2 is empty; every record needs a label"),
            ("labels.txt", b"\xff\xfe1\n", "labels.txt is not text: "),
            ("labels.csv", b"", "labels.csv holds no labels"),
            ("labels.csv", b"label\n", "labels.csv holds no labels"),
            ("labels.csv", b"id,label\n1,2\n", "has several columns; choose one with --column: id, label"),
            ("labels.csv", b"5\n3\n", "starts with '5' instead of a column name"),
            ("labels.npy", b"", "labels.npy is not an array of numpy.save"),
            ("labels.npy", b"1\n2\n", "labels.npy is not an array of numpy.save"),
        ],
    )
    def test_unreadable(self, dpmi: Dpmi, tmp_path: Path, name: str, content: bytes, message: str) -> None:
        (tmp_path / name).write_bytes(content)
        check(dpmi(*TARGET, "--labels", tmp_path / name), message)

    @pytest.mark.parametrize(
        ("content", "column", "message"),
        [
            ("id,label\n1,2\n3\n", "label", "record 2 has 1 cells for 2 columns, or an empty label"),
            ("id,label\n1,\n", "label", "record 1 has 2 cells for 2 columns, or an empty label"),
            ("id,label\n1,2\n", "labels", "has no column 'labels'; it has id, label"),
        ],
    )
    def test_ragged_table(self, dpmi: Dpmi, tmp_path: Path, content: str, column: str, message: str) -> None:
        (tmp_path / "labels.csv").write_text(content, encoding="utf-8")
        check(dpmi(*TARGET, "--labels", tmp_path / "labels.csv", "--column", column), message)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (np.eye(3, dtype=int), "holds shape (3, 3) of type int64; expected integers of shape (N,)"),
            (np.ones(3), "holds shape (3,) of type float64; expected integers of shape (N,)"),
            (np.array(["a"], dtype=object), "is not an array of numpy.save"),
            (np.array([], dtype=int), "holds no labels"),
        ],
    )
    def test_other_arrays(
        self,
        dpmi: Dpmi,
        tmp_path: Path,
        labels: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
        message: str,
    ) -> None:
        np.save(tmp_path / "labels.npy", labels)
        check(dpmi(*TARGET, "--labels", tmp_path / "labels.npy"), message)

    def test_missing_file_and_misplaced_column(self, dpmi: Dpmi, tmp_path: Path) -> None:
        check(dpmi(*TARGET, "--labels", tmp_path / "no.csv"), "no.csv cannot be read: No such file")
        (tmp_path / "labels.txt").write_text("1\n2\n")
        outcome = dpmi(*TARGET, "--labels", tmp_path / "labels.txt", "--column", "y")
        check(outcome, "--column is 'y', but labels file")
