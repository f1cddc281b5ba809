"""Versions of the stages of a study.

They are part of the keys of stored results. Raise the constant of a stage whenever a change of its code changes its
numbers: results of older code are then computed again instead of reused.
"""

from __future__ import annotations

TRAINING = 1
"""Defences, losses, optimizers, the privacy engine, models and their initial weights, augmentation."""

FEATURES = 1
"""The public extractors: their training and their statistics."""

EVALUATOR = 1
"""The training of the evaluator."""

PRIOR = 2
"""The priors that attackers train on public images."""

ATTACK = 2
"""The search of attacks, and their selection of reconstructions."""

MEASUREMENT = 2
"""Metrics, baselines, and the images that they use."""

SIDE_EFFECTS = 1
"""Adversarial attacks and backdoors."""
