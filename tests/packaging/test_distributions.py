"""What a stranger downloads: the source distribution, the wheel, and what the package index shows of them."""

from __future__ import annotations

import email
import email.message
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
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


def test_an_installed_wheel_works_outside_the_checkout(built: Path, tmp_path: Path) -> None:
    """In an environment that has the dependencies, and no dpmi but the wheel."""
    venv.create(tmp_path / "venv", with_pip=False)
    scripts = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / Path(sys.executable).name
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "--quiet"]
    wheel = str(next(built.glob("*.whl")))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([*pip, "install", "--no-index", "--no-deps", wheel], env=environment, check=True)

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    places = run(python, "-c", "import accountants, dpmi; print(accountants.__file__); print(dpmi.__file__)")
    assert [Path(place).parents[1] for place in places.splitlines()] == [own, own]
    options = ["--sampling-rate", "0.2", "--noise-multiplier", "1.6", "--steps", "200", "--delta", "1e-3"]
    assert "15.924" in run(scripts / "dpmi", "epsilon", *options, "--unit", "subclass")
    assert run(scripts / "dpmi", "--version") == f"dpmi {dpmi.__version__}\n"
