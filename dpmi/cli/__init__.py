"""The command line.

Every mistake of a user ends in one line on stderr and exit code 2. Nothing here imports torch, or anything else
that is slow to import, before a command needs it, so that ``dpmi epsilon`` answers at once.
"""

from __future__ import annotations

import sys
import warnings
from typing import NoReturn

import typer

from dpmi.cli import accounting, explain, layers, match, plan, side_effects, statement, studies

app = typer.Typer(
    name="dpmi",
    help="Differential privacy for whole classes, measured against model inversion.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    accounting.epsilon,
    accounting.calibrate,
    accounting.reconstruction_bound,
    explain.explain,
    plan.plan,
    statement.statement,
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


# What typer makes of Ctrl-C, and returns.
_INTERRUPTED = 130


def main() -> None:
    """Run the command line; a mistake is one line, never a traceback."""
    warnings.showwarning = lambda message, *_: print(f"dpmi: warning: {message}", file=sys.stderr)
    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        _fail("aborted", 130)
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        _fail(str(error), 2)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not one of click's own
            raise
        _fail(error.format_message() or "name a command", 2)
    if code == _INTERRUPTED:
        _fail("interrupted; what is complete is kept, and the same command goes on from there", code)


def _fail(message: str, code: int) -> NoReturn:
    print("dpmi: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(code)
