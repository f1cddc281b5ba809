"""``summary.md``: the findings and the tables in Markdown."""

from __future__ import annotations

from dpmi.report import words
from dpmi.report.figures import curve
from dpmi.report.page.answer import Finding
from dpmi.report.page.cells import Table
from dpmi.study.results import Results


def render(results: Results, headline: str, findings: list[Finding], tables: dict[str, Table]) -> str:
    """Return the document, which begins with ``headline``; it links the figures, which are in the same folder."""
    parts = [f"# {escape(results.name)}", f"**{escape(headline)}**"]
    if results.matched_on is not None:
        parts.append(words.matched(results.matched_on))
    finished = len(results.trials)
    if finished < results.planned:
        parts.append(f"**Interrupted: {finished} of {results.planned} trials.**")
    parts.append(escape(" ".join([*words.definitions(results.trials), *words.of_tables(results.pictured)])))
    for finding in findings:
        parts.append(f"**{escape(finding.verdict)}** {escape(finding.undefended)}".rstrip())
        parts.append("\n".join(f"- {escape(point)}" for point in finding.points))
    if not results.given:
        parts.append(f"![Epsilon against {curve.described(results)}](curve.png)")
    if "tradeoff" in tables:
        parts.append(
            "![MIA distance and advantage against test accuracy, with the Pareto front](tradeoff.png)"
        )
    if results.pictured:
        parts.append("![A training image and the reconstructions of each class](reconstructions.png)")
    parts += [pipe_table(table) for table in tables.values() if table.rows]
    parts.append(escape(" ".join(words.made_by(results.trials))))
    parts.append(f"```sh\n{results.command}\n```")
    return "\n\n".join(parts) + "\n"


def pipe_table(table: Table) -> str:
    """A Markdown table between its caption and its notes."""
    lines = [table.header, ("---",) * len(table.header), *table.rows]
    body = "\n".join("| " + " | ".join(escape(cell) for cell in line) + " |" for line in lines)
    return "\n\n".join([escape(table.caption), body, *map(escape, table.notes)])


def escape(text: str) -> str:
    r"""Escape text for a table cell.

    >>> print(escape("a|b <i>"))
    a\|b &lt;i>
    """
    return text.replace("|", r"\|").replace("<", "&lt;").replace("\n", " ")
