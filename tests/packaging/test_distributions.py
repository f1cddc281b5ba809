"""What a stranger downloads: the source distribution, the wheel, and what the package index shows of them."""

from __future__ import annotations

import email
import email.message
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

import dpmi

ROOT = Path(__file__).parents[2]
#: What a study leaves in a checkout, and git keeps out; some of it shows faces.
KEPT_OUT = (
    "docs/results/faces94/models/0/model.pt",
    "docs/results/faces94/trials/0/recons.npz",
    "docs/results/mnist/priors/gmi/prior.pt",
    "docs/results/mnist/classes.npz",
    "docs/results/mnist/report.html",
    "docs/results/useful-faces94/reconstructions.png",
    "docs/results/linkage-att/reconstructions.png",
    "docs/results/defenses-att/reconstructions.png",
    "docs/results/att-smoothness/reconstructions.png",
    "docs/results/attacks-faces/reconstructions.png",
    "dpmi/__pycache__/left.cpython-311.pyc",
    "runs/demo/report.html",
    "build/lib/dpmi/left.py",
)
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def files() -> list[str]:
    """The files of the repository; in a source distribution, all files."""
    if ROOT.joinpath(".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return [name for name in listed.stdout.split("\0") if name and ROOT.joinpath(name).exists()]
    return [
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*")
        if path.is_file() and not {".venv", "__pycache__", "dpmi.egg-info"} & {*path.parts}
    ]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both distributions, the wheel made of the other, as an installer makes it without a network."""
    folder = tmp_path_factory.mktemp("distributions")
    source = folder / "source"
    for name in files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    for name in KEPT_OUT:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).touch()
    build(source, "build_sdist", folder)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    build(next((folder / "unpacked").iterdir()), "build_wheel", folder)
    return folder


def build(source: Path, what: str, folder: Path) -> None:
    command = [sys.executable, "-c", BUILD, what, str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def metadata(built: Path) -> email.message.Message:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        return email.message_from_bytes(wheel.read(f"dpmi-{dpmi.__version__}.dist-info/METADATA"))


def test_the_source_distribution_is_the_repository(built: Path) -> None:
    """With all tests, and nothing that git keeps out."""
    with tarfile.open(built / f"dpmi-{dpmi.__version__}.tar.gz") as archive:
        names = {
            PurePosixPath(member.name).relative_to(f"dpmi-{dpmi.__version__}").as_posix()
            for member in archive
            if member.isfile()
        }
    written = {name for name in names if name.startswith("dpmi.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert names - written == set(files())


def test_the_wheel_has_two_packages_and_what_belongs_to_them(built: Path) -> None:
    with zipfile.ZipFile(built / f"dpmi-{dpmi.__version__}-py3-none-any.whl") as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == {name for name in files() if name.startswith(("accountants/", "dpmi/"))}
    assert {"accountants/py.typed", "dpmi/py.typed"} <= names


def test_the_index_shows_the_readme_with_whole_links(built: Path) -> None:
    shown = metadata(built).get_payload()
    assert isinstance(shown, str)
    ours = ROOT.joinpath("README.md").read_text(encoding="utf-8")
    link, fence = (
        re.compile(r"(!?)\[[^][]*\]\(([^)\s]+)\)"),
        re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL),
    )
    assert fence.findall(shown) == fence.findall(ours), "code is left as it is"
    whole = {
        "": f"https://github.com/dpmi/dpmi/blob/v{dpmi.__version__}/",
        "!": f"https://raw.githubusercontent.com/dpmi/dpmi/v{dpmi.__version__}/",
    }
    expected = [
        (kind, target if "://" in target else whole[kind] + target)
        for kind, target in link.findall(fence.sub("", ours))
    ]
    assert link.findall(fence.sub("", shown)) == expected
    assert [kind for kind, _ in expected].count("!") >= 1
    assert len(expected) > 40


def test_the_metadata_answer_what_a_stranger_asks(built: Path) -> None:
    found = metadata(built)
    assert found["Description-Content-Type"] == "text/markdown"
    assert found["License-Expression"] == "Apache-2.0"
    assert found["Requires-Python"] == ">=3.10"
    urls = dict(entry.split(", ") for entry in found.get_all("Project-URL", []))
    assert urls.keys() == {"Homepage", "Documentation", "Changelog", "Issues"}
    for name, page in {"Documentation": "docs/README.md", "Changelog": "CHANGELOG.md"}.items():
        assert urls[name] == f"{urls['Homepage']}/blob/main/{page}"
        assert ROOT.joinpath(page).exists()
    pythons = [c for c in found.get_all("Classifier", []) if re.search(r":: 3\.\d+$", c)]
    assert pythons == [f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 15)]


Shell = Callable[[str], str]


@pytest.fixture(scope="module")
def shell(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Runs a line in an empty folder and an environment that has the dependencies, and no dpmi but the wheel."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=False)
    scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DPMI_DATA")}
    environment["PATH"] = os.pathsep.join([str(scripts), environment["PATH"]])
    work = folder / "work"
    work.mkdir()

    def run(line: str) -> str:
        done = subprocess.run(
            line, shell=True, cwd=work, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(
        f'"{sys.executable}" -m pip --python "{scripts / Path(sys.executable).name}" --disable-pip-version-check '
        f'install --quiet --no-index --no-deps "{next(built.glob("*.whl"))}"'
    )
    own = Path(run("""python -c "import sysconfig; print(sysconfig.get_path('purelib'))" """).strip())
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    places = run('python -c "import accountants, dpmi; print(accountants.__file__); print(dpmi.__file__)"')
    assert [Path(place).parents[1] for place in places.splitlines()] == [own, own]
    return run


def test_an_installed_wheel_has_the_commands(shell: Shell) -> None:
    options = "--sampling-rate 0.2 --noise-multiplier 1.6 --steps 200 --delta 1e-3"
    assert "15.924" in shell(f"dpmi epsilon {options} --unit subclass")
    assert shell("dpmi --version") == f"dpmi {dpmi.__version__}\n"


def test_a_strangers_first_hour(shell: Shell) -> None:
    """docs/start/first_hour.md with the wheel: every line of its shell after the installation, and its numbers."""
    page = ROOT.joinpath("docs", "start", "first_hour.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    (difference,) = (text for language, text in blocks if language == "diff")
    lines = [line for language, text in blocks if language == "sh" for line in text.splitlines()]
    added = [line for line in difference.splitlines() if line.startswith("+")]
    assert len(lines) + len(added) == 14, "the page says fourteen"
    work = Path(shell('python -c "import os; print(os.getcwd())"').strip())
    work.joinpath("train.py").write_text(
        "".join(line[1:] for line in difference.splitlines(keepends=True)), encoding="utf-8"
    )
    install, audit, train, attack, dossier = lines
    assert install == "pip install dpmi-*.whl"
    shell(audit)
    findings = json.loads(work.joinpath("audit.json").read_text(encoding="utf-8"))
    assert [finding["verdict"] for finding in findings] == ["consistent", "consistent"]
    audited = work.joinpath("net.pt").read_bytes()
    shell(train)
    assert work.joinpath("net.pt").read_bytes() != audited, "the released model had no canaries"
    assert "user-level (epsilon = 7.9" in work.joinpath("statement.md").read_text(encoding="utf-8")
    assert re.match("Could somebody .* Yes, ", shell(attack))
    shell(dossier)
    run = work / "runs" / "attack-net"
    assert run.joinpath("dossier.pdf").read_bytes().startswith(b"%PDF")
    signed = run.joinpath("dossier.html").read_text(encoding="utf-8")
    assert hashlib.sha256(work.joinpath("net.pt").read_bytes()).hexdigest() in signed
    assert "consistent" in signed
