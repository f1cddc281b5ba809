"""``dpmi dossier``: a document of a study's model, and of a model that no study trained.

Modules: dpmi/cli/dossier.py, dpmi/report/pdf.py, dpmi/study/released.py.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from html import unescape
from pathlib import Path

import pytest
import tomli_w

from accountants import BucketMechanism, Ledger, reconstruction_bound
from dpmi import versions
from dpmi.privacy import Account, Provenance
from dpmi.privacy.audit.rows import Row
from dpmi.privacy.noise import NoiseMode
from dpmi.report import words
from dpmi.study import Store, gather, parse
from tests.report.browser import Browser, chromium, needs_chromium
from tests.report.test_in_browser import SCREENS, violations
from tests.study.conftest import TINY, run_study

from .conftest import Dpmi, check_mistake

DELTA = ("--delta", "1e-3")
PRIVATE = "class-dp, noise multiplier 2"


def shown(folder: Path) -> str:
    """The text of the page, with one space between words."""
    page = (folder / "dossier.html").read_text(encoding="utf-8")
    page = re.sub(r"<style>.*?</style>|base64,[^\"]*", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


def answer(folder: Path) -> str:
    """The first sentences of the page."""
    text = shown(folder)
    return text[text.index("Privacy dossier", 20) : text.index("The model Model")]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of two seeds, undefended and with class-level DP, with linkage and an audit."""
    folder = tmp_path_factory.mktemp("dossier") / "study"
    text = TINY.replace("noise_multiplier = [0.5, 1.0]", "noise_multiplier = 2.0")
    run_study(f"{text}\n[linkage]\nscorer = 'whitened'\n", folder)
    return folder


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The account of a run with secret noise on users."""
    path = tmp_path / "engine.json"
    path.write_text(RUN.to_json(), encoding="utf-8")
    return path


RUN = Account(
    ledger=Ledger().record(BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6), 200),
    unit="user",
    buckets=240,
    provenance=Provenance.RECORD,
    partition_hash="ab" * 32,
    max_grad_norms=(3.0,),
    noise=NoiseMode.SECURE,
)


class TestStudy:
    def test_a_seeded_model_says_first_that_it_has_no_guarantee(
        self, dpmi: Dpmi, study: Path, tmp_path: Path
    ) -> None:
        done = dpmi("dossier", study, "--setting", PRIVATE, "--seed", 1, "--out", tmp_path)
        assert (done.code, done.err) == (0, "")
        store = Store(study)
        results = gather(parse(store.spec_text), store)
        (trial,) = (row for row in results.trials.itertuples() if row.label == PRIVATE and row.seed == 1)
        said = answer(tmp_path)
        assert "No privacy guarantee: noise and draws came from a seed" in said
        assert f"epsilon {words.epsilon(trial.epsilon)} at delta 1e-2 for one class" in said
        linkage, chance = (words.percent(value) for value in (trial.linkage_top1, trial.linkage_chance))
        assert f"enhanced picks the right class in {linkage}".replace(words.GLUE, " ") in said
        assert f"guessing in {chance}".replace(words.GLUE, " ") in said
        text = shown(tmp_path)
        assert f"no promise ({words.epsilon(trial.epsilon)} with secret noise)" in text
        assert "is private for one" not in text
        weights = store.weights(trial.model_key)
        assert hashlib.sha256(weights.read_bytes()).hexdigest() in text
        assert store.content().data in text
        assert trial.trained_by in text
        assert f"Test accuracy {words.percent(trial.test_accuracy)}".replace(words.GLUE, " ") in text
        for line in results.statements[trial.trial].splitlines():
            assert " ".join(re.sub("^(#+|-) ", "", line).split()) in text
        assert "The first row of the picture shows training images" in text

    def test_an_undefended_model_has_no_epsilon(self, dpmi: Dpmi, study: Path, tmp_path: Path) -> None:
        assert dpmi("dossier", study, "--setting", "none", "--seed", 0, "--out", tmp_path).code == 0
        assert "No privacy guarantee: the training is not differentially private" in answer(tmp_path)
        assert "No promise for a record, a user or a class" in shown(tmp_path)

    def test_who_made_it_is_what_the_records_say(
        self, dpmi: Dpmi, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        record = next((study / "models").glob("*/record.json"))
        torch = json.loads(record.read_text())["made"]["torch"]
        monkeypatch.setattr("dpmi.privacy.statement.versions", lambda: {"torch": "99.9"})
        dpmi("dossier", study, "--setting", "none", "--seed", 0, "--out", tmp_path)
        made = shown(tmp_path).partition("Who made it")[2]
        assert f"torch {torch}" in made
        assert "99.9" not in made

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ((), ["models of 2 settings; pick one with --setting: 'none', 'class-dp, noise multiplier 2'"]),
            (("--setting", "none"), ["models of 2 seeds; pick one with --seed: 0, 1"]),
            (("--setting", "mid"), ["--setting is 'mid'", "it has 'none', 'class-dp, noise multiplier 2'"]),
            (("--setting", "none", "--seed", "7"), ["--seed is 7", "it has 0, 1"]),
            (("--seed", "x"), ["'x' is not an integer"]),
            (("--account", "{saved}", *DELTA), ["--account is given, but", "omit --account"]),
            (("--model", "{saved}"), ["has its own model; omit --model"]),
            (("--delta", "1e-3"), ["--account is missing"]),
            (
                ("--setting", "none", "--seed", "0", "--audit", "{saved}"),
                ["engine.json: the audit must be a list"],
            ),
        ],
    )
    def test_mistakes(
        self, dpmi: Dpmi, study: Path, saved: Path, tmp_path: Path, options: tuple[str, ...], said: list[str]
    ) -> None:
        given = [option.format(saved=saved) for option in options]
        check_mistake(dpmi("dossier", study, *given, "--out", tmp_path / "new"), *said)
        assert not (tmp_path / "new").exists()

    def test_a_missing_folder_and_an_unfinished_study(
        self, dpmi: Dpmi, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        check_mistake(dpmi("dossier", tmp_path / "nowhere"), "nowhere, which is no folder")
        check_mistake(dpmi("dossier", tmp_path), "holds no study")
        # Its measurements are those of other code, so no trial is complete.
        monkeypatch.setattr(versions, "MEASUREMENT", versions.MEASUREMENT + 1)
        check_mistake(
            dpmi("dossier", study, "--out", tmp_path / "new"), "unfinished study (0 of 4 trials)", "dpmi run"
        )
        assert not (tmp_path / "new").exists()


class TestAccounts:
    """A team without a study."""

    def test_the_first_sentence_has_the_guarantee(self, dpmi: Dpmi, saved: Path, tmp_path: Path) -> None:
        weights = tmp_path / "net.pt"
        weights.write_bytes(b"weights")
        done = dpmi(
            "dossier",
            "--account",
            saved,
            *DELTA,
            "--model",
            weights,
            "--out",
            tmp_path,
            "--not-accounted",
            "x y",
        )
        assert (done.code, done.err) == (0, "")
        epsilon = words.epsilon(RUN.guarantee(1e-3).epsilon)
        said = answer(tmp_path)
        assert (
            f"The model net.pt is private for one user at epsilon {epsilon} and delta 1e-3 (replace-one, tight)."
            in said
        )
        assert "No attack was run" in said
        text = shown(tmp_path)
        assert hashlib.sha256(b"weights").hexdigest() in text
        assert "Not accounted: x y." in text
        assert "Privacy of one class: see the table" in text
        bounds = reconstruction_bound(RUN.ledger, [0.01, 0.1])
        for bound in bounds:
            assert words.bound(bound).replace(words.GLUE, " ") in text
        assert "No record says who trained the model" in text

    def test_a_condition_stands_in_the_first_sentence(self, dpmi: Dpmi, saved: Path, tmp_path: Path) -> None:
        saved.write_text(replace(RUN, provenance=Provenance.FITTED).to_json())
        dpmi("dossier", "--account", saved, *DELTA, "--out", tmp_path)
        assert "(replace-one, tight), conditional on the partition." in answer(tmp_path)

    def test_two_partitions_have_no_common_epsilon(self, dpmi: Dpmi, saved: Path, tmp_path: Path) -> None:
        other = tmp_path / "other.json"
        other.write_text(replace(RUN, unit="class", buckets=10, partition_hash="cd" * 32).to_json())
        dpmi("dossier", "--account", saved, "--account", other, *DELTA, "--out", tmp_path)
        assert "have no common epsilon" in answer(tmp_path)
        assert "a part of one" not in shown(tmp_path), "a record is in both partitions"

    @pytest.mark.parametrize("violated", [False, True])
    def test_an_audit(self, dpmi: Dpmi, saved: Path, tmp_path: Path, violated: bool) -> None:
        claimed = RUN.guarantee(1e-3).epsilon
        verdict = "violated (p = 1e-09): noise is 1, not 2" if violated else "consistent"
        row = Row(
            configuration="train.py:main",
            adjacency="replace",
            claimed=claimed,
            lower_bound=3.21,
            ceiling=4.5,
            p_value=1e-9 if violated else 0.5,
            verdict=verdict,
        )
        audit = tmp_path / "audit.json"
        audit.write_text(json.dumps([asdict(row)]))
        dpmi("dossier", "--account", saved, *DELTA, "--audit", audit, "--out", tmp_path)
        said, text = answer(tmp_path), shown(tmp_path)
        assert ("No privacy guarantee: an audit contradicts the ledger" in said) is violated
        assert ("is private for one user" in text) is not violated
        assert f"train.py:main replace-one {words.epsilon(claimed)} 3.21 4.50" in text
        assert verdict in text
        assert "Of another training" not in text
        audit.write_text(json.dumps([asdict(replace(row, claimed=claimed + 1))]))
        dpmi("dossier", "--account", saved, *DELTA, "--audit", audit, "--out", tmp_path)
        assert "Of another training than this model's" in shown(tmp_path)

    def test_mistakes(self, dpmi: Dpmi, saved: Path, tmp_path: Path) -> None:
        check_mistake(dpmi("dossier"), "there is no model")
        check_mistake(dpmi("dossier", "--account", saved), "--delta is missing")
        check_mistake(dpmi("dossier", "--account", saved, "--delta", "2"), "delta must be in (0, 1)")
        check_mistake(
            dpmi("dossier", "--account", saved, *DELTA, "--seed", "1"), "--seed is 1, but there is no RUN"
        )
        check_mistake(
            dpmi("dossier", "--account", saved, *DELTA, "--model", tmp_path / "no.pt"), "No such file"
        )
        check_mistake(
            dpmi("dossier", "--account", saved, *DELTA, "--records-per-unit", "user"), "such as user=10"
        )
        old = json.loads(saved.read_text())
        saved.write_text(json.dumps({**old, "version": 99}))
        check_mistake(
            dpmi("dossier", "--account", saved, *DELTA),
            "version must be 2, got 99",
            "another version of dpmi",
        )
        assert not list(tmp_path.glob("dossier.*"))


def test_a_given_model_and_its_account(dpmi: Dpmi, saved: Path, tmp_path: Path) -> None:
    """A folder as ``dpmi attack`` leaves it: a study of a checkpoint."""
    undefended = (
        TINY[: TINY.index("[[defenses]]")] + '[[defenses]]\nname = "none"\n[[attacks]]\nname = "label-mean"\n'
    )
    store, _ = run_study(undefended.replace("[0, 1]", "[0]"), tmp_path / "trained")
    (job,) = parse(store.spec_text).jobs_on(store.content())
    checkpoint = tmp_path / "net.pt"
    checkpoint.write_bytes(store.weights(job.key).read_bytes())
    document = {
        "name": "net",
        "seeds": [0],
        "model": "softmax",
        "checkpoint": str(checkpoint),
        "data": "digits",
        "attacks": [{"name": "label-mean"}],
    }
    folder = tmp_path / "attack-net"
    run_study(tomli_w.dumps(document), folder)
    assert dpmi("dossier", folder).code == 0
    assert "No privacy guarantee is known" in answer(folder)
    assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() in shown(folder)
    assert dpmi("dossier", folder, "--account", saved, *DELTA).code == 0
    said, text = answer(folder), shown(folder)
    assert "The model net.pt is private for one user at epsilon" in said
    assert "label-mean picks the right class in" in said
    assert "without decoys, part of it can be elimination" in text
    assert "guarantee is known" not in text
    assert hashlib.sha256(saved.read_bytes()).hexdigest() in text


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@needs_chromium
def test_it_fits_a_phone_and_a_screen(browser: Browser, dpmi: Dpmi, study: Path, tmp_path: Path) -> None:
    pytest.importorskip("axe_core_python", reason="the package axe-core-python is not installed")
    dpmi("dossier", study, "--setting", PRIVATE, "--seed", 0, "--out", tmp_path)
    for width, dark in SCREENS:
        browser.open(tmp_path / "dossier.html", width=width, dark=dark)
        assert browser.errors == []
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert violations(browser) == []


class TestPdf:
    def test_it_says_the_same_on_few_pages(self, dpmi: Dpmi, study: Path, tmp_path: Path) -> None:
        pytest.importorskip("weasyprint", reason="the extra `dossier` is not installed", exc_type=ImportError)
        pypdf = pytest.importorskip("pypdf", reason="the package pypdf is not installed")
        done = dpmi("dossier", study, "--setting", PRIVATE, "--seed", 0, "--out", tmp_path)
        assert done.out == f"dossier: {tmp_path / 'dossier.html'}\nPDF: {tmp_path / 'dossier.pdf'}\n"
        pages = pypdf.PdfReader(io.BytesIO((tmp_path / "dossier.pdf").read_bytes())).pages
        assert len(pages) <= 4
        first = " ".join(pages[0].extract_text().split())
        assert "No privacy guarantee: noise and draws came from a seed" in first
        assert "Signature" in pages[-1].extract_text()
        assert {path.name for path in tmp_path.iterdir()} == {"dossier.html", "dossier.pdf"}

    def test_without_the_extra_the_page_is_written_and_an_old_pdf_is_not_left(
        self, dpmi: Dpmi, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "weasyprint", None)
        out = tmp_path / "out"
        out.mkdir()
        (out / "dossier.pdf").write_bytes(b"old")
        done = dpmi("dossier", "--account", saved, *DELTA, "--out", out)
        assert (done.code, done.out) == (0, f"dossier: {out / 'dossier.html'}\n")
        (line,) = done.err.splitlines()
        assert "pip install 'dpmi[dossier]'" in line
        assert [path.name for path in out.iterdir()] == ["dossier.html"]
