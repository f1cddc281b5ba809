"""Print docs/tables.md: ``python docs/tables.py > docs/tables.md``."""

from dpmi.study.schema import markdown

print(markdown(), end="")
