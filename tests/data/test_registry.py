import subprocess
import sys

import pytest

from dpmi.data import REGISTRY, load, names


def test_every_name_has_one_line():
    assert set(names()) == {"digits", "folder", "table", *FOLDERS}
    lines = [REGISTRY.get(name).description for name in names()]
    assert all(line and "\n" not in line for line in lines)


def test_an_unknown_name_lists_the_names():
    with pytest.raises(
        ValueError,
        match=r"unknown data set 'minst'; did you mean 'mnist'\? \(known: digits, folder, table, mnist, ",
    ):
        load("minst")


def test_an_unknown_option_is_named():
    with pytest.raises(
        ValueError, match="'faces94' has no option 'poeple'; its options are size, people, split, seed"
    ):
        load("faces94", poeple=3)


FOLDERS = {
    "mnist": "MNIST/raw",
    "mnist-half": "MNIST/raw",
    "fashion-mnist": "FashionMNIST/raw",
    "omniglot": "omniglot",
    "faces94": "faces94",
    "att-faces": "att_faces",
    "gt-faces": "gt_faces",
    "cifar10": "cifar-10-batches-py",
    "celeba": "celeba",
    "facescrub": "facescrub",
    "vggface2": "vggface2/train",
    "stanford-dogs": "stanford-dogs/Images",
}


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_without_a_root_the_error_says_how_to_name_one(name, monkeypatch):
    monkeypatch.delenv("DPMI_DATA", raising=False)
    with pytest.raises(
        FileNotFoundError, match=f"'{name}' needs .* in {FOLDERS[name]}/ .*--data-root.*DPMI_DATA"
    ):
        load(name)


@pytest.mark.parametrize("name", sorted(FOLDERS))
@pytest.mark.parametrize("folder_exists", [True, False])
def test_missing_files_are_named_with_the_folder_looked_in(name, folder_exists, tmp_path, monkeypatch):
    monkeypatch.setenv("DPMI_DATA", str(tmp_path))
    if folder_exists:
        (tmp_path / FOLDERS[name]).mkdir(parents=True)
    with pytest.raises(
        FileNotFoundError, match=f"'{name}' needs .* in {tmp_path / FOLDERS[name]}.*--data-root"
    ):
        load(name)


def test_the_root_argument_wins_over_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DPMI_DATA", "/elsewhere")
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load("mnist", root=str(tmp_path))


def test_loading_does_not_import_torchvision():
    # It is slow to import, and only a download needs it.
    code = "import sys, dpmi.data; dpmi.data.load('digits'); sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_download_without_a_root_is_refused(monkeypatch):
    monkeypatch.delenv("DPMI_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="--data-root"):
        load("fashion-mnist", download=True)
