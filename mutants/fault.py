"""A fault: the replacement of one text in one file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One change of one file that the tests must find.

    Args:
        name: a sentence that says what is wrong.
        path: the file, relative to the root of the repository.
        old: text that occurs in it exactly once.
        new: its replacement.
        tests: pytest ids of files or tests, relative to the root of the repository; fast ones, for the same file.
        audited: whether it weakens the promise of the trainings of ``dpmi audit engine``, which must then flag it.

    Raises:
        ValueError: nothing is changed, or there are no tests.
    """

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]
    audited: bool = False

    def __post_init__(self) -> None:
        if self.old == self.new:
            raise ValueError(
                f"fault {self.name!r}: old and new are equal, so nothing changes; use another new text"
            )
        if not self.tests:
            raise ValueError(f"fault {self.name!r}: tests is empty; list the tests that must find it")

    def planted(self, text: str) -> str:
        """Return the file's text with the fault.

        Raises:
            ValueError: ``old`` does not occur exactly once.
        """
        found = text.count(self.old)
        if found != 1:
            raise ValueError(
                f"fault {self.name!r}: the text to replace occurs {found} times in {self.path}, not once; adapt "
                f"the fault to the file:\n{self.old}"
            )
        return text.replace(self.old, self.new)
