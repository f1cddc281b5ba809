"""Rules for runs that were not planned as one: how the epsilon follows from the ledger, and how a file names it."""

from __future__ import annotations

from reprlib import repr as short
from typing import Any

from accountants.filters import PrivacyFilter
from accountants.selection import Tries

Rule = Tries | PrivacyFilter

_RULES: dict[str, type[Tries] | type[PrivacyFilter]] = {"selection": Tries, "filter": PrivacyFilter}


def from_dict(value: Any) -> Rule:
    """Return the rule whose `to_dict` returned `value`.

    Raises:
        ValueError: there is no such rule, or a part of it is missing, unknown or out of range.
    """
    name = value.get("rule") if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in _RULES:
        raise ValueError(f"expected a rule, one of {', '.join(_RULES)}, got {short(value)}")
    return _RULES[name].from_dict(value)
