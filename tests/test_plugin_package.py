"""A package with a defence and an attack of its own: installed, found by name, run in a study, tried by the suite.

Modules: accountants/plugins.py, dpmi/testing/attacks.py, dpmi/testing/defenses.py, dpmi/testing/plugin.py.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from dpmi.testing import AttackConformance, DefenseConformance

PACKAGE = Path(__file__).parent / "plugin_package"
GUIDE = Path(__file__).parents[1].joinpath("docs", "write_a_defense.md").read_text(encoding="utf-8")

STUDY = """
name = "third-party"
seeds = [0]
model = "softmax"
data = { name = "digits" }
training = { steps = 30, learning_rate = 0.3 }
attacks = [{ name = "random-walk", iterations = 30 }]
defenses = [
  { name = "confidence-penalty", penalty_weight = [0.1, 1.0] },
  { name = "class-dp+confidence-penalty", noise_multiplier = 1.0, sampling_rate = 0.5, max_grad_norm = 1.0 },
]
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the package, as a user would, but without a network."""
    folder = tmp_path_factory.mktemp("third_party")
    source = shutil.copytree(PACKAGE, folder / "source")  # a build leaves files beside what it builds
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    options = ["--no-deps", "--no-build-isolation", "--target", str(folder / "site"), str(source)]
    subprocess.run([*pip, *options], check=True)
    return folder / "site"


def run(site: Path, *arguments: str) -> str:
    """Run a program of this interpreter that sees the package."""
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_runs_in_a_study_by_name(site: Path, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    run(
        site,
        "-m",
        "dpmi.cli",
        "run",
        str(tmp_path / "study.toml"),
        "--out",
        str(tmp_path / "out"),
        "--workers",
        "1",
    )
    trials = pd.read_csv(tmp_path / "out" / "trials.csv")
    assert len(trials) == 3
    assert set(trials["attack"]) == {"random-walk"}
    found = trials.groupby("defense")["strength"].apply(sorted).to_dict()
    assert found == {"confidence-penalty": [0.1, 1.0], "class-dp+confidence-penalty": [1.0]}
    private = trials["defense"].str.startswith("class-dp")
    assert trials.loc[private, "epsilon"].between(0, float("inf"), inclusive="neither").all()
    weak, strong = trials[~private].sort_values("strength")["diagnostic_mean_entropy"]
    assert strong > weak, "what it is for"


@pytest.mark.slow
def test_keeps_every_promise(site: Path) -> None:
    """Its own tests, by the suite that it inherits."""
    options = ["--quiet", "-p", "no:cacheprovider", "-c", str(PACKAGE / "pyproject.toml")]
    output = run(site, "-m", "pytest", *options, str(PACKAGE / "tests"))
    promises = [
        key for suite in (DefenseConformance, AttackConformance) for key in dir(suite) if "test_" in key
    ]
    passed = re.search(r"^(\d+) passed", output, flags=re.MULTILINE)
    assert passed is not None
    assert int(passed.group(1)) >= len(promises) > 50


class TestGuide:
    def test_code_is_that_of_the_package(self) -> None:
        """Which the tests above run."""
        blocks = re.findall(
            r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", GUIDE, flags=re.MULTILINE | re.DOTALL
        )
        assert {path.split("/")[-1] for path, _ in blocks} == {
            "confidence_penalty.py",
            "random_walk.py",
            "pyproject.toml",
            "test_promises.py",
        }
        for path, code in blocks:
            assert code in (PACKAGE / path).read_text(encoding="utf-8"), path
        assert GUIDE.count("```") == 2 * len(blocks), "no code that nobody runs"

    def test_names_every_hook(self) -> None:
        from dpmi.defenses import Defense

        shown = set(re.findall(r"`(\w+)`", GUIDE))
        hooks = {key for key, value in vars(Defense).items() if callable(value) and not key.startswith("_")}
        assert hooks - {"objective"} <= shown
        flags = {"changes_head", "needs_pretrained", "stochastic_forward"}
        assert flags <= shown
        assert flags <= set(vars(Defense))

    def test_is_short_and_its_links_lead_somewhere(self) -> None:
        assert len(GUIDE.splitlines()) < 100
        links = re.findall(r"\]\(([^)\s]+)\)", GUIDE)
        assert links
        assert all(PACKAGE.parents[1].joinpath("docs", link).exists() for link in links)
