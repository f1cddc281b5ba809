"""A study whose attacker has the images of another collection.

Modules: dpmi/study/spec.py, dpmi/study/work.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpmi import data
from dpmi.study import SpecError, parse, prepare
from dpmi.study.work import load

STUDY = """
name = "public"
seeds = [0]
model = "softmax"
data = DATA
training = { steps = 1, learning_rate = 0.1 }
attacks = [{ name = "wiener" }]
"""


def study(of: str) -> str:
    return STUDY.replace("DATA", of)


@pytest.fixture
def data_root() -> Path:
    root = os.environ.get("DPMI_DATA")
    if not root:
        pytest.skip("DPMI_DATA is not set: this test reads the real data sets")
    return Path(root)


@pytest.fixture
def ffhq(tmp_path: Path) -> Path:
    """A flat folder of photographs, larger than those of a study."""
    folder = tmp_path / "ffhq"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(3):
        pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05}.png")
    return folder


def test_a_folder_takes_the_place_of_the_public_images(ffhq: Path) -> None:
    whole, cropped = (
        parse(study(f'{{ name = "digits", public = {{ folder = "{ffhq}"{more} }} }}'))
        for more in ("", ", crop = 16")
    )
    plain = parse(study('"digits"'))
    own, found = (load(spec.data, None) for spec in (plain, whole))
    assert found.public.shape == (3, 1, 8, 8)
    assert found.public_labels is None
    assert found.train.images.equal(own.train.images)
    digests = {prepare(spec).data for spec in (plain, whole, cropped)}
    assert len(digests) == 3, "the content of the public images is part of every key"


@pytest.mark.parametrize("public", ['"mnist-half"', '{ name = "mnist-half" }'])
def test_another_data_set_takes_their_place(public: str, data_root: Path) -> None:
    spec = parse(study(f'{{ name = "fashion-mnist", public = {public} }}'))
    found = load(spec.data, str(data_root))
    other = data.load("mnist-half", root=data_root)
    assert found.public.shape == (len(other.train) + len(other.test), 1, 28, 28)
    assert found.public_class_names == tuple(f"mnist/{digit}" for digit in range(5))


def test_options_and_users_stand_beside_it(ffhq: Path) -> None:
    text = f'{{ name = "digits", options = {{ seed = 1 }}, users = {{ size = 5 }}, public = {{ folder = "{ffhq}" }} }}'
    found = load(parse(study(text)).data, None)
    assert len(found.public) == 3
    assert found.train.units is not None
    assert found.test.images.equal(data.load("digits", seed=1).test.images)


def test_the_same_people_are_refused(data_root: Path) -> None:
    spec = parse(study('{ name = "mnist-half", public = "mnist" }'))
    with pytest.raises(
        ValueError, match="mnist/0, mnist/1, mnist/2 and 2 more of 'mnist-half' must not be both"
    ):
        load(spec.data, str(data_root))


@pytest.mark.parametrize(
    ("public", "message"),
    [
        ("{}", "it must have a folder, or the name of a data set; not both"),
        ('{ folder = "x", name = "digits" }', "it must have a folder, or the name of a data set; not both"),
        ('{ name = "mnist", crop = 8 }', "crop is for a folder, options are for a data set"),
        ('{ folder = "x", options = { seed = 1 } }', "crop is for a folder, options are for a data set"),
        ('{ folder = "x", crop = 0 }', "data.public.crop is 0"),
        ('{ folder = "" }', "data.public.folder is ''"),
        ('"mnst"', "data.public.name: unknown name 'mnst'; did you mean 'mnist'"),
        ('{ name = "mnist", options = { sed = 1 } }', "data.public: data set 'mnist' has no option 'sed'"),
        ('{ name = "gt-faces", options = { seed = "x" } }', "data.public.options.seed is 'x'"),
        ('{ name = "folder" }', "data.public: data set 'folder' needs the option 'folder'"),
        ('{ place = "x" }', "unknown key 'place'"),
        ("3", "data.public is 3"),
    ],
)
def test_bad_input_is_named(public: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(study(f'{{ name = "digits", public = {public} }}'))


def test_a_data_set_with_an_option_of_this_name_has_one_way(tmp_path: Path) -> None:
    text = f'{{ name = "folder", options = {{ folder = "{tmp_path}" }}, public = {{ folder = "x" }} }}'
    with pytest.raises(
        SpecError, match="the data set 'folder' has an option public of its own; give it in options"
    ):
        parse(study(text))
