"""JSON that notices when it was cut short, edited by mistake, or written by another version.

A document is an object with a format, a version, and the SHA-256 of everything else in it. The hash finds
accidents. It is no signature: whoever changes a document on purpose can hash it again.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from reprlib import repr as short
from typing import Any


def digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hex, of `content` in its canonical form: sorted keys, no spaces, shortest floats."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return `content` with its hash."""
    return {**content, "sha256": digest(content)}


def dump(document: Mapping[str, Any]) -> str:
    """Return the text; equal documents give equal texts, and every float reads back exactly."""
    return json.dumps(document, indent=2, sort_keys=True, allow_nan=False)


def load(text: str) -> Any:
    """Return the JSON value in `text`; unlike `json.loads`, refuse a key that is there twice.

    Raises:
        ValueError: `text` is not JSON, or was cut short.
    """
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON, or cut short ({error}), got {short(text)}") from None


def fields(document: Any, *, format: str, version: int, names: Collection[str]) -> dict[str, Any]:
    """Return the object itself, once format and version are the ones expected and the keys are all there.

    Args:
        document: what `load` returned, or a part of it.
        format, version: what it has to be.
        names: the keys it has besides "format", "version" and "sha256".

    Raises:
        ValueError: any of that does not hold.
    """
    if not isinstance(document, dict) or document.get("format") != format:
        raise ValueError(f"expected an object with the format {format!r}, got {short(document)}")
    found = document.get("version")
    if type(found) is not int or found != version:
        raise ValueError(f"version must be {version}, got {short(found)}: another version of dpmi wrote it")
    return exactly(document, {"format", "version", "sha256", *names})


def exactly(value: Any, names: Collection[str]) -> dict[str, Any]:
    """Return `value`, an object with these keys and no others; raise ValueError otherwise."""
    if not isinstance(value, dict):
        raise ValueError(f"expected an object with the keys {', '.join(sorted(names))}, got {short(value)}")
    if value.keys() != set(names):
        missing = ", ".join(sorted(set(names) - value.keys())) or "none"
        unknown = ", ".join(map(repr, sorted(value.keys() - set(names)))) or "none"
        raise ValueError(
            f"expected the keys {', '.join(sorted(names))}; missing: {missing}, unknown: {unknown}"
        )
    return value


def items(name: str, value: Any) -> list[Any]:
    """Return `value`, a list; raise ValueError otherwise."""
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list, got {short(value)}")
    return value


def check_hash(found: Any, expected: str) -> None:
    """Refuse a document whose hash is not the one of what was read from it."""
    if found != expected:
        raise ValueError(
            f"sha256 must be {expected} for this content, got {short(found)}: "
            "the document was edited or damaged; take the original"
        )


@contextmanager
def inside(where: str) -> Iterator[None]:
    """Say in which part of a document a check failed, whichever check it was: always a ValueError."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name!r} is there twice")
        found[name] = value
    return found
