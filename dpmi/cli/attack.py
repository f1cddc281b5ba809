"""``dpmi attack``: what inversion attacks get from one trained classifier."""
# ruff: noqa: PLC0415

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpmi.cli.arguments import AsJson, DataRoot, Replace, Workers, check_workers
from dpmi.cli.output import tell
from dpmi.cli.studies import completed

if TYPE_CHECKING:
    import pandas as pd

    from dpmi.study import Results

#: The attack that needs no public images. Its published 5,000 iterations take minutes on a large network.
_ENHANCED = {"name": "enhanced", "iterations": 500}

#: Attacks in seconds, by public images.
_QUICK = ({"name": "wiener"}, {"name": "label-mean"})

#: Attacks in minutes, most with a generator that is trained on the public images first.
_THOROUGH = ({"name": "enhanced"}, {"name": "gmi"}, {"name": "plg-mi"}, {"name": "ppa"})


def attack(
    *,
    checkpoint: Annotated[
        Path,
        typer.Argument(help="File with the weights of a trained classifier: a state dict, or safetensors."),
    ],
    model: Annotated[
        str, typer.Option(help="Its architecture: module:Class, FILE.py:Class, or a name of `dpmi list`.")
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Its training images: a folder with one subfolder per class, in the order of the classes; "
            "module:function, or a name of `dpmi list`."
        ),
    ],
    public: Annotated[
        Path | None, typer.Option(help="Folder of images that the attacker has; more attacks run then.")
    ] = None,
    decoys: Annotated[
        Path | None,
        typer.Option(
            help="Folder of classes like the private ones on which the model was not trained, one subfolder each."
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Height and width of the model's images in pixels, such as 64 or 56x48; default: as they are."
        ),
    ] = None,
    normalize: Annotated[
        str | None,
        typer.Option(
            help="What the model expects instead of pixels in [0, 1]: none, imagenet, 0.5, or MEAN/STD, each one "
            "number or one per channel separated by commas."
        ),
    ] = None,
    outputs: Annotated[
        str, typer.Option(help="What the model returns: logits, or probabilities.")
    ] = "logits",
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda or mps.")] = "cpu",
    thorough: Annotated[
        bool,
        typer.Option(
            "--thorough", help="Also run attacks that first train a generator on the public images; minutes."
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the results; default: runs/attack- plus the name of the file."),
    ] = None,
    data_root: DataRoot = None,
    workers: Workers = None,
    replace: Replace = False,
    as_json: AsJson = False,
) -> None:
    """Attack a trained classifier, and say whether its reconstructions give its classes away."""
    import tomli_w

    from dpmi.data.folder import class_files
    from dpmi.report.numbers.tables import summary
    from dpmi.report.page.answer import headline
    from dpmi.report.write import write
    from dpmi.study import parse
    from dpmi.study.work import load

    check_workers(workers)
    document: dict[str, Any] = {
        "name": checkpoint.stem,
        "seeds": [0],
        "model": model,
        "checkpoint": str(checkpoint),
        "data": _data(data, public=public, decoys=decoys, size=size),
        "attacks": [*_QUICK, *(_THOROUGH if thorough else (_ENHANCED,))],
    }
    if decoys is not None:
        document["linkage"] = {"drawn": False, "private": len(class_files(Path(data)))}
    if normalize is not None:
        document["normalize"] = _normalization(normalize)
    for name, value, default in (("outputs", outputs, "logits"), ("device", device, "cpu")):
        if value != default:
            document[name] = value
    root = None if data_root is None else str(data_root)
    if not len(load(parse(tomli_w.dumps(document)).data, root).public):
        if thorough:
            raise ValueError(
                "--thorough trains generators on public images, and there are none; give --public"
            )
        document["attacks"] = [_ENHANCED]
    folder = out or Path("runs") / f"attack-{checkpoint.stem}"
    failures, results, store = completed(
        tomli_w.dumps(document), folder, data_root, workers, "local", replace=replace
    )
    tell(failures)
    if len(results.trials):
        page, table = write(results, store.root), summary(results)
        verdict = headline(table, results.per_class["class_index"].nunique(), given=True)
        print(
            json.dumps(_document(results, table, verdict, page), indent=1)
            if as_json
            else f"{verdict}\nreport: {page}"
        )
    if failures:
        raise SystemExit(1)


def _data(data: str, *, public: Path | None, decoys: Path | None, size: str | None) -> str | dict[str, Any]:
    """The data set in the terms of a study file."""
    if not Path(data).is_dir():
        for name, value in (("--public", public), ("--decoys", decoys), ("--size", size)):
            if value is not None:
                raise ValueError(
                    f"{name} is for a folder of images, and --data {data!r} is none; a data set has its own"
                )
        return data
    found: dict[str, Any] = {"folder": data}
    found |= {key: str(path) for key, path in (("public", public), ("decoys", decoys)) if path is not None}
    if size is not None:
        found["size"] = _size(size)
    return found


def _size(text: str) -> int | list[int]:
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise ValueError(f"--size is {text!r}; it must be a number of pixels, or HEIGHTxWIDTH, such as 56x48")
    numbers = [int(side) for side in sides]
    return numbers[0] if len(numbers) == 1 else numbers


def _normalization(text: str) -> str | dict[str, list[float]]:
    mean, slash, std = text.partition("/")
    if not slash:
        return text  # a name, which the study checks
    try:
        return {
            "mean": [float(each) for each in mean.split(",")],
            "std": [float(each) for each in std.split(",")],
        }
    except ValueError:
        raise ValueError(
            f"--normalize is {text!r}; MEAN/STD must be numbers, such as 0.5/0.25 or 0.4,0.5,0.6/0.2,0.2,0.2"
        ) from None


def _document(results: Results, table: pd.DataFrame, verdict: str, page: Path) -> dict[str, Any]:
    """The verdict and the numbers of every attack, for a program."""
    from dpmi.report.numbers.tables import rows_of

    return {
        "verdict": verdict,
        "classes": results.per_class["class_index"].nunique(),
        "attacks": [
            {
                "attack": row.attack,
                "linkage_top1": row.linkage_top1,
                "linkage_top1_low": row.linkage_top1_low,
                "linkage_top1_high": row.linkage_top1_high,
                "linkage_auc": row.linkage_auc,
                "chance": row.linkage_chance,
                "advantage": row.advantage,
                "accuracy": row.test_accuracy,
            }
            for row in rows_of(table)
        ],
        "report": str(page),
    }
