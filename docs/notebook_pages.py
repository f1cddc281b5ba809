"""Notebooks as Markdown, with the outputs that are stored in them; docs/layout.py puts them on the site."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import nbformat

_STYLE = re.compile(r"<style.*?</style>", re.DOTALL)


def title(source: Path) -> str:
    """Return the heading of a notebook's first cell."""
    first: str = _cells(source)[0].source
    return first.splitlines()[0].removeprefix("# ")


def text(source: Path) -> str:
    """Return a notebook as Markdown; its pictures are those of :func:`pictures`, in a folder of its name."""
    return "\n\n".join(part for cell in _cells(source) for part in _parts(source, cell)) + "\n"


def pictures(source: Path) -> dict[str, bytes]:
    """Return the PNG files that the text shows, by name."""
    return {
        _name(source, output): base64.b64decode(output["data"]["image/png"])
        for cell in _cells(source)
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    }


@cache  # nbformat checks a notebook each time
def _cells(source: Path) -> list[Any]:
    return list(nbformat.read(source, as_version=4).cells)


def _name(source: Path, output: Any) -> str:
    """The name of a picture: the same output is the same file."""
    return f"{source.stem}/{hashlib.sha256(output['data']['image/png'].encode()).hexdigest()[:12]}.png"


def _parts(source: Path, cell: Any) -> Iterator[str]:
    if cell.cell_type == "markdown":
        yield cell.source
        return
    yield _fenced("python", cell.source)
    for output in cell.outputs:
        data = output.get("data", {})
        if output.output_type == "stream":
            yield _fenced("text", output.text)
        elif "image/png" in data:
            yield f"![Output of the cell above]({_name(source, output)})"
        elif "text/html" in data:
            yield _table(data["text/html"])
        else:
            yield _fenced("text", data["text/plain"])


def _fenced(language: str, lines: str) -> str:
    return f"```{language}\n{lines.rstrip()}\n```"


def _table(html: str) -> str:
    """A table of pandas in the theme's style; a blank line would end the HTML."""
    lines = (line.strip() for line in _STYLE.sub("", html).splitlines())
    whole = "\n".join(line for line in lines if line)
    return whole.replace(' border="1" class="dataframe"', ' class="docutils"').replace(
        ' style="text-align: right;"', ""
    )
