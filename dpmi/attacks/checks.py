"""The one way in which a hyper-parameter is refused."""


def require(name: str, value: object, allowed: bool, limit: str) -> None:
    """Refuse a hyper-parameter, naming it, its value and the limit that it breaks.

    >>> require("restarts", 0, 0 >= 1, "at least 1")
    Traceback (most recent call last):
    ValueError: restarts must be at least 1; got 0
    """
    if not allowed:
        raise ValueError(f"{name} must be {limit}; got {value!r}")
