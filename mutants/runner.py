"""Plants faults in copies of the packages, and runs the tests on the copies."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from multiprocessing import get_context, set_start_method
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from .fault import Fault

ROOT = Path(__file__).parents[1]
COPIED = ("accountants", "dpmi", "tests")
LIMIT = 300.0
"""Time limit of the tests of one fault, in seconds."""

# Every test run is a fork of a process that has already made the slow imports: this takes two seconds instead of ten.
_PROCESSES = get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    ["dp_accounting.pld.privacy_loss_distribution", "hypothesis", "opacus", "pytest", "scipy.stats", "torch"]
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of the tests for one fault.

    Args:
        fault: the planted fault.
        caught_by: the first test that failed; None if all passed, so the fault survived.
        seconds: time in seconds, including the start of the interpreter.
    """

    fault: Fault
    caught_by: str | None
    seconds: float


def run(
    faults: Sequence[Fault], *, workers: int | None = None, tell: Callable[[Outcome], None] | None = None
) -> list[Outcome]:
    """Plant every fault in its own copy, and return the outcomes in the order of the faults.

    Args:
        faults: the faults to plant.
        workers: copies that are tested at a time; one per core by default.
        tell: called with each outcome, in the order of the faults, as soon as it and the earlier ones are known.

    Raises:
        ValueError: a fault does not fit its file.
        RuntimeError: the tests of a fault could not be run, or took longer than ``LIMIT``.
    """
    for fault in faults:  # before anything is run
        fault.planted((ROOT / fault.path).read_text(encoding="utf-8"))
    outcomes = []
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for outcome in pool.map(_attempt, faults):
            outcomes.append(outcome)
            if tell is not None:
                tell(outcome)
    return outcomes


def check_tests(faults: Iterable[Fault], *, workers: int | None = None) -> None:
    """Run the tests of all faults on an unchanged copy, because a test that always fails would find nothing.

    Raises:
        RuntimeError: a test fails, or could not be run.
    """
    by_file: dict[str, set[str]] = {}
    for test in (test for fault in faults for test in fault.tests):
        by_file.setdefault(test.partition("::")[0], set()).add(test)
    # If a whole file is listed, all of its tests run.
    tests = [[file] if file in names else sorted(names) for file, names in by_file.items()]
    with TemporaryDirectory() as folder, ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        _copy(Path(folder))
        for failed in pool.map(partial(_first_failure, Path(folder)), tests):
            if failed is not None:
                raise RuntimeError(f"{failed} fails without any fault; fix the test first")


def _attempt(fault: Fault) -> Outcome:
    start = time.monotonic()
    with planted_copy(fault) as folder:
        try:
            caught_by = _first_failure(folder, fault.tests)
        except RuntimeError as error:
            raise RuntimeError(f"fault {fault.name!r} in {fault.path}: {error}") from error
    return Outcome(fault=fault, caught_by=caught_by, seconds=time.monotonic() - start)


@contextmanager
def planted_copy(fault: Fault) -> Iterator[Path]:
    """A temporary folder with the packages and their tests, and the fault in them."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        _copy(folder)
        path = folder / fault.path
        path.write_text(fault.planted(path.read_text(encoding="utf-8")), encoding="utf-8")
        yield folder


def _copy(folder: Path) -> None:
    for package in COPIED:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)


def _first_failure(folder: Path, tests: Sequence[str]) -> str | None:
    """Run the tests in a copy, and return which one failed first; None if none did."""
    receiver, sender = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=_test, args=(folder, tests, sender))
    process.start()
    sender.close()  # only the process keeps this end, so that its death ends the connection
    try:
        if not receiver.poll(LIMIT):
            raise RuntimeError(f"{' '.join(tests)} took longer than {LIMIT:g} s; list faster tests")
        code, failed, output = receiver.recv()
    except EOFError:
        code, failed, output = None, None, "the process died"
    finally:
        process.kill()
        process.join()
    if code not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        raise RuntimeError(
            f"pytest could not run {' '.join(tests)} (exit code {code}); the code with the fault must still run, and "
            f"its tests must exist:\n{output[-4000:]}"
        )
    first: str | None = failed
    return first


def _test(folder: Path, tests: Sequence[str], sender: Connection) -> None:
    """Run the tests in this new process, and send the exit code, the first failed test, and the output."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))  # before the installed packages
    # These apply to processes that tests start.
    os.environ.update(PYTHONPATH=str(folder), PYTHONDONTWRITEBYTECODE="1")
    sys.dont_write_bytecode = True
    set_start_method(None, force=True)  # resets to the platform's default
    first, output = _First(), StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests], plugins=[first])
    sender.send((int(code), first.failed, output.getvalue()))


class _First:
    """A plug-in of pytest that stores the first failed test."""

    def __init__(self) -> None:
        self.failed: str | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Store the first failure."""
        if report.failed and self.failed is None:
            self.failed = report.nodeid
