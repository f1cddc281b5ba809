"""``dpmi plan`` as a user meets it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .conftest import Dpmi, Outcome, is_one_line

pytestmark = pytest.mark.usefixtures("calibrated_once")

TARGET = ("plan", "--epsilon", 8, "--delta", "1e-4", "--sampling-rate", "0.2", "--steps", "200")
DIGITS = ("--class-sizes", ",".join(["6000"] * 10), "--parameters", 7706)


class TestAnswer:
    def test_table_and_verdict(self, dpmi: Dpmi) -> None:
        outcome = dpmi(*TARGET, *DIGITS)
        assert (outcome.code, outcome.err) == (0, "")
        rows = [line.split() for line in outcome.out.splitlines() if "hopeless" in line or "doubtful" in line]
        assert rows[0][:5] == ["class", "1", "10", "0.2", "200"]
        # sigma, epsilon, sigma / (qK), that times sqrt(d), (1 - q)^K, qN, qT
        assert rows[0][5:] == ["3.05", "7.992", "1.53", "134", "10.7%", "12000", "40", "hopeless"]
        assert [row[1] for row in rows[:6]] == ["1", "5", "10", "25", "50", "100"]
        assert rows[5][-1] == "doubtful"
        assert "10 classes, 60,000 records; a model with 7,706 parameters." in outcome.out
        assert "(delta = 0.0001, replace, accountant tight)" in outcome.out
        said = " ".join(outcome.out.split())
        assert "- Class-level DP at epsilon 8 (delta = 0.0001, replace, tight) is hopeless:" in said
        assert "- Subclasses make it usable: with at least 134 per class (1,340 buckets" in said

    def test_json_has_every_row_and_agrees_with_the_table(self, dpmi: Dpmi) -> None:
        outcome = dpmi(*TARGET, *DIGITS, "--clusters-per-class", "1,50", "--json")
        assert (outcome.code, outcome.err) == (0, "")
        found = json.loads(outcome.out)
        assert [(row["unit"], row["buckets"]) for row in found["rows"]] == [("class", 10), ("subclass", 500)]
        for row in found["rows"]:
            assert row["epsilon"] <= 8
            assert (row["delta"], row["adjacency"], row["accountant"]) == (1e-4, "replace", "tight")
            assert row["noise_to_signal"] == pytest.approx(row["noise_multiplier"] / (0.2 * row["buckets"]))
        assert found["class_level"] == found["rows"][0]
        assert found["rescue"]["noise_norm"] <= 1
        assert found["class_sizes"]["class 9"] == 6000
        assert len(found["verdict"]) >= 4

    def test_all_rows_and_the_assumed_model(self, dpmi: Dpmi) -> None:
        arguments = ("--steps", "200,100", "--clusters-per-class", "1", *DIGITS[:2])
        outcome = dpmi(*TARGET, *arguments)
        assert "a model with 10,000 parameters (assumed; set --parameters)" in outcome.out
        assert len(re.findall(r"^class ", outcome.out, flags=re.MULTILINE)) == 1
        outcome = dpmi(*TARGET, *arguments, "--all")
        assert len(re.findall(r"^class ", outcome.out, flags=re.MULTILINE)) == 2

    def test_labels_are_counted(self, dpmi: Dpmi, tmp_path: Path) -> None:
        np.save(tmp_path / "labels.npy", np.repeat(np.arange(10), 6000))
        counted = dpmi(*TARGET, "--labels", tmp_path / "labels.npy", "--parameters", 7706)
        assert counted == dpmi(*TARGET, *DIGITS)

    def test_never_imports_torch(self) -> None:
        program = (
            "import atexit, sys; from dpmi import cli; "
            "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); cli.main()"
        )
        arguments = [str(part) for part in (*TARGET, *DIGITS)]
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
        )
        assert "hopeless" in done.stdout
        assert done.stderr.split() == ["False"]


class TestPlot:
    @pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
    def test_a_picture_and_nothing_else_is_left(
        self, dpmi: Dpmi, tmp_path: Path, suffix: str, start: bytes
    ) -> None:
        path = tmp_path / f"plan.{suffix}"
        path.write_text("an older picture")
        outcome = dpmi(*TARGET, *DIGITS, "--plot", path)
        assert (outcome.code, outcome.err) == (0, "")
        assert path.read_bytes().startswith(start)
        assert list(tmp_path.iterdir()) == [path]

    def test_svg_says_what_it_shows(self, dpmi: Dpmi, tmp_path: Path) -> None:
        dpmi(*TARGET, *DIGITS, "--plot", tmp_path / "plan.svg")
        # Text is drawn as outlines, with what it says in a comment.
        said = re.findall("<!-- (.*?) -->", (tmp_path / "plan.svg").read_text(encoding="utf-8"))
        for label in ("usable", "doubtful", "hopeless", "number of buckets K", "1,000", "200 steps: q = 0.2"):
            assert any(text.startswith(label) for text in said), label

    @pytest.fixture
    def nothing_is_computed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from accountants import planner

        monkeypatch.delattr(planner, "calibrate")

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("plan.jpg", "plan.jpg; it must end in .png, .svg, .pdf"),
            ("plan", "plan; it must end in .png, .svg, .pdf"),
            ("folder.png", "folder.png, which is a folder; give a file"),
            ("missing/plan.png", "missing/plan.png; no file can be written there: No such file"),
            ("file/plan.png", "file/plan.png; no file can be written there: Not a directory"),
        ],
    )
    @pytest.mark.usefixtures("nothing_is_computed")
    def test_what_cannot_be_written_is_refused_first(
        self, dpmi: Dpmi, tmp_path: Path, name: str, message: str
    ) -> None:
        (tmp_path / "folder.png").mkdir()
        (tmp_path / "file").write_text("")
        outcome = dpmi(*TARGET, *DIGITS, "--plot", tmp_path / name)
        check(outcome, f"--plot is {tmp_path}/{message}")


def check(outcome: Outcome, message: str) -> None:
    assert (outcome.code, outcome.out) == (2, "")
    assert is_one_line(outcome), outcome.err
    assert message in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give exactly one of --class-sizes (records per class) and --labels"),
        (
            ("--class-sizes", "3,4", "--labels", "x.txt"),
            "give exactly one of --class-sizes (records per class) and --labels",
        ),
        (("--class-sizes", ""), "--class-sizes is '': '' is not an integer; separate values with commas"),
        (("--class-sizes", "3,,4"), "--class-sizes is '3,,4': '' is not an integer"),
        (("--class-sizes", "3 4"), "--class-sizes is '3 4': '3 4' is not an integer; separate values with"),
        (("--class-sizes", "3,4.5"), "--class-sizes is '3,4.5': '4.5' is not an integer"),
        (("--class-sizes", "30"), "class_sizes must name at least 2 classes, got 1"),
        (("--class-sizes", "30,0"), "the size of class 1 must be at least 1, got 0"),
        (("--class-sizes", "3,4", "--column", "y"), "--column is 'y', but only a --labels file has columns"),
        (("--class-sizes", "3,4", "--epsilon", "0"), "target_epsilon must be above 0"),
        (("--class-sizes", "3,4", "--epsilon", "-1"), "target_epsilon must be above 0"),
        (("--class-sizes", "3,4", "--epsilon", "8%"), "'--epsilon': '8%' is not a number"),
        (
            ("--class-sizes", "3,4", "--epsilon", "1e9"),
            "target_epsilon = 1e+09 is already met at the smallest noise_multiplier",
        ),
        (("--class-sizes", "3,4", "--delta", "1e-12"), "delta must be at least 1e-10"),
        (("--class-sizes", "3,4", "--parameters", "0"), "parameters must be at least 1, got 0"),
        (
            ("--class-sizes", "3,4", "--adjacency", "both"),
            "adjacency must be one of replace, add_remove, got 'both'",
        ),
        (("--class-sizes", "3,4", "--sampling-rate", "0.1,2"), "sampling_rate must be in (0, 1], got 2.0"),
        (("--class-sizes", "3,4", "--steps", "10,x"), "--steps is '10,x': 'x' is not an integer"),
        (
            ("--class-sizes", "3,4", "--clusters-per-class", "1,4"),
            "clusters_per_class must be at most 3, got 4",
        ),
    ],
)
def test_mistakes(dpmi: Dpmi, arguments: tuple[str, ...], message: str) -> None:
    check(dpmi(*TARGET, *arguments), message)


class TestRecommend:
    """Settings of a head on public features."""

    ASK = ("plan", "--epsilon", 1, "--delta", "1e-3", "--recommend", "--records-per-unit", 5, "--units", 240)

    def test_it_prints_settings_and_what_to_expect(self, dpmi: Dpmi) -> None:
        from accountants.recommender import recommend

        found = recommend(units=240, records_per_unit=5, classes=10, target_epsilon=1.0, delta=1e-3)
        out = dpmi(*self.ASK).out
        for name in ("steps", "noise_multiplier", "max_grad_norm", "learning_rate"):
            (line,) = (line for line in out.splitlines() if line.strip().startswith(name))
            assert float(line.split()[1]) == pytest.approx(getattr(found, name), rel=1e-3)
        assert re.search(r"classifies (8\d|9[0-4])\.\d% of held-out digits", out)
        assert "Hopeless" not in out

    def test_its_json_and_too_few_units(self, dpmi: Dpmi) -> None:
        few = json.loads(dpmi(*self.ASK[:-1], 20, "--json").out)
        assert few["hopeless"]
        assert 20 < few["fewest_units"] < 240
        assert few["accuracy_on_digits"] < 0.5
        enough = json.loads(dpmi(*self.ASK, "--json").out)
        assert enough["fewest_units"] is None
        assert 0.8 < enough["accuracy_on_digits"] < 0.95

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (ASK[:-2], "--recommend needs --units"),
            ((*ASK[:-4], *ASK[-2:]), "--recommend needs --units.* and --records-per-unit"),
            ((*ASK[:-5], *ASK[-2:]), "--units, --records-per-unit and --classes are for --recommend only"),
            (
                (*ASK[:-5], "--classes", 3),
                "--units, --records-per-unit and --classes are for --recommend only",
            ),
            ((*ASK, "--parameters", 3), "it chooses the rest"),
            ((*ASK[:-1], 1), "units must be at least 2"),
            ((*ASK, "--classes", 1), "classes must be at least 2"),
            ((*ASK[:-3], 0, *ASK[-2:]), "records_per_unit must be at least 1"),
        ],
    )
    def test_what_does_not_go_together(self, dpmi: Dpmi, arguments: tuple[object, ...], message: str) -> None:
        outcome = dpmi(*arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert is_one_line(outcome), outcome.err
        assert re.search(message, outcome.err), outcome.err
