"""The command line.

Every user error gives one line on stderr and exit code 2. Slow imports such as torch happen only in the commands that
need them, so that ``dpmi epsilon`` is fast. MIA in help texts stands for model inversion attack.
"""

from __future__ import annotations

import io
import sys
import warnings
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from dpmi.cli import (
    accounting,
    attack,
    audit,
    dossier,
    explain,
    layers,
    listing,
    match,
    plan,
    side_effects,
    statement,
    studies,
    units,
)

app = typer.Typer(
    name="dpmi",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (
    accounting.epsilon,
    accounting.calibrate,
    accounting.reconstruction_bound,
    explain.explain,
    units.units,
    plan.plan,
    statement.statement,
    audit.audit,
    attack.attack,
    dossier.dossier,
    studies.curve,
    studies.run,
    studies.measure,
    match.match,
    studies.report,
    layers.layers,
    listing.schema,
):
    app.command()(command)
app.command(name="side-effects")(side_effects.side_effects)
app.command(name="list")(listing.list_)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"dpmi {version('dpmi')}")
        raise typer.Exit


@app.callback()
def about(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Differential privacy for whole classes, tested with model inversion attacks (MIA)."""


# The code that typer returns for Ctrl-C.
_INTERRUPTED = 130


def main() -> None:
    """Run the command line; a user error gives one line, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # its encoding may lack a character, in a pipe on Windows for example
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = lambda message, *_: print(f"dpmi: warning: {message}", file=sys.stderr)
    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        _fail("aborted", 130)
    except (ValueError, TypeError, RuntimeError, OSError, ImportError) as error:
        _fail(str(error), 2)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not an error of click
            raise
        _fail(error.format_message() or "give a command", 2)
    if code == _INTERRUPTED:
        _fail("interrupted; finished trials are stored, run the same command again to resume", code)
    if isinstance(code, int) and code:
        raise SystemExit(code)


def _fail(message: str, code: int) -> NoReturn:
    print("dpmi: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(code)
