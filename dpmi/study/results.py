"""What a finished, or interrupted, study hands to whoever looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Results:
    """The trials of one study: two tables, the pictures, and what was asked for.

    ``trials`` has one row per finished trial (defence x strength x attack x seed), ``per_class`` one row per
    trial and class. Distances in ``trials`` are means over classes. NaN stands where a column does not apply.
    """

    name: str
    """Name of the study."""
    trials: pd.DataFrame
    """One row per finished trial."""
    per_class: pd.DataFrame
    """One row per trial and class; column ``trial`` joins it to ``trials``."""
    recons: Mapping[str, np.ndarray]
    """Trial id -> reconstructions (K, C, H, W), float32 in [0, 1], one per class."""
    examples: np.ndarray
    """(K, C, H, W): one training image per class."""
    class_names: tuple[str, ...]
    """Names of the K classes."""
    statements: Mapping[str, str]
    """Trial id -> privacy statement of its model: plain text or short Markdown, several lines."""
    planned: int
    """Number of trials the spec asks for; an interrupted study has fewer rows."""
    spec_toml: str
    """The spec, as text, to be shown."""
    command: str
    """The command that reruns the study."""
    matched_on: str | None = None
    """By what the strengths of the defences were chosen, such as "accuracy 0.97"; None if by the user."""
