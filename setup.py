"""The readme of the package index, where relative links lead nowhere; everything else is in pyproject.toml."""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
PROJECT = "dpmi/dpmi"


def readme() -> str:
    """README.md with links to the files of this version's tag on GitHub."""
    text = ROOT.joinpath("README.md").read_text(encoding="utf-8")
    (version,) = re.findall(
        r'^__version__ = "(.*)"$',
        ROOT.joinpath("dpmi", "__init__.py").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    raw, page = f"https://raw.githubusercontent.com/{PROJECT}", f"https://github.com/{PROJECT}/blob"
    text = re.sub(r"(!\[[^]]*\]\()(?!\w+:|#)", rf"\g<1>{raw}/v{version}/", text)
    return re.sub(r"((?<!!)\[[^][]*\]\()(?!\w+:|#)", rf"\g<1>{page}/v{version}/", text)


setup(long_description=readme(), long_description_content_type="text/markdown")
