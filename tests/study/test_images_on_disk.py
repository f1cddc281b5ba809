"""Studies of images on the disk: their numbers are those of images in memory, and their memory hardly grows.

Modules: benchmarks/large_study.py, dpmi/data/lazy.py, dpmi/data/stored_images.py, dpmi/study/work.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from benchmarks import large_study
from dpmi.data import Images, stored_images
from dpmi.data.lazy import LazyImages
from dpmi.study import Results, Store, parse, work
from dpmi.study.layer_information import layer_information
from dpmi.study.side_effects import gather_side_effects, measure

from .conftest import comparable, run_study

SIDE = 14
HEAD = """
name = "own"
seeds = [0, 1]
model = "cnn-small"
training = {{ steps = 12, learning_rate = 0.1, batch_size = 16 }}
data = {{ folder = "{0}/private", public = "{0}/public", test = 0.3, distance = "{1}" }}
"""
SMALL = "steps = 4, batch_size = 8"
ATTACKS = f"""
[[attacks]]
name = "label-mean"
images = 3
[[attacks]]
name = "wiener"
[[attacks]]
name = "enhanced"
iterations = 4
[[attacks]]
name = "gmi"
iterations = 3
restarts = 1
images_per_class = 2
prior = {{ {SMALL}, latent_size = 8 }}
"""
PRIVATE = "noise_multiplier = 0.5\nsampling_rate = 0.5\nmax_grad_norm = 1.0\n"
LINKED = f"""
[linkage]
[evaluator]
model = "cnn"
classes = "all"
training = {{ steps = 10, learning_rate = 0.1 }}
[[defenses]]
name = "none"
[[defenses]]
name = "subclass-dp"
clusters_per_class = 3
{PRIVATE}
[[defenses]]
name = "transfer"
frozen_fraction = 0.5
"""
GAME = f"""
[units]
unit = "subclass"
clusters_per_class = 3
references = "attacker"
count = 1
[[defenses]]
name = "none"
[[defenses]]
name = "subclass-dp"
{PRIVATE}
"""
FEATURES = """
[features]
name = "{0}"
steps = 4
size = 8
[[defenses]]
name = "none"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Private and public images of noisy colours; some files are equal, so that some images are left out."""
    root, generator = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    for part, classes in (("private", 6), ("public", 4)):
        for label in range(classes):
            own = root / part / f"{part}-{label}"
            own.mkdir(parents=True)
            mean = generator.uniform(0, 255, (SIDE, SIDE, 3))
            for row in range(14):
                noisy = (mean + generator.normal(0, 40, mean.shape)).clip(0, 255).astype(np.uint8)
                Image.fromarray(noisy).save(own / f"{row:02}.png")
            Image.fromarray(noisy).save(own / "copy.png")
    return root


def forget() -> None:
    """Load the data again: the settings of both runs are the same, and a process keeps what it loaded."""
    for cached in (work._load, work._of_roles, work._units, work._of_half):
        cached.cache_clear()


def in_both_places(
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    further: Callable[[Store], pd.DataFrame] | None = None,
) -> Results:
    """Run the study with its images in memory and on the disk; every number must be the same."""
    found: list[tuple[Store, Results, Any]] = []
    data = parse(text).data
    for name, limit, kind in (("memory", 2**27, torch.Tensor), ("disk", 0, LazyImages)):
        forget()
        monkeypatch.setattr(stored_images, "IN_MEMORY", limit)
        store, results = run_study(text, tmp_path / name)
        split = work.load(data, None)
        parts: list[Images] = [split.train.images, split.test.images, split.public]
        assert all(isinstance(part, kind) for part in parts)
        found.append((store, results, None if further is None else further(store)))
    forget()
    (here, first, more), (there, second, others) = found
    assert first.trials["trial"].is_unique
    for one, other in ((first.trials, second.trials), (first.per_class, second.per_class)):
        pd.testing.assert_frame_equal(comparable(one), comparable(other), check_exact=True)
    for key in first.trials["trial"]:
        np.testing.assert_array_equal(here.recons(key), there.recons(key))
    if more is not None:
        pd.testing.assert_frame_equal(more, others, check_exact=True)
    return first


@pytest.mark.parametrize("distance", ["euclidean", "ssim"])
def test_linkage_evaluator_and_attacks(
    distance: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = in_both_places(HEAD.format(folder, distance) + LINKED + ATTACKS, tmp_path, monkeypatch)
    assert len(results.trials) == 3 * 2 * 4
    numbers = ["distance", "advantage", "linkage_top1", "attack_accuracy", "knn_distance", "psnr", "ssim"]
    assert results.per_class[numbers].notna().all(axis=None)


def test_priors_that_query_the_target(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attacks = f"""
[[defenses]]
name = "none"
[[attacks]]
name = "plg-mi"
iterations = 2
restarts = 1
images_per_class = 1
prior = {{ {SMALL}, latent_size = 8, top_n = 5 }}
[[attacks]]
name = "lomma-gmi"
iterations = 2
restarts = 1
images_per_class = 1
prior = {{ {SMALL}, latent_size = 8 }}
surrogates = {{ {SMALL} }}
[[attacks]]
name = "ked-mi"
iterations = 2
images_per_class = 1
prior = {{ {SMALL}, latent_size = 8 }}
"""
    assert len(in_both_places(HEAD.format(folder, "euclidean") + attacks, tmp_path, monkeypatch).trials) == 6


def test_unit_game(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = HEAD.format(folder, "euclidean") + GAME + ATTACKS.partition('[[attacks]]\nname = "wiener"')[0]
    results = in_both_places(text, tmp_path, monkeypatch)
    assert results.trials["unit_auc"].notna().all()


@pytest.mark.parametrize("name", ["public", "digits", "folder:{}/public"])
def test_features(name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = HEAD.replace("cnn-small", "linear").format(folder, "euclidean")
    text += FEATURES.format(name.format(folder)) + ATTACKS.partition('[[attacks]]\nname = "wiener"')[0]
    in_both_places(text, tmp_path, monkeypatch)


def test_layers_and_side_effects(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("art")
    text = HEAD.format(folder, "euclidean").replace("[0, 1]", "[0]") + '[[defenses]]\nname = "none"\n'
    text += ATTACKS.partition('[[attacks]]\nname = "wiener"')[0]
    spec = parse(text)

    def further(store: Store) -> pd.DataFrame:
        assert measure(spec, store, backdoor=True, images=5) == []
        layers = layer_information(spec.trials_on(store.content()), store)
        return pd.concat([layers, gather_side_effects(spec, store, images=5)])

    in_both_places(text, tmp_path, monkeypatch, further)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory from /proc")
def test_the_memory_of_a_study_hardly_grows_with_its_images() -> None:
    found = large_study.run((1000, 5000), classes=10, in_memory=0, trimmed=True)
    assert found["bytes per image"] < 12 * large_study.SIZE**2 / 4
