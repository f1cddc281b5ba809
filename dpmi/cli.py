"""The command line: ``dpmi epsilon | curve | run | report | list``.

Every mistake of a user ends in one line on stderr and exit code 2. Nothing here imports torch before a command
needs it, so that ``dpmi epsilon`` answers at once.
"""

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
    from accountants import Guarantee
    from dpmi.study import Store, StudySpec

app = typer.Typer(
    name="dpmi",
    help="Differential privacy for whole classes, measured against model inversion.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

PRESETS = ("digits", "mnist", "faces94")

DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder that holds the data sets; default: the environment variable DPMI_DATA."),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Trials at a time; default: one per core.")]


@app.command()
def epsilon(
    sampling_rate: Annotated[float, typer.Option(help="q in (0, 1]: probability of drawing one bucket.")],
    noise_multiplier: Annotated[float, typer.Option(help="sigma >= 0: noise std / max_grad_norm.")],
    steps: Annotated[int, typer.Option(help="Number of logical steps T >= 0.")],
    delta: Annotated[float, typer.Option(help="delta in (0, 1).")],
    unit: Annotated[str, typer.Option(help="What one bucket is: class, subclass, record, user, ...")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects.")] = False,
) -> None:
    """What (epsilon, delta) a run promises to one bucket, by every accountant and both adjacencies."""
    from accountants import ACCOUNTANTS, ADJACENCIES, Ledger, BucketMechanism

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
    text = resources.files("dpmi.study").joinpath("presets", f"{data}.toml").read_text(encoding="utf-8")
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
    from dpmi.study import Store, parse

    store = Store.open(directory)
    _write_report(parse(store.spec_text), store)


@app.command(name="list")
def list_() -> None:
    """Every data set, defence, attack, metric and model by name."""
    from rich.console import Console
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
    Console().print(table)


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
        _fail(error.format_message(), 2)


def _fail(message: str, code: int) -> None:
    print("dpmi: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(code)


def _study(text: str, out: Path, data_root: Path | None, workers: int | None) -> None:
    from dpmi.study import Store, parse, pending, run
    from dpmi.study.progress import StudyProgress

    spec = parse(text)
    store = Store.create(out, text)
    root = None if data_root is None else str(data_root)
    with StudyProgress(spec.name, pending(spec, store)) as progress:
        failures = run(spec, store, root=root, workers=workers, report=progress.report)
    for failure in failures:
        print(f"dpmi: {failure.label}: {failure.message}", file=sys.stderr)
    _write_report(spec, store)
    if failures:
        raise SystemExit(1)


def _write_report(spec: StudySpec, store: Store) -> None:
    from dpmi.report import write
    from dpmi.study import gather

    page = write(gather(spec, store), store.root)
    print(f"report: {page}")


def _print_guarantees(found: list[Guarantee]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("accountant", "adjacency", "unit", "epsilon", "delta", "is it a guarantee?", box=None)
    for g in found:
        value = "inf" if math.isinf(g.epsilon) else f"{g.epsilon:.4g}"
        table.add_row(g.accountant, g.adjacency, g.unit, value, f"{g.delta:g}", "yes" if g.is_guarantee else "no")
    console = Console()
    console.print(table)
    conditions = {(c.statement, c.detail): c for g in found for c in g.conditions}
    for c in conditions.values():
        console.print(f"  theorem1 needs {c.statement}: {'holds' if c.holds else 'FAILS'} ({c.detail})", highlight=False)
    for caveat in dict.fromkeys(c for g in found for c in g.caveats):
        console.print(f"  note: {caveat}", highlight=False)


def _summary(plugin: type) -> str:
    """The first line of a plug-in's docstring."""
    return (plugin.__doc__ or "").strip().partition("\n")[0]


if __name__ == "__main__":
    main()
