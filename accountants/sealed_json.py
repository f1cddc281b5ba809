"""JSON documents that detect truncation, accidental edits and other versions.

A document is an object with a format, a version, and the SHA-256 of the rest of its content. The hash detects
accidents. It is not a signature: an attacker who changes a document can compute the hash again.
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
    """Return the JSON value in `text`; unlike `json.loads`, reject duplicate keys.

    Raises:
        ValueError: `text` is not JSON, or was truncated.
    """
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON, or truncated ({error}), got {short(text)}") from None


def fields(document: Any, *, format: str, version: int, names: Collection[str]) -> dict[str, Any]:
    """Return `document`, an object, after checking its format, version and keys.

    Args:
        document: the result of `load`, or a part of it.
        format, version: the expected ones.
        names: the expected keys besides "format", "version" and "sha256".

    Raises:
        ValueError: it is not an object, or its format, version or keys differ.
    """
    if not isinstance(document, dict) or document.get("format") != format:
        raise ValueError(f"expected an object with the format {format!r}, got {short(document)}")
    found = document.get("version")
    if type(found) is not int or found != version:
        raise ValueError(
            f"version must be {version}, got {short(found)}: another version of dpmi wrote it; read it with that one"
        )
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
    """Raise ValueError if a document's hash is not that of its content."""
    if found != expected:
        raise ValueError(
            f"sha256 must be {expected} for this content, got {short(found)}: "
            "the document was edited or damaged; use the original"
        )


@contextmanager
def inside(where: str) -> Iterator[None]:
    """Prefix the error of a failed check with the part of the document; the error is always a ValueError."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"duplicate key {name!r}")
        found[name] = value
    return found
