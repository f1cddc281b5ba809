"""The program docs/messages.py, which is in no package."""

from __future__ import annotations

import importlib.util

from .repository import ROOT

_spec = importlib.util.spec_from_file_location("messages", ROOT / "docs" / "messages.py")
assert _spec is not None
assert _spec.loader is not None
messages = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(messages)
