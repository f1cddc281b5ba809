"""The result of an accountant: epsilon together with delta, unit, adjacency and caveats.

>>> from accountants import epsilon
>>> run = {"sampling_rate": 0.1, "noise_multiplier": 2.0, "steps": 50, "delta": 1e-3, "unit": "class"}
>>> def cost(adjacency: Adjacency) -> float:
...     return round(epsilon(**run, adjacency=adjacency).epsilon, 2)
>>> {adjacency: cost(adjacency) for adjacency in ADJACENCIES}
{'replace': 2.05, 'add_remove': 1.05}
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Adjacency = Literal["replace", "add_remove"]
"""What neighbouring data sets differ in; see `ADJACENCIES`."""

ADJACENCIES: tuple[Adjacency, ...] = get_args(Adjacency)
"""`replace`: neighbours differ in the content of one bucket (bounded DP; class-DP and subclass-DP use this one).
`add_remove`: neighbours differ in the presence of one bucket (unbounded DP)."""


def rounded_up(epsilon: float) -> str:
    """Return epsilon with three decimals, rounded up, so that it stays an upper bound."""
    return f"{math.ceil(epsilon * 1000) / 1000:.3f}" if math.isfinite(epsilon) else "inf"


@dataclass(frozen=True)
class Condition:
    """One condition of a published theorem, evaluated for a run.

    Attributes:
        statement: the condition as printed, e.g. "q < 1/(16 sigma)".
        holds: whether it holds for this run.
        detail: the two numbers that were compared.

    >>> from accountants import epsilon
    >>> run = {"sampling_rate": 0.01, "noise_multiplier": 1.6, "steps": 200, "delta": 1e-3}
    >>> paper = epsilon(**run, unit="class", accountant="theorem1")
    >>> for condition in paper.conditions:
    ...     print(condition.statement, condition.holds)
    q < 1/(16 sigma) True
    kappa <= sigma^2 ln(1/(q sigma)) False
    q < sqrt(epsilon/(64 sqrt(T ln(1/delta)))) True
    >>> paper.conditions[0].detail
    'q = 0.01, 1/(16 sigma) = 0.03906'
    """

    statement: str
    holds: bool
    detail: str


@dataclass(frozen=True)
class Bound:
    """The part of a `Guarantee` that an accountant computes; the rest is the request."""

    epsilon: float
    conditions: tuple[Condition, ...] = ()
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Guarantee:
    """An (epsilon, delta) with its unit, adjacency and accountant.

    Attributes:
        epsilon: in [0, inf].
        delta: in (0, 1).
        unit: what one bucket is, in the user's words: "class", "subclass", a column name.
        adjacency: one of `ADJACENCIES`.
        accountant: the accountant's registered name.
        is_guarantee: False when epsilon is a published formula that is not an upper bound.
        steps: the number of steps that epsilon covers.
        conditions: the conditions of the published theorem, for accountants that have some.
        caveats: further caveats.

    >>> from accountants import epsilon
    >>> found = epsilon(sampling_rate=0.1, noise_multiplier=2.0, steps=50, delta=1e-3, unit="class")
    >>> round(found.epsilon, 2), found.delta, found.unit, found.adjacency, found.is_guarantee
    (2.05, 0.001, 'class', 'replace', True)
    >>> str(found).split(", one class")[0]
    'class-level (epsilon = 2.046, delta = 0.001) differential privacy'
    """

    epsilon: float
    delta: float
    unit: str
    adjacency: Adjacency
    accountant: str
    is_guarantee: bool
    steps: int
    conditions: tuple[Condition, ...] = ()
    caveats: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values.

        An infinite epsilon is the string "inf": JSON has no infinity, null would mean "not computed", and
        `float("inf")` reads the string back. `conditions` and `caveats` appear only if there are some.
        """
        fields: dict[str, Any] = {
            "accountant": self.accountant,
            "adjacency": self.adjacency,
            "unit": self.unit,
            "epsilon": self.epsilon if math.isfinite(self.epsilon) else "inf",
            "delta": self.delta,
            "is_guarantee": self.is_guarantee,
            "steps": self.steps,
        }
        if self.conditions:
            fields["conditions"] = [asdict(condition) for condition in self.conditions]
        if self.caveats:
            fields["caveats"] = list(self.caveats)
        return fields

    def __str__(self) -> str:
        """Return one sentence; epsilon is rounded up, so that it stays an upper bound."""
        change = "replaced" if self.adjacency == "replace" else "added or removed"
        sentence = (
            f"{self.unit}-level (epsilon = {rounded_up(self.epsilon)}, delta = {self.delta:g}) differential privacy, "
            f"one {self.unit} {change}, after {self.steps} steps (accountant: {self.accountant})."
        )
        return sentence if self.is_guarantee else f"Not a guarantee, for comparison only: {sentence}"
