"""``dpmi dossier``: one document about one released model, for a data-protection officer."""
# ruff: noqa: PLC0415

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from dpmi.cli.arguments import integer, number
from dpmi.cli.statement import read_accounts
from dpmi.cli.units import counts
from dpmi.whole_files import sha256

if TYPE_CHECKING:
    from dpmi.privacy import Statement
    from dpmi.privacy.audit.rows import Row
    from dpmi.report.page.dossier import Dossier


def dossier(
    run: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of a finished study, or of `dpmi attack`; leave it out if there is none."
        ),
    ] = None,
    *,
    setting: Annotated[
        str | None, typer.Option(help="Defence of the model, with its strength, as the report names it.")
    ] = None,
    seed: Annotated[int | None, typer.Option(parser=integer, help="Seed of the model.")] = None,
    account: Annotated[
        list[Path] | None,
        typer.Option(
            help="File with engine.account.to_json(), of a model that no study trained; may be repeated."
        ),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(parser=number, help="delta in (0, 1), for --account; a study has its own.")
    ] = None,
    audit: Annotated[
        list[Path] | None, typer.Option(help="File with what `dpmi audit --json` printed; may be repeated.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="The released file of weights, to name and to hash; a folder has its own."),
    ] = None,
    records_per_unit: Annotated[
        list[str] | None,
        typer.Option(help="A unit and the most records that one has, such as user=10; may be repeated."),
    ] = None,
    not_accounted: Annotated[
        list[str] | None,
        typer.Option(
            help="Another use of the private records, which no epsilon covers, as text; may be repeated."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of dossier.html and dossier.pdf; default: RUN, or this folder."),
    ] = None,
) -> None:
    """Write a document about one released model: what it promises, what attacks got, and what it does not promise."""
    from dpmi.report import pdf
    from dpmi.report.write import write_dossier

    if bool(account) != (delta is not None):
        missing = "--delta" if account else "--account"
        raise ValueError(f"{missing} is missing; give --account and --delta together")
    own = _Own(account or [], delta or 0.0, not_accounted or [])
    common: dict[str, Any] = {
        "audits": _audits(audit or []),
        "records_per_unit": counts(records_per_unit or []),
    }
    if run is not None:
        if model is not None:
            raise ValueError(f"--model is {model}, but {run} has its own model; omit --model")
        found = _of_folder(run, setting, seed, own, common)
    else:
        for name, value in (("--setting", setting), ("--seed", seed)):
            if value is not None:
                raise ValueError(f"{name} is {value!r}, but there is no RUN; give the folder of a study")
        found = _of_accounts(own, model, common)
    page, paper = write_dossier(found, out or run or Path())
    print(f"dossier: {page}")
    if paper is None:
        print(f"dpmi: no PDF was written; {pdf.INSTALL}", file=sys.stderr)
    else:
        print(f"PDF: {paper}")


class _Own(NamedTuple):
    """What a team says of a model that no study trained."""

    accounts: list[Path]
    delta: float
    not_accounted: list[str]

    @property
    def statement(self) -> Statement | None:
        from dpmi.privacy import Statement

        if not self.accounts:
            return None
        return Statement(
            accounts=read_accounts(self.accounts), delta=self.delta, not_accounted=self.not_accounted
        )

    @property
    def hashes(self) -> dict[str, str]:
        return {f"account, {path}": sha256(path) for path in self.accounts}


def _of_accounts(own: _Own, model: Path | None, common: dict[str, Any]) -> Dossier:
    from dpmi.report.page.dossier import Dossier

    if not own.accounts:
        raise ValueError(
            "there is no model; give the folder of a study or of dpmi attack, or --account and --delta"
        )
    hashes = {} if model is None else {f"file of weights, {model}": sha256(model)}
    name = own.accounts[0].stem if model is None else model.name
    return Dossier(name=name, statement=own.statement, hashes={**hashes, **own.hashes}, **common)


def _of_folder(
    run: Path, setting: str | None, seed: int | None, own: _Own, common: dict[str, Any]
) -> Dossier:
    from dpmi.privacy import Statement
    from dpmi.report.page.dossier import Dossier
    from dpmi.study import Store, parse, released

    if not run.is_dir():
        raise ValueError(f"RUN is {run}, which is no folder; give the folder of a study or of dpmi attack")
    store = Store.open(run)
    spec = parse(store.spec_text)
    if spec.checkpoint is None:
        for option, value in (("--account", own.accounts), ("--not-accounted", own.not_accounted)):
            if value:
                raise ValueError(f"{option} is given, but {run} is a study, which has its own; omit {option}")
    found = released(spec, store, setting=setting, seed=seed)
    name, statement = f"{found.setting}, seed {found.seed} (study {spec.name})", own.statement
    if spec.checkpoint is not None:
        name = Path(spec.checkpoint).name
    elif found.account is not None:
        statement = Statement(
            accounts=(found.account,),
            delta=found.delta,
            not_accounted=found.not_accounted,
            public_parts=found.public_parts,
        )
    return Dossier(
        name=name,
        statement=statement,
        results=found.results,
        trained=found.trained,
        hashes={**found.hashes, **own.hashes},
        **common,
    )


def _audits(paths: list[Path]) -> list[Row]:
    from accountants.sealed_json import inside
    from dpmi.privacy.audit.rows import read_rows

    found: list[Row] = []
    for path in paths:
        with inside(str(path)):
            found += read_rows(path.read_text(encoding="utf-8"))
    return found
