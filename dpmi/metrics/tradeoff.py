"""The trade-off ratio of a defence: reduction of the attack accuracy per loss of accuracy."""

from __future__ import annotations

import math


def tradeoff_ratio(
    *, attack_undefended: float, attack_defended: float, accuracy_undefended: float, accuracy_defended: float
) -> float:
    """Return the reduction of the attack accuracy per loss of accuracy, both relative to no defence ([TL-DMI] Table 5).

    The ratio does not show the size of the reduction: it is largest for a tiny loss of accuracy, whatever the gain.
    Always report it together with the two accuracies.

    Args:
        attack_undefended: attack accuracy without the defence.
        attack_defended: attack accuracy with the defence, for the same attack and evaluator.
        accuracy_undefended: test accuracy of the target without the defence.
        accuracy_defended: test accuracy of the target with the defence.

    Returns:
        Above 0 if the defence helps. NaN if it costs no accuracy, because the order of the ratios would be reversed, or
        if an input is NaN.

    >>> round(tradeoff_ratio(  # BiDO
    ...     attack_undefended=95.67, attack_defended=70.47, accuracy_undefended=89.00, accuracy_defended=80.35
    ... ), 2)
    2.91
    """
    cost = accuracy_undefended - accuracy_defended
    return (attack_undefended - attack_defended) / cost if cost > 0 else math.nan
