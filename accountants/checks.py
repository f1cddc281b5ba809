"""Range checks of the package. Each error names the argument, the value and the limit."""

import math
from numbers import Integral, Real

import numpy as np
import numpy.typing as npt

from accountants.guarantee import ADJACENCIES, Adjacency


def real(name: str, value: object) -> float:
    """Return `value` as a finite float.

    Raises:
        TypeError: `value` is a bool or not a number.
        ValueError: `value` is NaN or infinite.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a real number, got {value!r} ({type(value).__name__})")
    try:
        number = float(value)
    except OverflowError:  # an int or a fraction above the largest float
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}")
    return number


def integer(name: str, value: object, *, minimum: int) -> int:
    """Return `value` as an int of at least `minimum`.

    Raises:
        TypeError: `value` is a bool or not an integer (200.0 is not one).
        ValueError: `value` is below `minimum`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__})")
    number = int(value)
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number


def sampling_rate(value: object) -> float:
    """Return a probability in (0, 1]."""
    number = real("sampling_rate", value)
    if not 0 < number <= 1:
        raise ValueError(
            f"sampling_rate must be in (0, 1], got {number}: it is the chance of drawing one bucket"
        )
    return number


def noise_multiplier(value: object) -> float:
    """Return a number in [0, inf)."""
    number = real("noise_multiplier", value)
    if number < 0:
        raise ValueError(f"noise_multiplier must be at least 0, got {number}: it is std / max_grad_norm")
    return abs(number)  # turns -0.0 into 0.0, so that equal values hash equal


def unit(value: object) -> str:
    """Return the unit: one non-empty line of text."""
    if not isinstance(value, str) or not value.strip() or value.splitlines() != [value]:
        raise ValueError(
            f"unit must say what one bucket is in one line ('class', 'subclass', a column name), got {value!r}"
        )
    return value


def delta(value: object) -> float:
    """Return a probability in (0, 1), both ends excluded."""
    number = real("delta", value)
    if not 0 < number < 1:
        raise ValueError(f"delta must be in (0, 1), got {number}: choose it below 1 / (number of buckets)")
    return number


def array(name: str, values: npt.ArrayLike, *, lowest: float, highest: float) -> npt.NDArray[np.float64]:
    """Return numbers in [lowest, highest] as an array of floats.

    Raises:
        TypeError: not numbers.
        ValueError: NaN, or out of range.
    """
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be real numbers, got {values!r}") from None
    wrong = ~((numbers >= lowest) & (numbers <= highest))
    if wrong.any():
        raise ValueError(f"{name} must be in [{lowest:g}, {highest:g}], got {numbers[wrong].flat[0]}")
    return numbers


def adjacency(value: object) -> Adjacency:
    """Return one of `ADJACENCIES`."""
    for known in ADJACENCIES:
        if value == known:
            return known
    raise ValueError(f"adjacency must be one of {', '.join(ADJACENCIES)}, got {value!r}")
