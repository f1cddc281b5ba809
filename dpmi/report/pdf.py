"""A page as PDF, by WeasyPrint, which the extra ``dossier`` installs.

A headless browser would print the same page. WeasyPrint was chosen because pip installs it at a pinned version, so that
a document has the same pages on every machine; a browser has 300 MB, updates itself, and needs a sandbox to run as a
service. WeasyPrint needs Pango, which most Linux systems have.
"""

from __future__ import annotations

import logging

INSTALL = (
    "install the extra dossier (pip install 'dpmi[dossier]', and Pango), or print the page from a browser"
)
"""How to get the PDF."""


def printed(page: str) -> bytes | None:
    """Return a page as PDF, tagged for readers of the blind; None without WeasyPrint, or without its Pango.

    Args:
        page: HTML that loads nothing from elsewhere.
    """
    try:
        from weasyprint import HTML  # noqa: PLC0415 (an extra)
    except (ImportError, OSError):  # OSError: the library Pango is missing
        return None
    # It logs every property of the style sheet that is for browsers only.
    logging.getLogger("weasyprint").setLevel(logging.ERROR)
    content: bytes = HTML(string=page).write_pdf(pdf_tags=True)
    return content
