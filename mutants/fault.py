"""A fault: which text of which file becomes which other."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One change of one file that the tests have to find.

    Args:
        name: what is wrong then, in words.
        path: of the file, from the root of the repository.
        old: text that occurs in it exactly once.
        new: what stands there instead.
        tests: pytest's names of files or tests, from the root of the repository: fast ones, of the mirrored file.

    Raises:
        ValueError: nothing is changed, or no test is named.
    """

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check what a list of faults can get wrong."""
        if self.old == self.new:
            raise ValueError(f"fault {self.name!r}: old and new are the same text; nothing is changed")
        if not self.tests:
            raise ValueError(f"fault {self.name!r}: tests is empty; name the tests that have to find it")

    def planted(self, text: str) -> str:
        """Return the file's text with the fault in it.

        Raises:
            ValueError: ``old`` does not occur exactly once.
        """
        found = text.count(self.old)
        if found != 1:
            raise ValueError(
                f"fault {self.name!r}: the text to be replaced occurs {found} times in {self.path}, not once; adapt "
                f"the fault to the file:\n{self.old}"
            )
        return text.replace(self.old, self.new)
