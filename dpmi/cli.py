"""The command line: ``dpmi epsilon | curve | run | report | list``.

Every mistake of a user ends in one line on stderr and exit code 2. Nothing here imports torch before a
command needs it, so that ``dpmi epsilon`` answers at once.
"""
# ruff: noqa: PLC0415

from __future__ import annotations

import json
import math
import sys
import warnings
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from accountants import Guarantee
    from dpmi.study import Results, Store

app = typer.Typer(
    name="dpmi",
    help="Differential privacy for whole classes, measured against model inversion.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_PRESETS = resources.files("dpmi") / "study" / "presets"
PRESETS = sorted(Path(preset.name).stem for preset in _PRESETS.iterdir() if preset.name.endswith(".toml"))
# Wide enough for any line of ours: what is no terminal is a file or a pipe, where wrapped lines only hurt.
_FILE_WIDTH = 250


def number(text: str) -> float:
    """Typer's own message does not say which value it could not read."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def integer(text: str) -> int:
    """As :func:`number`."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not an integer") from None


DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder that holds the data sets; default: the environment variable DPMI_DATA."),
]
Workers = Annotated[
    int | None,
    typer.Option(parser=integer, help="Models to train and attack at a time; default: one per core."),
]


@app.command()
def epsilon(
    *,
    sampling_rate: Annotated[
        float, typer.Option(parser=number, help="q in (0, 1]: probability of drawing one bucket.")
    ],
    noise_multiplier: Annotated[
        float, typer.Option(parser=number, help="sigma >= 0: noise std / max_grad_norm.")
    ],
    steps: Annotated[int, typer.Option(parser=integer, help="Number of logical steps T >= 0.")],
    delta: Annotated[float, typer.Option(parser=number, help="delta in (0, 1).")],
    unit: Annotated[str, typer.Option(help="What one bucket is: class, subclass, record, user, ...")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects.")] = False,
) -> None:
    """What (epsilon, delta) a run promises to one bucket, by every accountant and both adjacencies."""
    from accountants import ACCOUNTANTS, ADJACENCIES, BucketMechanism, Ledger

    ledger = Ledger().record(
        BucketMechanism(sampling_rate=sampling_rate, noise_multiplier=noise_multiplier), steps
    )
    found = [
        ledger.guarantee(delta=delta, unit=unit, adjacency=adjacency, accountant=accountant)
        for accountant in ACCOUNTANTS
        for adjacency in ADJACENCIES
    ]
    if as_json:
        print(json.dumps([g.to_dict() for g in found], indent=2))
    else:
        _print_guarantees(found)


@app.command()
def curve(
    data: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "digits",
    out: Annotated[Path, typer.Option(help="Folder for the study; an interrupted one goes on.")] = Path(
        "runs/curve"
    ),
    data_root: DataRoot = None,
    workers: Workers = None,
) -> None:
    """Draw epsilon against MIA distance: train, attack, measure, report."""
    if data not in PRESETS:
        raise ValueError(f"--data is {data!r}; it must be one of {', '.join(PRESETS)}")
    text = _PRESETS.joinpath(f"{data}.toml").read_text(encoding="utf-8")
    _study(text, out, data_root, workers)


@app.command()
def run(
    study: Annotated[Path, typer.Argument(help="A TOML file, such as studies/mnist.toml.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the study; default: runs/ and the file's name.")
    ] = None,
    data_root: DataRoot = None,
    workers: Workers = None,
) -> None:
    """Run a study, or what is still missing of it, and write its report."""
    from dpmi.study import read

    _study(read(study), out or Path("runs") / study.stem, data_root, workers)


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(help="The folder of a finished or interrupted study.")],
) -> None:
    """Write tables, plots and the HTML page of a study again."""
    from dpmi.study import Store, gather, parse

    store = Store.open(directory)
    _write_report(gather(parse(store.spec_text), store), store)


@app.command(name="list")
def list_() -> None:
    """Every data set, defence, attack, metric and model by name."""
    from rich.table import Table

    from dpmi import attacks, data, defenses, metrics, models

    kinds = {
        "data sets": data.DATASETS,
        "defences": {name: _summary(defenses.get(name)) for name in defenses.names()},
        "attacks": {name: _summary(attacks.get(name)) for name in attacks.names()},
        "metrics": metrics.METRICS,
        "models": models.MODELS,
    }
    table = Table("kind", "name", "what it is", box=None, header_style="bold")
    for kind, entries in kinds.items():
        for i, (name, description) in enumerate(entries.items()):
            table.add_row(kind if i == 0 else "", name, description)
    _console().print(table)


def main() -> None:
    """Run the command line; a mistake is one line, never a traceback."""
    warnings.showwarning = lambda message, *_: print(f"dpmi: warning: {message}", file=sys.stderr)
    try:
        app(standalone_mode=False)
    except typer.Abort:
        _fail("aborted", 130)
    except KeyboardInterrupt:
        _fail("interrupted; what is complete is kept, and the same command goes on from there", 130)
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        _fail(str(error), 2)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not one of click's own
            raise
        _fail(error.format_message() or "name a command", 2)


def _fail(message: str, code: int) -> None:
    print("dpmi: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(code)


def _study(text: str, out: Path, data_root: Path | None, workers: int | None) -> None:
    from dpmi.study import Store, gather, parse, pending, run
    from dpmi.study.progress import StudyProgress

    if workers is not None and workers < 1:
        raise ValueError(f"--workers is {workers}; it must be at least 1")
    spec = parse(text)
    store = Store.create(out, text)
    root = None if data_root is None else str(data_root)
    with StudyProgress(spec.name, pending(spec, store)) as progress:
        failures = run(spec, store, root=root, workers=workers, report=progress.report)
    for failure in failures:
        print(f"dpmi: {failure.label}: {' '.join(failure.message.split())}", file=sys.stderr)
    results = gather(spec, store)
    if len(results.trials):
        _write_report(results, store)
    if failures:
        raise SystemExit(1)


def _write_report(results: Results, store: Store) -> None:
    from dpmi.report import write

    page = write(results, store.root)
    print(f"report: {page}")


def _print_guarantees(found: list[Guarantee]) -> None:
    from rich.table import Table

    table = Table("accountant", "adjacency", "unit", "epsilon", "delta", "is it a guarantee?", box=None)
    for g in found:
        # Rounded up, as a bound has to be.
        value = f"{math.ceil(g.epsilon * 1000) / 1000:.3f}" if math.isfinite(g.epsilon) else "inf"
        table.add_row(
            g.accountant, g.adjacency, g.unit, value, f"{g.delta:g}", "yes" if g.is_guarantee else "no"
        )
    _console().print(table)
    for g in found:
        for c in g.conditions:
            holds = "holds" if c.holds else "FAILS"
            print(f"  {g.accountant}, {g.adjacency}: needs {c.statement}: {holds} ({c.detail})")
    for caveat in dict.fromkeys(f"{g.accountant}: {caveat}" for g in found for caveat in g.caveats):
        print(f"  {caveat}")


def _console() -> Console:
    """Of stdout; nothing in it is taken for markup."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _FILE_WIDTH
    return Console(width=width, markup=False, highlight=False)


def _summary(plugin: type) -> str:
    """The first line of a plug-in's docstring."""
    return (plugin.__doc__ or "").strip().partition("\n")[0]


if __name__ == "__main__":
    main()
