"""Studies on a Ray cluster: a real one, of two nodes with one worker each.

Modules: dpmi/study/executors.py, dpmi/study/pool.py.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from dpmi.cli import app
from dpmi.study import (
    Failure,
    Job,
    Machines,
    Store,
    StoreError,
    executors,
    gather,
    parse,
    pending,
    pool,
    prepare,
    run,
)

from .conftest import TINY, comparable, jobs_of, run_study

SHORT = TINY.replace("[0.5, 1.0]", "0.5")


@pytest.fixture
def in_worker(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Failure | None]], None]:
    """Replace what runs a job in a worker. Only a function within a function travels to the workers by value."""

    def replace(function: Callable[..., Failure | None]) -> None:
        monkeypatch.setattr(pool, "_guarded", function)

    return replace


def test_same_numbers_from_two_nodes(cluster: str, tmp_path: Path, in_worker: Any) -> None:
    import ray

    _, local = run_study(SHORT, tmp_path / "local")

    def noted(job: Job, mark: Path, work: Callable[..., None], *rest: Any) -> Failure | None:
        def note(*args: Any, **kwargs: Any) -> None:
            node = ray.get_runtime_context().get_node_id()
            Path(tmp_path, job.key).write_text(f"{node} {os.getpid()} {torch.get_num_threads()}")
            work(*args, **kwargs)

        there = importlib.import_module("dpmi.study.pool")
        return there._guarded(job, mark, note, *rest)  # type: ignore[no-any-return]

    in_worker(noted)
    told: dict[str, set[str]] = {}

    def report(label: str, what: str, done: int, total: int) -> None:
        if done == total:
            told.setdefault(label, set()).add(what)

    spec, store = parse(SHORT), Store.create(tmp_path / "study", SHORT)
    assert run(spec, store, machines=Machines(executor="ray", address=cluster), report=report) == []
    assert told == {job.label: {"training", "enhanced", "measuring"} for job in spec.jobs}
    assert not list(store.root.rglob(".partial-*"))
    assert not ray.is_initialized(), "what it connected it disconnects"

    found = gather(spec, store)
    pd.testing.assert_frame_equal(comparable(found.trials), comparable(local.trials), check_exact=True)
    pd.testing.assert_frame_equal(found.per_class, local.per_class, check_exact=True)

    nodes, processes, threads = zip(
        *(Path(tmp_path, job.key).read_text().split() for job in jobs_of(SHORT)), strict=True
    )
    assert len(set(nodes)) == len(set(processes)) == 2
    assert str(os.getpid()) not in processes
    assert set(threads) == {"1"}


def test_a_worker_that_dies_ends_the_study_with_one_error(
    cluster: str, tmp_path: Path, in_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deadly(job: Job, mark: Path, *rest: Any) -> Failure | None:
        if job.seed == 1:
            while not list(mark.parent.glob("trials/[!.]*/measured.json")):
                time.sleep(0.02)
            os._exit(1)
        return importlib.import_module("dpmi.study.pool")._guarded(job, mark, *rest)  # type: ignore[no-any-return]

    in_worker(deadly)
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    spec, store = parse(SHORT), Store.create(tmp_path, SHORT)
    before = threading.active_count()
    with pytest.raises(
        RuntimeError, match=r"Completed trials are stored.* ActorDiedError: .* worker process has died"
    ):
        run(spec, store, machines=Machines(executor="ray"), report=lambda *_: None)
    assert threading.active_count() == before, "a thread left behind would connect to Ray again"
    assert 1 <= len(gather(spec, store).trials) < len(spec.trials)
    monkeypatch.undo()
    assert run(spec, store, machines=Machines(workers=1)) == []
    assert pending(spec, store, prepare(spec)) == []


@pytest.mark.slow
def test_a_node_that_does_not_see_the_folder_is_named(cluster: str, tmp_path: Path, in_worker: Any) -> None:
    """Also: a connection that the caller made is used, and left open."""
    import ray

    def elsewhere(job: Job, mark: Path, *rest: Any) -> Failure | None:
        there = importlib.import_module("dpmi.study.pool")
        return there._guarded(job, mark.with_name("not there"), *rest)  # type: ignore[no-any-return]

    in_worker(elsewhere)
    with ray.init(cluster, log_to_driver=False), pytest.raises(StoreError) as error:
        try:
            machines = Machines(workers=1, executor="ray", address="never used")
            run(parse(SHORT), Store.create(tmp_path, SHORT), machines=machines)
        finally:
            assert ray.is_initialized()
    assert f"folder {tmp_path} is not the same on {platform.node()}" in str(error.value)


def test_without_a_cluster_one_is_started(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    init, opened = ray.init, []

    def no_cluster(address: str, num_cpus: int | None = None, **options: Any) -> None:
        opened.append((address, num_cpus))
        if address == "auto":
            raise ConnectionError("Could not find any. Look again.")
        init(cluster)  # it takes seconds to start another

    monkeypatch.setattr(ray, "init", no_cluster)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    said = r"no running Ray cluster found \(Could not find any\); starting one on this machine with 1 CPUs"
    with pytest.warns(UserWarning, match=said), executors.EXECUTORS["ray"](1, None, 5):
        assert ray.is_initialized()
    assert opened == [("auto", None), ("local", 1)]
    assert not ray.is_initialized()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1", "127.0.0.1:port"])
def test_an_address_where_nobody_answers(tmp_path: Path, address: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(
        ConnectionError, match=rf"no Ray cluster answers at '{address}' \(.*\); give host:port"
    ):
        run(parse(SHORT), Store.create(tmp_path, SHORT), machines=Machines(executor="ray", address=address))


def test_a_command_whose_cluster_does_not_answer_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    (tmp_path / "study.toml").write_text(SHORT, encoding="utf-8")
    command = ["run", str(tmp_path / "study.toml"), "--executor", "ray", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, ConnectionError)
    assert not (tmp_path / "out").exists()


def test_ray_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RuntimeError, match=r"not installed: pip install 'dpmi\[ray\]'"):
        run(parse(SHORT), Store.create(tmp_path, SHORT), machines=Machines(executor="ray"))


def test_unknown_executor(tmp_path: Path) -> None:
    message = "executor is 'dask'; it must be one of local, ray"
    with pytest.raises(ValueError, match=message):
        run(parse(SHORT), Store.create(tmp_path / "store", SHORT), machines=Machines(executor="dask"))
    for command in (["curve"], ["run", str(tmp_path / "store" / "study.toml")]):
        out = tmp_path / "out"
        result = CliRunner().invoke(app, [*command, "--out", str(out), "--executor", "dask"])
        assert str(result.exception) == message
        assert not out.exists()
