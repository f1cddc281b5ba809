import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from dpmi.data.read_omniglot import ALPHABETS, read_characters

SMALL = ("images_background_small1", "images_background_small2")


def test_each_character_is_there_once_by_each_writer(characters):
    assert characters.pixels.shape == (4840, 28, 28)
    assert len({image.tobytes() for image in characters.pixels}) == 4840
    assert len(set(zip(characters.names, characters.writers.tolist(), strict=True))) == 4840
    assert np.bincount(characters.writers).tolist() == [0] + [242] * 20
    assert {name.split("/")[0] for name in characters.names} == set(ALPHABETS)


def test_ink_is_kept_where_the_writer_put_it(data_root, characters):
    index = characters.names.index("Greek/character07")
    with zipfile.ZipFile(data_root / "omniglot" / f"{SMALL[0]}.zip") as zipped:
        (entry,) = [e for e in zipped.namelist() if "Greek/character07/" in e and e.endswith("_01.png")]
        original = np.asarray(Image.open(io.BytesIO(zipped.read(entry)))).astype(float)
    # As much ink, about the same centre: the file is dark (0) on white (1), and 105 = 3.75 x 28 pixels wide.
    ink, ours = 1 - original, characters.pixels[index] / 255
    assert ours.mean() == pytest.approx(ink.mean(), rel=0.06)
    for axis in (0, 1):
        places = np.arange(105) + 0.5, np.arange(28) * 3.75 + 1.875
        before, after = (
            (profile @ place) / profile.sum()
            for profile, place in zip((ink.sum(axis), ours.sum(axis)), places, strict=True)
        )
        assert after == pytest.approx(before, abs=1)


@pytest.fixture(scope="module")
def full_archive(data_root, tmp_path_factory):
    """The archive that torchvision downloads, as far as the small ones have it, and one alphabet more."""
    root = tmp_path_factory.mktemp("full")
    (root / "omniglot-py").mkdir()
    drawings = {"images_background/Futurama/character01/0001_01.png": b"never read"}
    for name in SMALL:
        with zipfile.ZipFile(data_root / "omniglot" / f"{name}.zip") as small:
            for entry in small.namelist():
                if entry.endswith(".png"):
                    drawings[entry.replace(name, "images_background")] = small.read(entry)
    with zipfile.ZipFile(root / "omniglot-py" / "images_background.zip", "w") as full:
        for entry, png in reversed(drawings.items()):
            full.writestr(entry, png)
    return root


def test_the_full_archive_gives_the_same_characters(characters, full_archive):
    full = read_characters(full_archive, dataset="omniglot")
    np.testing.assert_array_equal(full.pixels, characters.pixels)
    assert full.names == characters.names


def test_a_damaged_archive_is_refused_by_name(data_root, tmp_path):
    (tmp_path / "omniglot").mkdir()
    for name in SMALL:
        content = (data_root / "omniglot" / f"{name}.zip").read_bytes()
        (tmp_path / "omniglot" / f"{name}.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"small1\.zip is truncated or corrupt: "):
        read_characters(tmp_path, dataset="omniglot")
