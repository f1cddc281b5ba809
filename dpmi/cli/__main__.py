"""``python -m dpmi.cli`` runs ``dpmi``."""

from dpmi.cli import main

main()
