"""A version of every stage of a study that can change its numbers.

They are part of the keys by which results are stored. Raise the constant of a stage whenever its code gives other
numbers than before: what older code has stored is then computed again instead of being shown.
"""

from __future__ import annotations

TRAINING = 1
"""Defences, losses, optimizers, the private engine, models and how they are initialised, augmentation."""

EVALUATOR = 1
"""What the evaluator is trained on."""

PRIOR = 1
"""What attackers learn from public images."""

ATTACK = 1
"""How attacks search, and what they select."""

MEASUREMENT = 1
"""Metrics and baselines, and which images they are taken of."""

SIDE_EFFECTS = 1
"""Adversarial attacks and backdoors."""
