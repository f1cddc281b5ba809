"""The command line as a user meets it: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from accountants import BucketMechanism, Ledger
from dpmi import attacks, cli, data, defenses, metrics, models
from dpmi.cli import studies
from dpmi.privacy import Account, Provenance
from dpmi.privacy.noise import NoiseMode

from .study.conftest import TINY

EPSILON = {
    "--sampling-rate": "0.2",
    "--noise-multiplier": "1.6",
    "--steps": "200",
    "--delta": "1e-3",
    "--unit": "subclass",
}


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Dpmi = Callable[..., Outcome]


@pytest.fixture
def dpmi(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Dpmi:
    """``main()`` in this process, where torch is already imported."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["dpmi", *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Outcome(code, *capfd.readouterr())

    return run


def epsilon(**changed: str) -> list[str]:
    options = {**EPSILON, **{f"--{name.replace('_', '-')}": value for name, value in changed.items()}}
    return ["epsilon", *(part for option in options.items() for part in option)]


def is_one_line(outcome: Outcome) -> bool:
    lines = outcome.err.splitlines()
    return len(lines) == 1 and lines[0].startswith("dpmi: ") and "Traceback" not in outcome.err


class TestEpsilon:
    def test_json(self, dpmi: Dpmi) -> None:
        outcome = dpmi(*epsilon(), "--json")
        assert (outcome.code, outcome.err) == (0, "")
        found = {(g["accountant"], g["adjacency"]): g for g in json.loads(outcome.out)}
        assert set(found) == {
            (accountant, adjacency)
            for accountant in ("tight", "lemma3", "theorem1")
            for adjacency in ("replace", "add_remove")
        }
        assert found["tight", "replace"]["epsilon"] == pytest.approx(15.924, abs=1e-3)
        assert found["tight", "add_remove"]["epsilon"] == pytest.approx(7.448, abs=1e-3)
        # 4 q sqrt(T ln(1/delta)) / sigma, and half of it.
        closed = 4 * 0.2 * math.sqrt(200 * math.log(1e3)) / 1.6
        assert found["theorem1", "replace"]["epsilon"] == pytest.approx(closed)
        assert found["theorem1", "add_remove"]["epsilon"] == pytest.approx(closed / 2)
        for (accountant, _), g in found.items():
            assert (g["unit"], g["delta"]) == ("subclass", 1e-3)
            assert g["is_guarantee"] is (accountant != "theorem1")
            assert ("conditions" in g) is (accountant == "theorem1")
        assert [c["holds"] for c in found["theorem1", "replace"]["conditions"]] == [False, True, False]

    def test_table(self, dpmi: Dpmi) -> None:
        outcome = dpmi(*epsilon())
        assert (outcome.code, outcome.err) == (0, "")
        rows = [line.split() for line in outcome.out.splitlines()]
        assert ["tight", "replace", "subclass", "15.924", "0.001", "yes"] in rows
        assert ["tight", "add_remove", "subclass", "7.448", "0.001", "yes"] in rows
        # 18.58461 and 9.29231: an epsilon is rounded up.
        assert ["theorem1", "replace", "subclass", "18.585", "0.001", "no"] in rows
        assert ["theorem1", "add_remove", "subclass", "9.293", "0.001", "no"] in rows
        lines = outcome.out.splitlines()
        assert sum("FAILS" in line or "holds" in line for line in lines if "needs" in line) == 6
        assert "  theorem1, replace: needs q < 1/(16 sigma): FAILS (q = 0.2, 1/(16 sigma) = 0.03906)" in lines
        # Nothing is wrapped: every line begins like one of ours.
        starts = (" accountant", " tight", " lemma3", " theorem1", "  tight: ", "  lemma3: ", "  theorem1")
        assert all(line.startswith(starts) for line in lines)

    @pytest.mark.parametrize(
        ("changed", "warning"),
        [
            ({"noise_multiplier": "0"}, "noise_multiplier is 0: epsilon is infinite"),
            ({"sampling_rate": "1"}, "sampling_rate is 1: every bucket takes part"),
        ],
    )
    def test_legitimate_ends_are_allowed_with_a_warning(
        self, dpmi: Dpmi, changed: dict[str, str], warning: str
    ) -> None:
        outcome = dpmi(*epsilon(**changed), "--json")
        assert outcome.code == 0
        assert is_one_line(outcome)
        assert outcome.err.startswith(f"dpmi: warning: {warning}")
        values = [float(g["epsilon"]) for g in json.loads(outcome.out)]
        assert all(math.isinf(value) is ("noise_multiplier" in changed) for value in values)

    def test_no_steps_cost_nothing(self, dpmi: Dpmi) -> None:
        outcome = dpmi(*epsilon(steps="0"), "--json")
        assert [g["epsilon"] for g in json.loads(outcome.out)] == [0.0] * 6

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"sampling_rate": "-0.2"}, "sampling_rate must be in (0, 1], got -0.2"),
            ({"sampling_rate": "0"}, "sampling_rate must be in (0, 1], got 0.0"),
            ({"sampling_rate": "1.5"}, "sampling_rate must be in (0, 1], got 1.5"),
            ({"sampling_rate": "nan"}, "sampling_rate must be finite, got nan"),
            ({"sampling_rate": "many"}, "Invalid value for '--sampling-rate': 'many' is not a number"),
            ({"noise_multiplier": "-1"}, "noise_multiplier must be at least 0, got -1.0"),
            ({"noise_multiplier": "nan"}, "noise_multiplier must be finite, got nan"),
            ({"noise_multiplier": "inf"}, "noise_multiplier must be finite, got inf"),
            ({"delta": "0"}, "delta must be in (0, 1), got 0.0"),
            ({"delta": "1"}, "delta must be in (0, 1), got 1.0"),
            ({"delta": "-1e-3"}, "delta must be in (0, 1), got -0.001"),
            ({"delta": "nan"}, "delta must be finite, got nan"),
            ({"steps": "-1"}, "steps must be at least 0, got -1"),
            ({"steps": "1.5"}, "Invalid value for '--steps': '1.5' is not an integer"),
            ({"unit": " "}, "unit must say what one bucket is"),
            ({"unti": "class"}, "No such option: --unti"),
        ],
    )
    def test_wrong_argument(self, dpmi: Dpmi, changed: dict[str, str], message: str) -> None:
        outcome = dpmi(*epsilon(**changed))
        assert outcome.code == 2
        assert outcome.out == ""
        assert is_one_line(outcome)
        assert outcome.err.startswith(f"dpmi: {message}")

    def test_missing_argument(self, dpmi: Dpmi) -> None:
        outcome = dpmi("epsilon", "--sampling-rate", "0.2")
        assert outcome.code == 2
        assert is_one_line(outcome)
        assert "Missing option '--noise-multiplier'" in outcome.err

    def test_never_imports_torch(self) -> None:
        program = (
            "import atexit, sys; from dpmi import cli; "
            "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); cli.main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, *epsilon()], capture_output=True, text=True, check=True
        )
        assert "15.924" in done.stdout
        assert done.stderr.split() == ["False"]


class TestExplain:
    @staticmethod
    def explain(*more: str, **changed: str) -> list[str]:
        return ["explain", *epsilon(**changed)[1:], *more]

    def test_table_and_a_note_for_every_row(self, dpmi: Dpmi) -> None:
        outcome = dpmi(*self.explain("--buckets", "40"))
        assert (outcome.code, outcome.err) == (0, "")
        lines = outcome.out.splitlines()
        assert len(lines) == 1 + 12 + 12 + 2, "nothing is wrapped in a pipe"
        table = [line.rstrip().split(maxsplit=7) for line in lines[1:13]]
        assert [row[0] for row in table] == [str(number) for number in range(1, 13)]
        assert table[0][1:] == ["tight", "replace", "subclass", "15.924", "0.001", "200", "yes, the smallest"]
        assert [row[-1] for row in table] == [
            *("yes, the smallest", "yes, the smallest", "yes", "yes", "no", "no"),
            *("-", "yes", "-", "yes", "-", "no"),
        ]
        for number, (row, note) in enumerate(zip(table, lines[13:25], strict=True), start=1):
            assert note.startswith(f"{number:>2} {row[1]}, {row[2]}: ")
        assert (
            lines[25]
            == "   To state: epsilon = 15.924 (tight) at delta = 0.001, one subclass replaced, 200 steps"
        )
        assert lines[26].startswith(
            "   To state: epsilon = 7.448 (tight) at delta = 0.001, one subclass added"
        )

    def test_json(self, dpmi: Dpmi) -> None:
        outcome = dpmi(*self.explain("--json"))
        assert (outcome.code, outcome.err) == (0, "")
        found = {(row["accountant"], row["adjacency"]): row for row in json.loads(outcome.out)}
        assert len(found) == 12
        assert found["tight", "replace"]["epsilon"] == pytest.approx(15.924, abs=1e-3)
        assert found["opacus-gdp", "add_remove"]["is_bound"] is False
        assert found["opacus-gdp", "replace"]["epsilon"] is None
        for row in found.values():
            assert (row["unit"], row["delta"], row["steps"]) == ("subclass", 1e-3, 200)
            assert len(row["reason"]) > 20

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"sampling_rate": "0"}, "sampling_rate must be in (0, 1], got 0.0"),
            ({"delta": "1"}, "delta must be in (0, 1), got 1.0"),
            ({"steps": "-1"}, "steps must be at least 0, got -1"),
            ({"buckets": "0"}, "buckets must be at least 1, got 0"),
            ({"buckets": "few"}, "Invalid value for '--buckets': 'few' is not an integer"),
        ],
    )
    def test_wrong_argument(self, dpmi: Dpmi, changed: dict[str, str], message: str) -> None:
        outcome = dpmi(*self.explain(**changed))
        assert (outcome.code, outcome.out) == (2, "")
        assert is_one_line(outcome)
        assert outcome.err.startswith(f"dpmi: {message}")

    def test_a_delta_too_large_for_the_buckets_is_one_line(self, dpmi: Dpmi) -> None:
        outcome = dpmi(*self.explain("--buckets", "1000", "--json"))
        assert outcome.code == 0
        assert is_one_line(outcome)
        assert "delta = 0.001 is not below 1/K with K = 1000 buckets" in outcome.err


def test_list_names_everything(dpmi: Dpmi) -> None:
    outcome = dpmi("list")
    assert (outcome.code, outcome.err) == (0, "")
    rows = [line.split() for line in outcome.out.splitlines()]
    everything = [*data.names(), *defenses.names(), *attacks.names(), *metrics.METRICS, *models.names()]
    assert len(everything) > 20
    # The first row of a kind begins with the kind, and nothing is wrapped into a row of its own.
    kinds = [["data", "sets"], ["defences"], ["attacks"], ["metrics"], ["models"]]
    found = []
    for row in rows[1:]:
        kind = next((k for k in kinds if row[: len(k)] == k), [])
        found.append(row[len(kind)])
        assert len(row) > len(kind) + 1, "a name without a description"
    assert found == everything


def test_an_interrupted_command_says_so(dpmi: Dpmi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(studies, "_study", interrupted)
    outcome = dpmi("curve", "--out", str(tmp_path / "study"))
    assert outcome.code == 130
    assert outcome.err.startswith("dpmi: interrupted; what is complete is kept")


def test_help_and_no_command(dpmi: Dpmi) -> None:
    outcome = dpmi("--help")
    assert outcome.code == 0
    assert all(
        command in outcome.out for command in ("epsilon", "statement", "curve", "run", "report", "list")
    )
    outcome = dpmi()
    assert outcome.code == 2
    assert "epsilon" in outcome.out
    assert outcome.err == "dpmi: name a command\n"


class TestMistakes:
    """Exit code 2, one line on stderr, nothing on stdout."""

    @staticmethod
    def check(outcome: Outcome, *words: str) -> None:
        assert outcome.code == 2
        assert outcome.out == ""
        assert is_one_line(outcome), outcome.err
        for word in words:
            assert word in outcome.err

    def test_unknown_command(self, dpmi: Dpmi) -> None:
        self.check(dpmi("curves"), "No such command 'curves'")

    def test_unknown_data(self, dpmi: Dpmi, tmp_path: Path) -> None:
        outcome = dpmi("curve", "--data", "nonsense", "--out", tmp_path / "out")
        self.check(outcome, "--data is 'nonsense'; it must be one of", "digits")
        assert not (tmp_path / "out").exists()

    def test_missing_study(self, dpmi: Dpmi, tmp_path: Path) -> None:
        self.check(
            dpmi("run", tmp_path / "no.toml"),
            "no.toml cannot be read: No such file or directory; name a TOML",
        )

    def test_misspelt_key(self, dpmi: Dpmi, tmp_path: Path) -> None:
        study = tmp_path / "study.toml"
        study.write_text(TINY.replace("seeds", "sedes"), encoding="utf-8")
        self.check(dpmi("run", study, "--out", tmp_path / "out"), "study.toml: seeds is missing")
        study.write_text(TINY.replace("iterations", "iteration"), encoding="utf-8")
        outcome = dpmi("run", study, "--out", tmp_path / "out")
        self.check(outcome, "unknown key 'iteration'; did you mean 'iterations'? (known: regularizer,")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("below", ["file", "file/deeper"])
    def test_unwritable_out(self, dpmi: Dpmi, tmp_path: Path, below: str) -> None:
        (tmp_path / "file").write_text("")
        outcome = dpmi("curve", "--out", tmp_path / below)
        self.check(outcome, f"output folder {tmp_path / below} cannot be written: ", "name a folder that can")

    def test_out_of_somebody_else(self, dpmi: Dpmi, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("")
        self.check(
            dpmi("curve", "--out", tmp_path), f"{tmp_path} is not empty", "name an empty or a new folder"
        )

    def test_data_root_without_the_data(self, dpmi: Dpmi, tmp_path: Path) -> None:
        study, root = tmp_path / "study.toml", tmp_path / "empty"
        root.mkdir()
        study.write_text(TINY.replace('"digits"', '"mnist"'), encoding="utf-8")
        self.check(dpmi("run", study, "--out", tmp_path / "out", "--data-root", root), str(root), "mnist")

    def test_option_that_the_data_do_not_have(self, dpmi: Dpmi, tmp_path: Path) -> None:
        study = tmp_path / "study.toml"
        study.write_text(TINY.replace('"digits"', '"digits"\noptions = { sede = 1 }'), encoding="utf-8")
        self.check(dpmi("run", study, "--out", tmp_path / "out"), "no option 'sede'; it has seed")

    def test_model_that_does_not_fit(self, dpmi: Dpmi, tmp_path: Path) -> None:
        study = tmp_path / "study.toml"
        study.write_text(TINY.replace('"softmax"', '"cnn"'), encoding="utf-8")
        self.check(dpmi("run", study, "--out", tmp_path / "out"), "model 'cnn'", "at least 14", "(1, 8, 8)")

    @pytest.mark.parametrize(
        ("workers", "message"),
        [("0", "--workers is 0; it must be at least 1"), ("two", "'--workers': 'two' is not an integer")],
    )
    def test_workers(self, dpmi: Dpmi, tmp_path: Path, workers: str, message: str) -> None:
        self.check(dpmi("curve", "--workers", workers, "--out", tmp_path / "out"), message)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("name", ["missing", "."])
    def test_report_on_no_study(self, dpmi: Dpmi, tmp_path: Path, name: str) -> None:
        self.check(
            dpmi("report", tmp_path / name), "holds no study: there is no study.toml in it; name a study's"
        )

    def test_report_on_a_study_that_never_ran(self, dpmi: Dpmi, tmp_path: Path) -> None:
        (tmp_path / "study.toml").write_text(TINY, encoding="utf-8")
        self.check(dpmi("report", tmp_path), "no finished trial yet; run the study first")


def test_presets_are_studies_that_parse() -> None:
    from dpmi.study import parse

    assert "digits" in studies.PRESETS
    for preset in studies.PRESETS:
        assert parse(studies._PRESETS.joinpath(f"{preset}.toml").read_text(encoding="utf-8")).name == preset


class TestRun:
    FILES = ("trials.csv", "trials.parquet", "curve.png", "reconstructions.png", "report.html", "summary.md")

    def test_end_to_end_and_report_again(self, dpmi: Dpmi, tmp_path: Path) -> None:
        study, out = tmp_path / "study.toml", tmp_path / "out folder"
        study.write_text(TINY, encoding="utf-8")
        outcome = dpmi("run", study, "--out", out, "--workers", 1)
        assert outcome == (0, f"report: {out / 'report.html'}\n", "")
        assert len(pd.read_csv(out / "trials.csv")) == len(pd.read_parquet(out / "trials.parquet")) == 6
        for name in self.FILES:
            assert (out / name).stat().st_size > 500, name
            if name.endswith(".png"):
                assert (out / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert f"dpmi run '{out}/study.toml' --out '{out}'" in (out / "summary.md").read_text(
            encoding="utf-8"
        )
        before = {name: (out / name).read_bytes() for name in self.FILES}
        for name in self.FILES:
            (out / name).unlink()
        assert dpmi("report", out) == outcome
        assert (out / "summary.md").read_bytes() == before["summary.md"]
        assert all((out / name).exists() for name in self.FILES)
        # Run again, with nothing left to do.
        assert dpmi("run", out / "study.toml", "--out", out, "--workers", 1) == outcome

    def test_failing_job_is_told_and_the_others_are_reported(self, dpmi: Dpmi, tmp_path: Path) -> None:
        study, out = tmp_path / "study.toml", tmp_path / "out"
        text = TINY.replace("[0, 1]", "[0]").replace("[0.5, 1.0]", "0.5")
        text += '[[defenses]]\nname = "none"\ntraining = { learning_rate = 1e38 }\n'
        study.write_text(text, encoding="utf-8")
        outcome = dpmi("run", study, "--out", out, "--workers", 1)
        assert outcome.code == 1
        assert outcome.out == f"report: {out / 'report.html'}\n"
        assert is_one_line(outcome)
        assert outcome.err.startswith(
            "dpmi: none, learning rate 1e+38, seed 0: FloatingPointError: the loss of none"
        )
        assert all((out / name).exists() for name in self.FILES)

    def test_nothing_finished(self, dpmi: Dpmi, tmp_path: Path) -> None:
        study, out = tmp_path / "study.toml", tmp_path / "out"
        text = (
            TINY.replace("[0, 1]", "[0]").replace("[0.5, 1.0]", "0.5").replace("= 0.5\n\n", "= 1e38\n\n", 1)
        )
        study.write_text(text, encoding="utf-8")
        outcome = dpmi("run", study, "--out", out, "--workers", 1)
        assert (outcome.code, outcome.out) == (1, "")
        assert [line.partition(", ")[0] for line in outcome.err.splitlines()] == [
            "dpmi: none",
            "dpmi: class-dp",
        ]


class TestStatement:
    """Files as ``engine.account.to_json()`` gives them."""

    DELTA = ("--delta", "1e-3")

    @pytest.fixture
    def saved(self, tmp_path: Path) -> dict[str, Path]:
        ledger = Ledger().record(BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6), 200)
        by_class = Account(
            ledger=ledger,
            unit="class",
            buckets=10,
            provenance=Provenance.RECORD,
            partition_hash="ab" * 32,
            max_grad_norms=(3.0,),
            noise=NoiseMode.ORDINARY,
        )
        accounts = {
            "search": replace(by_class, ledger=ledger + ledger),
            "final": by_class,
            "subclass": replace(
                by_class, unit="subclass", provenance=Provenance.FITTED, partition_hash="cd" * 32
            ),
        }
        paths = {name: tmp_path / f"{name} account.json" for name in accounts}
        for name, account in accounts.items():
            paths[name].write_text(account.to_json(), encoding="utf-8")
        return paths

    def test_markdown_of_one(self, dpmi: Dpmi, saved: dict[str, Path]) -> None:
        outcome = dpmi(
            "statement", saved["final"], *self.DELTA, "--not-accounted", "a", "--not-accounted", "b"
        )
        assert (outcome.code, outcome.err) == (0, "")
        account = Account.from_json(saved["final"].read_text(encoding="utf-8"))
        assert outcome.out == account.statement(1e-3, not_accounted=("a", "b")).markdown() + "\n"
        assert "(epsilon = 15.924, delta = 0.001)" in outcome.out

    def test_json_of_several(self, dpmi: Dpmi, saved: dict[str, Path]) -> None:
        outcome = dpmi("statement", *saved.values(), *self.DELTA, "--json")
        assert (outcome.code, outcome.err) == (0, "")
        fields = json.loads(outcome.out)
        assert next(iter(fields)) == "reservations"
        assert fields["reservations"] == ["conditional on the partition"]
        assert "no one number" in fields["separate_because"]
        assert [(p["unit"], p["steps"]) for p in fields["promises"]] == [("class", 600), ("subclass", 200)]
        together = Ledger().record(BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6), 600)
        direct = together.guarantee(delta=1e-3, unit="class")
        assert fields["promises"][0]["guarantees"][0]["epsilon"] == direct.epsilon

    def test_a_large_delta_warns(self, dpmi: Dpmi, saved: dict[str, Path]) -> None:
        outcome = dpmi("statement", saved["final"], "--delta", "0.1")
        assert outcome.code == 0
        assert "Caveat: delta = 0.1 is not below 1/K with K = 10 buckets" in outcome.out
        assert outcome.err.startswith("dpmi: warning: delta = 0.1 is not below 1/K with K = 10 buckets")

    def test_mistakes(self, dpmi: Dpmi, saved: dict[str, Path], tmp_path: Path) -> None:
        check, final = TestMistakes.check, saved["final"]
        check(dpmi("statement", *self.DELTA), "Missing argument")
        check(dpmi("statement", final), "Missing option '--delta'")
        check(dpmi("statement", final, "--delta", "1"), "delta must be in (0, 1), got 1.0")
        check(dpmi("statement", final, *self.DELTA, "--not-accounted", " "), "not_accounted must say")
        check(dpmi("statement", final, final, *self.DELTA), f"{final} is named twice; its steps would be")
        check(dpmi("statement", tmp_path / "no.json", *self.DELTA), "No such file", "no.json")
        check(dpmi("statement", tmp_path, *self.DELTA), "Is a directory", str(tmp_path))
        damaged = tmp_path / "damaged.json"
        damaged.write_text(final.read_text(encoding="utf-8")[:-1], encoding="utf-8")
        check(dpmi("statement", final, damaged, *self.DELTA), f"{damaged}: account: not JSON, or cut short")
        damaged.write_bytes(b"\xff\xfe\x00")
        check(dpmi("statement", damaged, *self.DELTA), f"{damaged}: ", "utf-8")
