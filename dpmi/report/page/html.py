"""``report.html``: the whole report in one self-contained file."""

from __future__ import annotations

import base64
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from dpmi.report import words
from dpmi.report.figures import curve
from dpmi.report.numbers.tables import other_scorer, rows_of
from dpmi.report.page.answer import Finding
from dpmi.report.page.cells import Table
from dpmi.study.results import Results


def render(
    results: Results,
    headline: str,
    findings: list[Finding],
    tables: dict[str, Table],
    pictures: dict[str, bytes],
) -> str:
    """Return the page, whose answer begins with ``headline``.

    ``tables`` and ``pictures`` (PNG) have the keys that ``page.html.j2`` uses.
    """
    # Names of classes, studies and settings come from the user, so everything is escaped.
    environment = Environment(
        loader=PackageLoader("dpmi.report.page", "."), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("page.html.j2").render(
        results=results,
        first=results.trials.iloc[0],
        distance=words.DISTANCES[results.trials["distance_kind"].iloc[0]],
        definitions=[*words.definitions(results.trials), *words.of_tables(results.pictured)],
        matched=words.matched(results.matched_on),
        headline=headline,
        attacked=int(results.per_class.groupby("trial").size().max()),
        among_classes=results.given and not other_scorer(results.trials),
        drawn=curve.described(results),
        findings=findings,
        tables=tables,
        pictures={name: base64.b64encode(png).decode("ascii") for name, png in pictures.items()},
        statements=statements(results),
        attacks=attacks(results),
        made_by=words.made_by(results.trials),
    )


class Stated(NamedTuple):
    """A privacy statement and its models; models that differ only in the seed often share a statement.

    Attributes:
        text: the statement.
        models: names of the models, each with its seed.
        first: whether no statement before it is of the same setting. A print has these only.
    """

    text: str
    models: list[str]
    first: bool

    @property
    def title(self) -> str:
        """The first line of the statement, which has its reservations."""
        return self.text.partition("\n")[0].removeprefix("# ")


def statements(results: Results) -> list[Stated]:
    """Return every statement once, in the order of the trials."""
    found: dict[str, Stated] = {}
    labels: set[str] = set()
    for row in rows_of(results.trials):
        text = results.statements[row.trial]
        stated = found.setdefault(text, Stated(text, [], row.label not in labels))
        labels.add(row.label)
        name = f"{row.label}, seed {row.seed}"
        # A model can have several trials.
        if name not in stated.models:
            stated.models.append(name)
    return list(found.values())


def attacks(results: Results) -> list[tuple[str, str]]:
    """Name and settings of every attack."""
    named = results.trials[["attack", "attack_settings"]].drop_duplicates()
    return [(row.attack, row.attack_settings) for row in rows_of(named)]
