"""``dpmi side-effects``: robustness of the models of a study."""
# ruff: noqa: PLC0415

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpmi.cli.arguments import DataRoot, Workers, check_workers, integer
from dpmi.cli.output import tell


def side_effects(
    directory: Annotated[Path, typer.Argument(help="Folder of a finished study.")],
    backdoor: Annotated[
        bool,
        typer.Option(
            "--backdoor", help="Also train every model twice on poisoned data, with BadNets and with Blended."
        ),
    ] = False,
    images: Annotated[
        int,
        typer.Option(
            parser=integer, help="Number of test images to attack, the same images for every model."
        ),
    ] = 500,
    data_root: DataRoot = None,
    workers: Workers = None,
) -> None:
    """Attack every model of a study with FGSM, PGD, BIM and the one-pixel attack; write a table and a plot."""
    from dpmi.cli.progress import StudyProgress
    from dpmi.report.write import write_side_effects
    from dpmi.study import Machines, Store, parse, side_effects

    check_workers(workers)
    store = Store.open(directory)
    spec = parse(store.spec_text)
    jobs = side_effects.unmeasured(spec, store, backdoor=backdoor, images=images)
    stages = len(list(side_effects.questions(images, backdoor=backdoor)))
    with StudyProgress(f"{spec.name}, side effects", jobs, stages=lambda _: stages) as progress:
        failures = side_effects.measure(
            spec,
            store,
            backdoor=backdoor,
            images=images,
            root=None if data_root is None else str(data_root),
            machines=Machines(workers=workers),
            report=progress.report,
        )
    tell(failures)
    table = side_effects.gather_side_effects(spec, store, images=images)
    print(f"side effects: {write_side_effects(table, spec.name, directory)}")
    if failures:
        raise SystemExit(1)
