"""``dpmi curve | run | measure | report``: run studies and write their reports."""
# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpmi.cli.arguments import DataRoot, Executor, Replace, Workers, check_workers
from dpmi.cli.output import tell

if TYPE_CHECKING:
    from dpmi.study import Failure, Results, Store

_PRESETS = resources.files("dpmi") / "study" / "presets"
PRESETS = sorted(Path(preset.name).stem for preset in _PRESETS.iterdir() if preset.name.endswith(".toml"))


def curve(
    *,
    data: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "digits",
    out: Annotated[Path, typer.Option(help="Folder of the study; an interrupted study resumes.")] = Path(
        "runs/curve"
    ),
    data_root: DataRoot = None,
    workers: Workers = None,
    executor: Executor = "local",
    replace: Replace = False,
) -> None:
    """Run a built-in study of epsilon against MIA distance: train, attack, measure, report."""
    if data not in PRESETS:
        raise ValueError(f"--data is {data!r}; it must be one of {', '.join(PRESETS)}")
    text = _PRESETS.joinpath(f"{data}.toml").read_text(encoding="utf-8")
    _study(text, out, data_root, workers, executor, replace=replace)


def run(
    *,
    study: Annotated[Path, typer.Argument(help="Study file in TOML, such as studies/mnist.toml.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study; default: runs/ plus the name of the file.")
    ] = None,
    data_root: DataRoot = None,
    workers: Workers = None,
    executor: Executor = "local",
    replace: Replace = False,
) -> None:
    """Run the missing trials of a study and write its report."""
    from dpmi.study import read

    _study(read(study), out or Path("runs") / study.stem, data_root, workers, executor, replace=replace)


def measure(
    directory: Annotated[Path, typer.Argument(help="Folder of a finished or interrupted study.")],
    data_root: DataRoot = None,
    workers: Workers = None,
    executor: Executor = "local",
) -> None:
    """Compute outdated metrics of a study again, without training or attacking its models, and write its report."""
    from dpmi.cli.progress import StudyProgress
    from dpmi.study import Machines, Store, gather, measure, parse, unmeasured

    check_workers(workers)
    machines = Machines(workers=workers, executor=executor)
    store = Store.open(directory)
    spec = parse(store.spec_text)
    root = None if data_root is None else str(data_root)
    stages = attrgetter("measuring_stages")
    with StudyProgress(spec.name, unmeasured(spec, store), stages=stages) as progress:
        failures = measure(spec, store, root=root, machines=machines, report=progress.report)
    _finish(failures, gather(spec, store), store)


def report(
    directory: Annotated[Path, typer.Argument(help="Folder of a finished or interrupted study.")],
) -> None:
    """Write the tables, plots and HTML page of a study again."""
    from dpmi.study import Store, gather, parse

    store = Store.open(directory)
    _write_report(gather(parse(store.spec_text), store), store)


def _study(
    text: str, out: Path, data_root: Path | None, workers: int | None, executor: str, *, replace: bool
) -> None:
    """Run the missing trials of a study and write its report."""
    _finish(*completed(text, out, data_root, workers, executor, replace=replace))


def completed(
    text: str, out: Path, data_root: Path | None, workers: int | None, executor: str, *, replace: bool
) -> tuple[Sequence[Failure], Results, Store]:
    """Run the missing trials of a study; return its failures, all its results and its folder."""
    from dpmi.cli.progress import StudyProgress
    from dpmi.study import Machines, Store, gather, parse, pending, prepare, run

    check_workers(workers)
    machines = Machines(workers=workers, executor=executor)
    machines.check()
    spec = parse(text)
    root = None if data_root is None else str(data_root)
    on = prepare(spec, root=root)  # an error here leaves the folder unchanged
    store = Store.create(out, text, replace=replace)
    with StudyProgress(spec.name, pending(spec, store, on)) as progress:
        failures = run(spec, store, on=on, root=root, machines=machines, report=progress.report)
    return failures, gather(spec, store), store


def _finish(failures: Sequence[Failure], results: Results, store: Store) -> None:
    """Print the failures, write the report of the finished trials, and exit with 1 after a failure."""
    tell(failures)
    if len(results.trials):
        _write_report(results, store)
    if failures:
        raise SystemExit(1)


def _write_report(results: Results, store: Store) -> None:
    from dpmi.report.write import write

    page = write(results, store.root)
    print(f"report: {page}")
