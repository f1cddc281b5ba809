import math

import pytest

from dpmi.metrics import tradeoff_ratio


@pytest.mark.parametrize(
    ("attack", "accuracy", "published"),
    [(70.47, 80.35, 2.91), (75.67, 83.41, 3.58), (59.68, 78.86, 3.54)],
)
def test_published(attack: float, accuracy: float, published: float) -> None:
    """[TL-DMI] Table 5, against 95.67 and 89.00 without a defence."""
    found = tradeoff_ratio(
        attack_undefended=95.67, attack_defended=attack, accuracy_undefended=89.0, accuracy_defended=accuracy
    )
    assert found == pytest.approx(published, abs=0.011)


@pytest.mark.parametrize("accuracy", [0.9, 0.95, math.nan])
@pytest.mark.parametrize("attack", [0.1, 0.9])
def test_no_cost_no_ratio(accuracy: float, attack: float) -> None:
    """A defence that gains accuracy would have a negative ratio the better it is."""
    assert math.isnan(
        tradeoff_ratio(
            attack_undefended=0.5, attack_defended=attack, accuracy_undefended=0.9, accuracy_defended=accuracy
        )
    )


def test_a_defence_that_helps_the_attacker_is_below_zero() -> None:
    """MID on MNIST, BiDO Table 3: 51.75 against 42.52."""
    found = tradeoff_ratio(
        attack_undefended=0.4252, attack_defended=0.5175, accuracy_undefended=0.9994, accuracy_defended=0.9742
    )
    assert found == pytest.approx(-3.66, abs=0.01)
