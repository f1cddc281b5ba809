"""Importing the toolbox, which configures logging anew, leaves the logging of the process as it was.

Modules: dpmi/metrics/robustness.py.
"""

from __future__ import annotations

import json
import logging.config
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import dpmi
from dpmi.metrics import robustness

if find_spec("art") is None:
    pytest.skip("the extra `robustness` is not installed", allow_module_level=True)

# An import happens once in a process, so this is one of its own.
PROGRAM = """
import io, json, logging.config, pathlib, sys

capture = sys.stderr = io.StringIO()  # absl's handler is made with it, and closes it where another is current
from absl import logging as absl_logging
sys.stderr = sys.__stderr__

import torch
from torch import nn
from dpmi.data import ImageSet
from dpmi.metrics.robustness import perturb

absl_logging.use_absl_handler()
file = logging.FileHandler(sys.argv[1], mode="w")  # once closed, it writes no more
file.name = "the caller's"
logging.getLogger().addHandler(file)
logging.getLogger("tests").setLevel("ERROR")  # the toolbox configures a logger of this name
logging.getLogger("tests").propagate = False
logging.getLogger("caller").disabled = True


def facts():
    loggers = [logging.getLogger(name) for name in ("root", "tests", "caller", "absl", "dpmi")]
    return {
        "loggers": [(x.level, x.propagate, x.disabled, [*x.handlers]) for x in loggers],
        "by name": dict(logging._handlers),
        "to close at the end": logging._handlerList[:count],
        "configuration": logging.config.dictConfig,
    }


count = len(logging._handlerList)
before = facts()
assert "art" not in sys.modules
model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
perturb("fgsm", model, ImageSet(torch.zeros(1, 1, 2, 2), torch.tensor([0])), seed=0)
assert "art" in sys.modules

after = facts()
logging.getLogger("elsewhere").warning("to the file")
logging.getLogger().handlers.clear()
logging.getLogger("art").warning("to nobody")
print(json.dumps({
    "changed": [name for name, fact in after.items() if fact != before[name]],
    "file": pathlib.Path(sys.argv[1]).read_text(),
    "closed": capture.closed,
}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program saw, and what it wrote to stderr."""
    path = tmp_path_factory.mktemp("logs") / "caller.log"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, path],
        cwd=Path(dpmi.__file__).parents[1],
        check=True,
        capture_output=True,
        text=True,
    )
    return {**json.loads(done.stdout.splitlines()[-1]), "stderr": done.stderr}


def test_loggers_and_handlers_are_those_from_before(found: dict[str, Any]) -> None:
    assert found["changed"] == []


def test_a_log_file_is_still_written(found: dict[str, Any]) -> None:
    assert "to the file" in found["file"].splitlines()


def test_the_stream_of_another_library_stays_open(found: dict[str, Any]) -> None:
    """absl comes with dp-accounting, and its handler closes its stream with itself."""
    assert not found["closed"]


def test_the_toolbox_is_silent(found: dict[str, Any]) -> None:
    assert "to nobody" not in found["stderr"]


def test_configuration_of_another_thread_meanwhile_takes_place(monkeypatch: pytest.MonkeyPatch) -> None:
    configured: list[dict[str, Any]] = []
    monkeypatch.setattr(logging.config, "dictConfig", configured.append)
    with robustness._logging_kept():
        other = threading.Thread(target=lambda: logging.config.dictConfig({"version": 1}))
        other.start()
        other.join()
    assert configured == [{"version": 1}]
    logging.config.dictConfig({"version": 1, "incremental": True})
    assert len(configured) == 2


def test_configuration_is_put_back_when_the_import_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    before = logging.config.dictConfig
    with pytest.raises(ImportError), robustness._logging_kept():
        raise ImportError("broken")
    assert logging.config.dictConfig is before
