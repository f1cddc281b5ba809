"""docs/messages.py finds what the code says, in the ways in which the code says it."""

from __future__ import annotations

import ast

import pytest

from .pages import messages

CODE = '''
def check(name, value):
    """Text of a docstring."""
    if value < 0:
        raise ValueError(f"{name} must be at least 0, got {value}")
    if value > 9:
        raise OwnError("too large " + ("by far" if value > 99 else "indeed")) from None
    warnings.warn(f"{value} is odd here", UserWarning, stacklevel=2)
    print("this is no message")
    raise missing(name)

def missing(name):
    return FileNotFoundError(f"{name} needs\\n a file")

def unknown(name):
    if name:
        return f"unknown key {name}"
    return "unknown key of a study"

def other():
    raise SpecError(unknown("x"))

def returns():
    return "never raised by anybody"

def single():
    raise KeyError("word")
'''


def test_what_code_says() -> None:
    tree = ast.parse(CODE)
    makers = messages._makers([tree])
    assert makers == {"missing", "unknown"}
    said = {text for node in ast.walk(tree) for text in messages._said(node, makers)}
    assert said == {
        "… must be at least 0, got …",
        "too large …",
        "… is odd here",
        "… needs a file",
        "unknown key …",
        "unknown key of a study",
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[[attacks]] with a * of model_kind", r"\[\[attacks\]\] with a \* of model\_kind"),
        ("a < b", r"a \< b"),
    ],
)
def test_markup_is_shown_as_it_is(text: str, shown: str) -> None:
    assert messages._escaped(text) == shown


def test_every_package_has_its_messages() -> None:
    found = messages.messages()
    assert all(found.values())
    said = [text for texts in found["accountants"].values() for text in texts]
    assert any(text.startswith("sampling_rate must be in (0, 1], got") for text in said)
    assert found["dpmi.privacy.audit"].keys().isdisjoint(found["dpmi.privacy"])


def test_arguments_are_those_of_functions_classes_and_methods() -> None:
    class Settings:
        def __init__(self, size: int, _hidden: int = 0) -> None: ...

        def fit(self, public: object) -> None: ...

        def _private(self, secret: object) -> None: ...

    def function(budget: int) -> None: ...

    assert messages.arguments([Settings, function, 3]) == ["budget", "public", "size"]
