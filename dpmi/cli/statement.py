"""``dpmi statement``: the privacy statement of saved accounts."""
# ruff: noqa: PLC0415

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpmi.cli.arguments import AsJson, Delta

if TYPE_CHECKING:
    from dpmi.privacy import Account


def statement(
    accounts: Annotated[
        list[Path],
        typer.Argument(
            metavar="ACCOUNT.json...", help="Files with engine.account.to_json(), one per engine."
        ),
    ],
    *,
    delta: Delta,
    not_accounted: Annotated[
        list[str] | None,
        typer.Option(
            help="Another use of the private records, which no epsilon covers, as text; may be repeated."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the privacy statement of finished training runs; runs on the same partition are composed."""
    # Imports torch.
    from dpmi.privacy import Statement

    found = Statement(accounts=read_accounts(accounts), delta=delta, not_accounted=not_accounted or ())
    print(json.dumps(found.to_dict(), indent=2) if as_json else found.markdown())


def read_accounts(paths: list[Path]) -> list[Account]:
    """Read saved accounts.

    Raises:
        ValueError: a file is given twice, or is no whole account; the error names it.
        OSError: a file cannot be read.
    """
    from accountants.sealed_json import inside
    from dpmi.privacy import Account

    found: dict[Path, Account] = {}
    for path in paths:
        if path.resolve() in found:
            raise ValueError(
                f"{path} is given twice, so its steps would be charged twice; give every file once"
            )
        with inside(str(path)):
            found[path.resolve()] = Account.from_json(path.read_text(encoding="utf-8"))
    return list(found.values())
