"""The package that docs/plugins.md shows, installed and used."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from accountants import epsilon
from dpmi import attacks, data, defenses, metrics, models
from dpmi.defenses import Recipe

PAGE = Path(__file__).parents[2].joinpath("docs", "plugins.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL))


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What pip leaves behind: the modules, and a dist-info folder with the entry points."""
    for path, code in BLOCKS.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(code, encoding="utf-8")
    info = tmp_path / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n")
    entries = BLOCKS["pyproject.toml"].replace("project.entry-points.", "").replace('"', "")
    (info / "entry_points.txt").write_text(entries)
    monkeypatch.syspath_prepend(tmp_path)
    yield entries
    for name in [name for name in sys.modules if name.split(".")[0] == "my_package"]:
        del sys.modules[name]


def test_every_plugin_is_found_by_its_name_and_works(entries: str) -> None:
    groups = re.findall(r"^\[dpmi\.(\w+)\]$", entries, flags=re.MULTILINE)
    assert sorted(groups) == ["accountants", "attacks", "data", "defenses", "metrics", "models"]

    split = data.load("thirds")
    assert torch.equal(split.train.images, data.load("digits", seed=3).train.images)
    model = models.build("flat", image_shape=split.image_shape, num_classes=split.num_classes, seed=0)
    recipe = Recipe(steps=3, learning_rate=0.1)
    trained = defenses.train(defenses.get("small-logits")(weight=0.2), model, split.train, recipe, seed=0)
    recons = attacks.get("noise")().run(
        trained.model,
        torch.arange(2),
        image_shape=split.image_shape,
        generator=torch.Generator().manual_seed(0),
    )
    assert recons.images.shape == (2, *split.image_shape)
    found = metrics.added_columns(recons.images, recons.labels, split.train)
    torch.testing.assert_close(found["brightness"], recons.images.double().flatten(1).mean(dim=1))
    settings = {"sampling_rate": 0.5, "noise_multiplier": 2.0, "steps": 7, "delta": 1e-3, "unit": "user"}
    counted = epsilon(**settings, accountant="count")
    assert (counted.epsilon, counted.is_guarantee, counted.caveats) == (7.0, False, ("a count of steps",))


def test_all_code_of_the_page_is_installed() -> None:
    assert PAGE.count("```") == 2 * len(BLOCKS)
    assert len(BLOCKS) == 1 + 6
