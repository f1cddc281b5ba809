"""What a defence saves for what it costs: attack accuracy against accuracy."""

from __future__ import annotations

import math


def tradeoff_ratio(
    *, attack_undefended: float, attack_defended: float, accuracy_undefended: float, accuracy_defended: float
) -> float:
    """Return the attack accuracy saved per accuracy lost, both against no defence ([TL-DMI] Table 5).

    A ratio says nothing of how much is saved: it is largest where the cost is next to nothing, whatever the gain. It
    goes beside the two accuracies, never in their place.

    Args:
        attack_undefended: attack accuracy without a defence.
        attack_defended: with it, by the same attack and evaluator.
        accuracy_undefended: test accuracy of the target without a defence.
        accuracy_defended: with it.

    Returns:
        Above 0 where the defence helps; NaN where it costs no accuracy or one of the four is NaN: a ratio over a cost
        of 0 or less would call a better defence a worse one.

    >>> round(tradeoff_ratio(  # BiDO
    ...     attack_undefended=95.67, attack_defended=70.47, accuracy_undefended=89.00, accuracy_defended=80.35
    ... ), 2)
    2.91
    """
    cost = accuracy_undefended - accuracy_defended
    return (attack_undefended - attack_defended) / cost if cost > 0 else math.nan
