"""A data set's folder is found, or named; downloads go below the root."""

from pathlib import Path

import pytest
import torchvision

from dpmi.data.files import data_folder, download, missing


def test_the_folder_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    assert data_folder(tmp_path, "MNIST/raw", dataset="mnist", holds="idx files") == tmp_path / "MNIST/raw"


def test_a_folder_that_is_not_there_is_named_with_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "omniglot").touch()
    for folder in ("omniglot", "faces94"):
        with pytest.raises(FileNotFoundError, match=rf"'digits'.* photographs .*{tmp_path / folder}"):
            data_folder(tmp_path, folder, dataset="digits", holds="photographs")
    with pytest.raises(FileNotFoundError, match=r"'digits'.* photographs .*faces94/.*DPMI_DATA"):
        data_folder(None, "faces94", dataset="digits", holds="photographs")
    error = str(missing(tmp_path, dataset="celeba", holds="images"))
    assert all(part in error for part in ("'celeba'", "images", str(tmp_path), "--data-root"))


def test_torchvision_downloads_each_into_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def fake(name: str):
        return lambda root, *, download: fetched.append((name, root, download))

    for name in ("MNIST", "Omniglot"):
        monkeypatch.setattr(torchvision.datasets, name, fake(name))
    download(None, "MNIST", "Omniglot")
    assert fetched == []
    download(tmp_path, "MNIST", "Omniglot")
    assert fetched == [("MNIST", tmp_path, True), ("Omniglot", tmp_path, True)]
