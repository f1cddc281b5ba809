"""``dpmi match``: defences at equal accuracy, or at equal epsilon."""
# ruff: noqa: PLC0415

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpmi.cli.arguments import DataRoot, Executor, Replace, Workers, check_workers, integer, number
from dpmi.cli.output import console, tell

if TYPE_CHECKING:
    from rich.table import Table

    from dpmi.study import Failure, Job, Match, MatchedStrength
    from dpmi.study.match import Train


def match(
    study: Annotated[
        Path,
        typer.Argument(
            help="Study file. A strength that is missing or a list is searched; a number is fixed."
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the study; an interrupted match resumes.")],
    accuracy: Annotated[
        float | None, typer.Option(parser=number, help="Target: mean test accuracy in (0, 1), such as 0.97.")
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            parser=number,
            help="Alternative target: epsilon > 0, one unit replaced. It needs no training and reads no data.",
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(parser=number, help="Maximum deviation from the target accuracy.")
    ] = 0.005,
    trials: Annotated[
        int, typer.Option(parser=integer, help="Maximum number of strengths to try per defence.")
    ] = 8,
    data_root: DataRoot = None,
    workers: Workers = None,
    executor: Executor = "local",
    replace: Replace = False,
) -> None:
    """Find the strengths at which all defences of a study have the same accuracy or the same epsilon."""
    if (accuracy is None) == (epsilon is None):
        raise ValueError("give exactly one of --accuracy and --epsilon")
    check_workers(workers)

    from dpmi.study import (
        AccuracyTarget,
        Machines,
        MatchedStrength,
        Store,
        match_accuracy,
        match_epsilon,
        parse_match,
        prepare,
        read,
        train_models,
    )

    target = None if accuracy is None else AccuracyTarget(accuracy, tolerance, trials)
    machines = Machines(workers=workers, executor=executor)
    machines.check()
    text = read(study, parse_match)
    opened = parse_match(text)
    failures: list[Failure] = []
    if target is not None:
        root = None if data_root is None else str(data_root)
        on = prepare(opened.weakest, root=root)
        opened = opened.on(on)
        store = Store.create(out, text, replace=replace)
        store.save_content(on)
        train = partial(train_models, store=store, root=root, machines=machines)
        outcomes = match_accuracy(opened, store, target, train=_with_progress(opened.name, train))
        found = {
            label: outcome for label, outcome in outcomes.items() if isinstance(outcome, MatchedStrength)
        }
        failures = [outcome for outcome in outcomes.values() if not isinstance(outcome, MatchedStrength)]
        strengths = {label: outcome.strength for label, outcome in found.items()}
        console().print(_accuracies(opened, found))
    else:
        strengths = match_epsilon(opened, epsilon or 0.0)
        store = Store.create(out, text, replace=replace)
        console().print(_epsilons(opened, strengths))
    tell(failures)
    if strengths:
        matched_on = f"epsilon {epsilon:g}" if target is None else f"accuracy {target.accuracy:g}"
        path = store.save_matched(opened.study(matched_on, strengths))
        print(
            "run the matched study, which reuses these models: "
            + shlex.join(["dpmi", "run", str(path), "--out", str(out)])
        )
    if failures:
        raise SystemExit(1)


def _with_progress(name: str, train: Callable[..., list[Failure]]) -> Train:
    """Show a progress bar for every round."""
    from dpmi.cli.progress import StudyProgress

    def with_progress(round_: int, jobs: Sequence[Job]) -> list[Failure]:
        title = f"{name}, round {round_}"
        with StudyProgress(title, jobs, stages=attrgetter("training_stages")) as progress:
            return train(jobs, report=progress.report)

    return with_progress


def _accuracies(opened: Match, found: Mapping[str, MatchedStrength]) -> Table:
    from dpmi.metrics import student_interval
    from dpmi.report import words

    table = _table("test accuracy", "trials", "")
    for candidate in opened.candidates:
        if candidate.label in found:
            end = found[candidate.label]
            accuracy = words.percent_interval(*student_interval(end.accuracies, (0.0, 1.0)))
            table.add_row(
                candidate.label,
                candidate.field,
                words.setting(end.strength),
                accuracy,
                f"{end.trials}",
                end.note,
            )
    return table


def _epsilons(opened: Match, strengths: Mapping[str, float]) -> Table:
    from dpmi.defenses import private_part
    from dpmi.report import words

    table = _table("epsilon refers to")
    for candidate in opened.candidates:
        private = private_part(candidate.jobs[0].defense)
        claim = (
            "no guarantee"
            if private is None
            else str(words.Claim(private.unit, "replace", private.delta, "tight"))
        )
        table.add_row(candidate.label, candidate.field, words.setting(strengths[candidate.label]), claim)
    return table


def _table(*columns: str) -> Table:
    from rich.table import Table

    return Table("defence", "strength", "", *columns, box=None, header_style="bold", pad_edge=False)
