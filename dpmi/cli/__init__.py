"""The command line.

Every user error gives one line on stderr and exit code 2. Slow imports such as torch happen only in the commands that
need them, so that ``dpmi epsilon`` is fast. MIA in help texts stands for model inversion attack.
"""

from __future__ import annotations

import sys
import warnings
from typing import NoReturn

import typer

from dpmi.cli import (
    accounting,
    audit,
    explain,
    layers,
    match,
    plan,
    side_effects,
    statement,
    studies,
    units,
)

app = typer.Typer(
    name="dpmi",
    help="Differential privacy for whole classes, tested with model inversion attacks (MIA).",
    no_args_is_help=True,
    add_completion=False,
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
    studies.curve,
    studies.run,
    studies.measure,
    match.match,
    studies.report,
    layers.layers,
):
    app.command()(command)
app.command(name="side-effects")(side_effects.side_effects)
app.command(name="list")(studies.list_)


# The code that typer returns for Ctrl-C.
_INTERRUPTED = 130


def main() -> None:
    """Run the command line; a user error gives one line, never a traceback."""
    warnings.showwarning = lambda message, *_: print(f"dpmi: warning: {message}", file=sys.stderr)
    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        _fail("aborted", 130)
    except (ValueError, TypeError, RuntimeError, OSError) as error:
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
