"""Validation of hyper-parameters: one error format, and the two most common limits."""


def require(name: str, value: object, allowed: bool, limit: str) -> None:
    """Raise a ValueError that names the hyper-parameter, its value and its limit, unless ``allowed``.

    >>> require("restarts", 0, 0 >= 1, "at least 1")
    Traceback (most recent call last):
    ValueError: restarts must be at least 1; got 0
    """
    if not allowed:
        raise ValueError(f"{name} must be {limit}; got {value!r}")


def at_least_one(owner: object, *names: str) -> None:
    """Raise a ValueError if one of these fields of ``owner`` is below 1."""
    for name in names:
        value = getattr(owner, name)
        require(name, value, value >= 1, "at least 1")


def check_rate(rate: float) -> None:
    """Raise a ValueError unless the learning rate is above 0 and finite."""
    require("learning_rate", rate, 0 < rate < float("inf"), "above 0 and finite")
