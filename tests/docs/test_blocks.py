"""Every block of Python, and every command with its output, on every page: run as a reader would, or named below.

The blocks of a page run one after the other with the names of those before, and what they print is what the page shows.
Numbers may differ, because noise moves them.
"""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import dpmi.attacks
import dpmi.attacks.priors
from dpmi import data
from dpmi.cli import app
from dpmi.defenses import NoDefense
from dpmi.privacy import Partition, PrivacyEngine

from .loop import loop
from .repository import ROOT, files

TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files(".md")}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

#: Pages whose blocks another test runs, because they need files, processes or extras.
ELSEWHERE = {
    "README.md": "tests/test_readme.py",
    "docs/distributed.md": "tests/privacy/test_distributed.py",
    "docs/from_opacus.md": "tests/docs/test_from_opacus_page.py",
    "docs/loops.md": "tests/docs/test_loops_page.py",
    "docs/plugins.md": "tests/docs/test_plugins_page.py",
    "docs/write_a_defense.md": "tests/test_plugin_package.py",
}

#: Blocks that are compiled only: page and a word of the block, and the reason.
NOT_RUN = {
    ("docs/attacks.md", "folder=Path"): "it trains a GAN for minutes; the names below hold a smaller one",
    ("docs/attacks.md", "npm pack"): "it downloads networks that others trained",
    ("docs/performance.md", "benchmarks.peers"): "it installs other libraries into environments of their own",
    (
        "docs/sharded.md",
        "fully_shard(model)",
    ): "it needs several processes; tests/privacy/test_fully_shard.py has them",
    ("docs/studies.md", "vgg16_bn"): "it downloads weights of ImageNet",
}


def digits_loop() -> dict[str, Any]:
    return loop(records=400, features=64, classes=10)


def private_loop() -> dict[str, Any]:
    names = digits_loop()
    partition = Partition.by_class(names.pop("labels"))
    settings = {"sampling_rate": 0.5, "noise_multiplier": 1.0, "max_grad_norm": 1.0}
    model, optimizer, criterion, loader = PrivacyEngine().make_private(
        module=names["model"],
        optimizer=names["optimizer"],
        criterion=names["criterion"],
        data_loader=names["loader"],
        partition=partition,
        **settings,
    )
    return {
        "torch": torch,
        "model": model,
        "optimizer": optimizer,
        "criterion": criterion,
        "loader": loader,
    }


def attacked() -> dict[str, Any]:
    shape = (1, 32, 32)
    target = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 5))
    public = torch.rand(64, *shape, generator=torch.Generator().manual_seed(0))
    attack = dpmi.attacks.Gmi(iterations=2, prior=dpmi.attacks.priors.WganGP(steps=2, width=0.1))
    return {
        "attack": attack,
        "knowledge": attack.fit(target, public=public, image_shape=shape),
        "target": target,
        "classes": torch.arange(5),
        "shape": shape,
        "seed": torch.Generator().manual_seed(0),
        "defense": NoDefense(),
    }


def pictures() -> dict[str, Any]:
    digits = data.load("digits")
    return {"images": digits.train.images[:64], "public_images": digits.public}


#: What a reader has before the first block of a page; nothing on other pages.
BEFORE: dict[str, Callable[[], dict[str, Any]]] = {
    "docs/attacks.md": attacked,
    "docs/audit.md": digits_loop,
    "docs/engine.md": private_loop,
    "docs/features.md": pictures,
    "docs/units.md": lambda: {"messages": ["hello", "ho", "hi", "he"]},
}


def reason(page: str, code: str) -> str | None:
    return next((why for (name, word), why in NOT_RUN.items() if name == page and word in code), None)


def with_blocks(language: str) -> list[str]:
    return [
        page
        for page, text in TEXTS.items()
        if page not in ELSEWHERE and any(found == language for found, _ in BLOCK.findall(text))
    ]


def without_numbers(text: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "0", text)


@pytest.mark.parametrize("page", with_blocks("python"))
def test_python_runs_and_prints_what_is_shown(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = BEFORE.get(page, dict)()
    printed = ""
    for language, block in BLOCK.findall(TEXTS[page]):
        if language == "text":
            shown = without_numbers(block)
            assert without_numbers(printed).endswith(shown), f"{page} shows\n{block}but it prints\n{printed}"
        if language != "python":
            continue
        code = compile(block, page, "exec")
        if reason(page, block) is not None:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)
            exec(code, names)
        printed = capsys.readouterr().out
        said = re.findall(r"^print\(.*\)\s+# (.*)$", block, flags=re.MULTILINE)
        assert [line for line in printed.splitlines() if line in said] == said


@pytest.mark.parametrize("page", with_blocks("console"))
def test_commands_print_what_is_shown(page: str) -> None:
    for language, block in BLOCK.findall(TEXTS[page]):
        if language != "console" or reason(page, block) is not None:
            continue
        command, *shown = block.splitlines()
        arguments = shlex.split(command.removeprefix("$ dpmi "))
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": "120", "TERM": "dumb"})
        assert result.exit_code == 0, result.output
        printed = [line.rstrip() for line in result.output.splitlines()]
        assert printed[: len(shown)] == [line.rstrip() for line in shown]


def test_other_tests_have_the_pages_that_are_left_to_them() -> None:
    for page, test in ELSEWHERE.items():
        assert Path(page).name in ROOT.joinpath(test).read_text(encoding="utf-8"), (
            f"{test} does not run {page}"
        )


def test_a_reason_is_for_a_block_that_exists() -> None:
    blocks = [(page, block) for page, text in TEXTS.items() for _, block in BLOCK.findall(text)]
    for page, word in NOT_RUN:
        assert sum(name == page and word in block for name, block in blocks) == 1, (page, word)
    assert set(BEFORE) <= set(with_blocks("python"))
