"""Write the tables, figures and pages of a report; every file is written atomically.

>>> from tempfile import TemporaryDirectory
>>> from dpmi.study import Machines, Store, gather, parse, released, run
>>> from dpmi.study.layer_information import layer_information
>>> from dpmi.study.side_effects import gather_side_effects
>>> text = '''
... name = "tiny"
... seeds = [0]
... data = { name = "digits" }
... model = "softmax"
... training = { steps = 5, learning_rate = 0.1 }
... attacks = [{ name = "miface", iterations = 5 }]
... '''
>>> spec = parse(text)
>>> with TemporaryDirectory() as folder:
...     store = Store.create(Path(folder, "tiny"), text)
...     failures = run(spec, store, machines=Machines(workers=1))
...     results = gather(spec, store)
...     page = write(results, store.root)
...     picture = write_layers(layer_information(spec.trials_on(store.content()), store), store.root)
...     effects = write_side_effects(gather_side_effects(spec, store), spec.name, store.root)
...     model = released(spec, store)
...     dossier = Dossier(name=spec.name, hashes=model.hashes, trained=model.trained)
...     document, _ = write_dossier(dossier, store.root)  # the PDF needs the extra `dossier`
...     [page.name, picture.name, effects.name, document.name]
['report.html', 'layers.png', 'side_effects.md', 'dossier.html']
"""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from dpmi.report import pdf
from dpmi.report.figures import curve, layers, reconstructions, side_effects, tradeoff
from dpmi.report.numbers import bounds, pairs, strongest, survival, tables
from dpmi.report.numbers.layers import mean_shares
from dpmi.report.numbers.side_effects import summary as side_effects_over_seeds
from dpmi.report.page import answer, audits, cells, games, html, markdown, strangers
from dpmi.report.page.dossier import Dossier
from dpmi.report.page.dossier import render as render_dossier
from dpmi.report.page.side_effects import tables as side_effect_tables
from dpmi.report.page.survival import adapted_table, survival_table
from dpmi.study.results import Results
from dpmi.whole_files import replacing

__all__ = ["write", "write_dossier", "write_layers", "write_side_effects"]

#: Maximum number of attacks in a plot, and of rows of reconstructions; beyond it a figure shows the strongest attack
#: only.
MOST_ATTACKS, MOST_ROWS = 4, 30


def write(results: Results, directory: Path) -> Path:
    """Write ``curve.png``, ``reconstructions.png``, ``summary.md`` and ``report.html`` into ``directory``.

    A study with two defences or more also gets ``tradeoff.png``; that of a given model gets no curve, and that of a
    table no pictures. Every file is replaced atomically, so an open page survives a rerun.

    Returns:
        Path of ``report.html``.

    Raises:
        ValueError: the study has no finished trial, or it mixes data sets, models or kinds of distance, whose numbers
            have no common axis.
    """
    _check(results)
    everything, results = results, strongest.with_strongest(results)
    summary = tables.summary(results)
    whole = results, summary
    few = everything.trials["attack"].nunique() <= MOST_ATTACKS or results.given
    if tables.has_linkage(results) and few:
        # Chance and bound hold for one attack that is fixed in advance, not for the strongest of several.
        results = strongest.without_strongest(results)
        summary = summary[summary["attack"] != tables.STRONGEST]
    correlations = tables.correlations(results.trials)
    kind = results.trials["distance_kind"].iloc[0]
    differences = pairs.differences(results, summary)
    attacked = int(results.per_class.groupby("trial").size().iloc[0])
    # In a study with linkage a model has some of the classes only, and its chance level is that of linkage.
    classes = attacked if tables.has_linkage(results) else len(results.class_names)
    headline = audits.warning(results.trials) + answer.headline(summary, classes, given=results.given)
    findings = answer.findings(summary, correlations, differences, kind, classes, given=results.given)
    shown = {
        **({"linked": games.linked(summary)} if tables.has_linkage(results) else {}),
        **({"units": games.unit_game(summary)} if tables.has_units(results) else {}),
        "outcomes": cells.outcomes(summary, kind),
        **(
            {"judged": cells.evaluated(summary, cells.evaluator_of(results))}
            if tables.has_evaluator(results)
            else {}
        ),
        **({"strangers": strangers.judged(summary)} if tables.has_strangers(results) else {}),
        **({"identified": games.identified(summary)} if "identified_own" in summary else {}),
        **(_adaptive(everything) if survival.is_adaptive(everything) else {}),
        "baselines": cells.baselines(summary, kind),
        **({} if results.given else {"any_attack": cells.any_attack(summary, bounds.bounds(results.trials))}),
        "correlations": cells.correlations(correlations),
        "accounts": cells.accounts(summary),
        **({"audits": audits.audited(results.trials)} if tables.has_audits(results) else {}),
    }
    here = results, summary
    drawn = strongest.if_few(here, "attack", MOST_ATTACKS, whole=whole)
    pictured = strongest.if_few(here, ["label", "attack"], MOST_ROWS, whole=whole)
    pictures = {"reconstructions": _png(reconstructions.draw(*pictured))} if results.pictured else {}
    if not results.given:  # a single model without an epsilon has no curve
        pictures["curve"] = _png(curve.draw(*drawn))
    if pairs.compares(summary):
        shown["tradeoff"] = cells.tradeoff(summary)
        shown["differences"] = cells.differences(differences, results.matched_on)
        pictures["tradeoff"] = _png(tradeoff.draw(*drawn))
    directory.mkdir(parents=True, exist_ok=True)
    for name, png in pictures.items():
        _replace(directory / f"{name}.png", png)
    _replace(directory / "summary.md", markdown.render(results, headline, findings, shown).encode())
    page = directory / "report.html"
    _replace(page, html.render(results, headline, findings, shown, pictures).encode())
    return page


def write_dossier(dossier: Dossier, directory: Path) -> tuple[Path, Path | None]:
    """Write ``dossier.html`` and, with the extra ``dossier``, ``dossier.pdf`` into ``directory``.

    Both are computed before either is written. A PDF of an earlier document is removed if there is no new one.

    Returns:
        Paths of the page, and of the PDF; None if it needs the extra.
    """
    results, pictures = dossier.results, {}
    if results is not None and results.pictured:
        drawn = reconstructions.draw(results, tables.summary(results), one_model=True)
        pictures["reconstructions"] = _png(drawn)
    html_text = render_dossier(dossier, pictures)
    printed = pdf.printed(html_text)
    directory.mkdir(parents=True, exist_ok=True)
    page, paper = directory / "dossier.html", directory / "dossier.pdf"
    if printed is None:
        paper.unlink(missing_ok=True)
    _replace(page, html_text.encode())
    if printed is None:
        return page, None
    _replace(paper, printed)
    return page, paper


def write_layers(table: pd.DataFrame, directory: Path) -> Path:
    """Write ``layers.csv`` and ``layers.png`` into ``directory``.

    Args:
        table: table of :func:`dpmi.study.layer_information.layer_information`.
        directory: folder of the study, or of the only trial in ``table``.

    Returns:
        Path of ``layers.png``.
    """
    _replace(directory / "layers.csv", table.to_csv(index=False).encode())
    picture = directory / "layers.png"
    _replace(picture, _png(layers.draw(mean_shares(table))))
    return picture


def write_side_effects(table: pd.DataFrame, name: str, directory: Path) -> Path:
    """Write ``side_effects.csv``, ``side_effects.md`` and ``side_effects.png`` into ``directory``.

    Args:
        table: table of :func:`dpmi.study.side_effects.gather_side_effects`.
        name: name of the study.
        directory: folder of the study.

    Returns:
        Path of ``side_effects.md``.
    """
    summarized = side_effects_over_seeds(table)
    _replace(directory / "side_effects.csv", table.to_csv(index=False).encode())
    title = f"Side effects: {name}"
    _replace(directory / "side_effects.png", _png(side_effects.draw(summarized, title)))
    shown = [markdown.pipe_table(each) for each in side_effect_tables(summarized)]
    picture = "![Accuracy under attack, success of targeted attacks, success of backdoors](side_effects.png)"
    page = directory / "side_effects.md"
    _replace(page, ("\n\n".join([f"# {markdown.escape(title)}", picture, *shown]) + "\n").encode())
    return page


def _adaptive(results: Results) -> dict[str, cells.Table]:
    """The tables of adaptive attacks."""
    measure = tables.judging(results.trials)
    return {
        "survival": survival_table(survival.survival(results), measure),
        "adapted": adapted_table(survival.adapted(results), measure),
    }


def _check(results: Results) -> None:
    if results.trials.empty:
        raise ValueError(
            f"study {results.name!r} has no finished trial (0 of {results.planned}) to report; "
            f"run it first: {results.command}"
        )
    for column in ("data", "model", "distance_kind"):
        values = sorted(results.trials[column].unique())
        if len(values) > 1:
            raise ValueError(
                f"study {results.name!r} mixes values of {column}: {', '.join(values)}; a report needs a single "
                f"{column}, so write one study per value"
            )


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _replace(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)
