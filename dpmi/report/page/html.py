"""``report.html``: everything about a study in one file that needs nothing else."""

from __future__ import annotations

import base64

from jinja2 import Environment, PackageLoader, StrictUndefined

from dpmi.report import words
from dpmi.report.numbers.tables import rows_of
from dpmi.report.page.answer import Finding
from dpmi.report.page.cells import Table
from dpmi.study.results import Results


def render(
    results: Results, findings: list[Finding], tables: dict[str, Table], pictures: dict[str, bytes]
) -> str:
    """Return the page. ``tables`` and ``pictures`` (PNG) have the keys that ``page.html.j2`` asks for."""
    # Names of classes, studies and settings come from the user: everything is escaped.
    environment = Environment(
        loader=PackageLoader("dpmi.report.page", "."), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("page.html.j2").render(
        results=results,
        first=results.trials.iloc[0],
        distance=words.DISTANCES[results.trials["distance_kind"].iloc[0]],
        matched=words.matched(results.matched_on),
        findings=findings,
        tables=tables,
        pictures={name: base64.b64encode(png).decode("ascii") for name, png in pictures.items()},
        statements=statements(results),
        attacks=attacks(results),
        made_by=words.made_by(results.trials),
    )


def statements(results: Results) -> dict[str, list[str]]:
    """Privacy statement -> the models that it is about; models that differ by seed alone often share one."""
    models: dict[str, list[str]] = {}
    for row in rows_of(results.trials):
        name = f"{row.label}, seed {row.seed}"
        sharing = models.setdefault(results.statements[row.trial], [])
        # One model is attacked in several trials.
        if name not in sharing:
            sharing.append(name)
    return models


def attacks(results: Results) -> list[tuple[str, str]]:
    """Name and settings of every attack that was run."""
    named = results.trials[["attack", "attack_settings"]].drop_duplicates()
    return [(row.attack, row.attack_settings) for row in rows_of(named)]
