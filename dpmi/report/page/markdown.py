"""``summary.md``: the answer and the tables, for a repository that shows Markdown."""

from __future__ import annotations

from dpmi.report import words
from dpmi.report.page.answer import Finding
from dpmi.report.page.cells import Table
from dpmi.study.results import Results


def render(results: Results, findings: list[Finding], tables: dict[str, Table]) -> str:
    """Return the document; the pictures are linked as its neighbours."""
    parts = [f"# {escape(results.name)}"]
    if results.matched_on is not None:
        parts.append(words.matched(results.matched_on))
    finished = len(results.trials)
    if finished < results.planned:
        parts.append(f"**Interrupted: {finished} of {results.planned} trials.**")
    for finding in findings:
        parts.append(f"**{escape(finding.verdict)}** {escape(finding.undefended)}".rstrip())
        parts.append("\n".join(f"- {escape(point)}" for point in finding.points))
    found = "MIA distance, advantage, attack accuracy" if "judged" in tables else "MIA distance, advantage"
    parts.append(f"![Epsilon against {found} and accuracy](curve.png)")
    if "tradeoff" in tables:
        parts.append(
            "![MIA distance and advantage against test accuracy, with the Pareto front](tradeoff.png)"
        )
    parts.append("![A training image of each class, and what was reconstructed](reconstructions.png)")
    parts += [pipe_table(table) for table in tables.values() if table.rows]
    parts.append(escape(" ".join(words.made_by(results.trials))))
    parts.append(f"```sh\n{results.command}\n```")
    return "\n\n".join(parts) + "\n"


def pipe_table(table: Table) -> str:
    """A table in pipes, under its caption and above its notes."""
    lines = [table.header, ("---",) * len(table.header), *table.rows]
    body = "\n".join("| " + " | ".join(escape(cell) for cell in line) + " |" for line in lines)
    return "\n\n".join([escape(table.caption), body, *map(escape, table.notes)])


def escape(text: str) -> str:
    r"""Keep a cell in its column, and markup out of the text.

    >>> print(escape("a|b <i>"))
    a\|b &lt;i>
    """
    return text.replace("|", r"\|").replace("<", "&lt;").replace("\n", " ")
