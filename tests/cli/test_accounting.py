"""``dpmi calibrate``, ``dpmi reconstruction-bound`` and ``dpmi epsilon --plot`` as a user meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest

from .conftest import Dpmi, check_mistake, epsilon, is_one_line

TARGET = ("calibrate", "--target-epsilon", 4, "--delta", "1e-3", "--unit", "subclass")
RUN = ("reconstruction-bound", "--sampling-rate", 0.2, "--noise-multiplier", 1.6, "--steps", 200)


class TestCalibrate:
    def test_the_noise_is_printed_with_every_digit_and_keeps_the_target(self, dpmi: Dpmi) -> None:
        outcome = dpmi(*TARGET, "--sampling-rate", 0.2, "--steps", 150)
        assert (outcome.code, outcome.err) == (0, "")
        first, given, sentence = outcome.out.splitlines()
        name, noise = first.split(" = ")
        assert name == "noise_multiplier"
        assert given == "with sampling_rate = 0.2, steps = 150"
        assert "one subclass replaced, after 150 steps (accountant: tight)" in sentence
        again = dpmi(*epsilon(noise_multiplier=noise, steps="150"), "--json")
        tight = json.loads(again.out)[0]["epsilon"]
        assert 4 * 0.998 <= tight <= 4

    def test_the_number_of_buckets_judges_delta(self, dpmi: Dpmi) -> None:
        given = (*TARGET, "--sampling-rate", 0.2, "--steps", 150)
        assert "warning: delta = 0.001 is not below 1/K with K = 1000" in dpmi(*given, "--buckets", 1000).err
        assert dpmi(*given, "--buckets", 999).err == ""

    def test_for_units_that_own_several_buckets(self, dpmi: Dpmi) -> None:
        given = (*TARGET, "--sampling-rate", 0.2, "--steps", 150, "--records-per-unit", 3)
        noise = dpmi(*given).out.splitlines()[0].split(" = ")[1]
        again = dpmi(*epsilon(noise_multiplier=noise, steps="150"), "--records-per-unit", 3, "--json")
        assert 4 * 0.998 <= json.loads(again.out)[0]["epsilon"] <= 4
        check_mistake(dpmi(*given, "--buckets", 2), "buckets_per_unit must be at most 2")

    def test_json(self, dpmi: Dpmi) -> None:
        outcome = dpmi(
            *TARGET, "--sampling-rate", 0.2, "--noise-multiplier", 3, "--adjacency", "add_remove", "--json"
        )
        found = json.loads(outcome.out)
        assert (found["solved_for"], found["sampling_rate"], found["noise_multiplier"]) == ("steps", 0.2, 3.0)
        assert found["guarantee"]["adjacency"] == "add_remove"
        assert found["guarantee"]["steps"] == found["steps"]
        assert found["guarantee"]["epsilon"] <= 4

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ((), "leave out exactly one of noise_multiplier, steps and sampling_rate"),
            (("--sampling-rate", 0.2), "leave out exactly one of noise_multiplier, steps and sampling_rate"),
            (("--sampling-rate", 2, "--steps", 9), "sampling_rate must be in (0, 1], got 2.0"),
            (
                ("--sampling-rate", 0.2, "--steps", 9, "--adjacency", "swap"),
                "adjacency must be one of replace",
            ),
            (("--sampling-rate", 0.9, "--noise-multiplier", 0.1), "target_epsilon = 4 cannot be met"),
            (("--steps", "few"), "Invalid value for '--steps': 'few' is not an integer"),
        ],
    )
    def test_wrong_argument(self, dpmi: Dpmi, options: tuple[object, ...], message: str) -> None:
        outcome = dpmi(*TARGET, *options)
        assert (outcome.code, outcome.out) == (2, "")
        assert is_one_line(outcome)
        assert outcome.err.startswith(f"dpmi: {message}")


class TestReconstructionBound:
    def test_table_is_rounded_up(self, dpmi: Dpmi) -> None:
        outcome = dpmi(*RUN, "--unit", "subclass", "--prior", 0.1, "--prior", 0.01)
        assert (outcome.code, outcome.err) == (0, "")
        rows = [line.split() for line in outcome.out.splitlines()]
        # 0.717 and 0.331 by an independent computation
        assert rows[1:3] == [["0.1", "0.7166"], ["0.01", "0.3311"]]
        assert "one subclass present or absent, after 200 steps" in outcome.out

    def test_json(self, dpmi: Dpmi) -> None:
        found = json.loads(dpmi(*RUN, "--unit", "user", "--prior", 0.1, "--json").out)
        assert [(row["unit"], row["steps"], row["prior"]) for row in found] == [("user", 200, 0.1)]
        assert found[0]["bound"] == pytest.approx(0.717, abs=1e-3)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--unit", "user"), "Missing option '--prior'"),
            (("--unit", "user", "--prior", 1.5), "priors must be in [0, 1], got 1.5"),
            (("--unit", "user", "--prior", "nan"), "priors must be in [0, 1], got nan"),
            (("--unit", " ", "--prior", 0.5), "unit must say what one bucket is"),
        ],
    )
    def test_wrong_argument(self, dpmi: Dpmi, options: tuple[object, ...], message: str) -> None:
        outcome = dpmi(*RUN, *options)
        assert (outcome.code, outcome.out) == (2, "")
        assert is_one_line(outcome)
        assert message in outcome.err


class TestPlot:
    def test_it_is_a_picture_and_nothing_else_is_left(self, dpmi: Dpmi, tmp_path: Path) -> None:
        outcome = dpmi(*epsilon(steps="20"), "--plot", tmp_path / "run.png")
        assert (outcome.code, outcome.err) == (0, "")
        assert [path.name for path in tmp_path.iterdir()] == ["run.png"]
        assert matplotlib.image.imread(tmp_path / "run.png").std() > 0.05

    @pytest.mark.parametrize(
        ("name", "changed", "message"),
        [
            ("run.jpeg", {}, "it must end in .png, .svg, .pdf"),
            ("nowhere/run.png", {}, "no file can be written there"),
            ("run.png", {"steps": "0"}, "--plot needs 1 to 100000 steps, got 0"),
            ("run.png", {"noise_multiplier": "0"}, "noise_multiplier is 0, so epsilon is infinite"),
        ],
    )
    def test_what_cannot_be_drawn_is_refused_and_leaves_nothing(
        self, dpmi: Dpmi, tmp_path: Path, name: str, changed: dict[str, str], message: str
    ) -> None:
        outcome = dpmi(*epsilon(**changed), "--plot", tmp_path / name)
        assert outcome.code == 2
        assert message in outcome.err.splitlines()[-1]
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [(*TARGET, "--sampling-rate", 0.2, "--steps", 150), (*RUN, "--unit", "user", "--prior", 0.1)],
    ids=["calibrate", "reconstruction-bound"],
)
def test_torch_is_never_imported(arguments: tuple[object, ...]) -> None:
    program = (
        "import atexit, sys; from dpmi import cli; "
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    assert done.stderr.split() == ["False"]
