"""``python -m dpmi.cli`` is ``dpmi``."""

from dpmi.cli import main

main()
