"""Settings of Sphinx for the site; ``make docs`` builds it from the pages that docs/layout.py lays out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

import dpmi

sys.path.insert(0, str(Path(__file__).parent))
from layout import linked

project = "dpmi"
release = version = dpmi.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

myst_enable_extensions = ["attrs_inline", "dollarmath"]
myst_heading_anchors = 4
smartquotes = False

# Docstrings are reStructuredText with Google's sections.
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_use_ivar = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 88

# Everything is in the folder that is built: the theme has no fonts and scripts of other hosts.
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_title = f"dpmi {release}"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_math_renderer = "mathml"


def setup(app: Sphinx) -> None:
    """Add what Sphinx lacks: formulas that need no script, and links from docstrings to papers."""
    app.add_html_math_renderer("mathml", inline_renderers=(_formula, None), block_renderers=(_formula, None))
    app.connect("autodoc-process-docstring", _cite)


def _formula(translator: Any, node: nodes.Element) -> None:
    block = isinstance(node, nodes.math_block)
    formula = "".join(tex2mathml(node.astext(), as_block=block))
    translator.body.append(f'<div class="math">{formula}</div>' if block else formula)
    raise nodes.SkipNode


def _cite(app: Sphinx, _what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    lines[:] = [linked(line) for line in lines]
