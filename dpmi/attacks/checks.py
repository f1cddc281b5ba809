"""The one way in which a hyper-parameter is refused, and the two limits that most of them have."""


def require(name: str, value: object, allowed: bool, limit: str) -> None:
    """Refuse a hyper-parameter, naming it, its value and the limit that it breaks.

    >>> require("restarts", 0, 0 >= 1, "at least 1")
    Traceback (most recent call last):
    ValueError: restarts must be at least 1; got 0
    """
    if not allowed:
        raise ValueError(f"{name} must be {limit}; got {value!r}")


def at_least_one(owner: object, *names: str) -> None:
    """Refuse counts, fields of ``owner``, below 1."""
    for name in names:
        value = getattr(owner, name)
        require(name, value, value >= 1, "at least 1")


def check_rate(rate: float) -> None:
    """Refuse a learning rate that is not above 0 and finite."""
    require("learning_rate", rate, 0 < rate < float("inf"), "above 0 and finite")
