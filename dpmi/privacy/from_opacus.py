"""What a script written for Opacus may carry over: a name either means the same here, or an error says what to use.

The tables are the single home of Opacus's names; docs/from_opacus.md shows them. They apply at run time only: the
signatures of the engine, which type checkers read, have dpmi's own arguments alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, ParamSpec, TypeVar

from .samplers import POISSON, PoissonSampling

P = ParamSpec("P")
R = TypeVar("R")


def _never(value: object, others: Mapping[str, Any]) -> bool:
    """No value of the argument means the same here."""
    del value, others
    return False


def _only(same: object) -> Callable[[object, Mapping[str, Any]], bool]:
    """One value of the argument means the same here, as what happens without the argument."""
    return lambda value, others: value is same


def _is_poisson(value: object, others: Mapping[str, Any]) -> bool:
    return value is True and isinstance(others.get("sampling", POISSON), PoissonSampling)


@dataclass(frozen=True)
class Argument:
    """An argument of Opacus that dpmi does not have.

    Args:
        instead: why not, and what to use instead.
        is_default: whether a value, beside the other arguments, asks for what dpmi does anyway; it is then dropped.
    """

    instead: str
    is_default: Callable[[object, Mapping[str, Any]], bool] = _never


_OF_A_RUN: Mapping[str, Argument] = {
    "batch_first": Argument(
        "the first dimension of a batch holds its records; transpose it in the module's forward",
        is_default=_only(True),
    ),
    "poisson_sampling": Argument(
        "the charge must be that of the draws; choose them by sampling=..., for example BallsInBinsSampling(10), one "
        "pass in random order in 10 steps, and leave poisson_sampling out",
        is_default=_is_poisson,
    ),
    "noise_generator": Argument(
        "whoever knows the state of a generator can remove the noise; leave it out, or pass seed=..., whose record "
        "says that it is no guarantee",
        is_default=_only(None),
    ),
    "wrap_model": Argument(
        "the wrapper follows records through the module; train with the wrapped module, and use your own one, which "
        "has the same parameters, for all else",
        is_default=_only(True),
    ),
    "rand_on_empty": Argument(
        "the engine takes the step of an empty draw itself, so that a loop never sees an empty batch; leave it out",
        is_default=_only(False),
    ),
    "target_unclipped_quantile": Argument("use clipping=AdaptiveClipping(quantile=...)"),
    "clipbound_learning_rate": Argument("use clipping=AdaptiveClipping(learning_rate=...)"),
    "unclipped_num_std": Argument("use clipping=AdaptiveClipping(count_noise=...)"),
    "min_clipbound": Argument("the norm of AdaptiveClipping has no limits; leave it out"),
    "max_clipbound": Argument("the norm of AdaptiveClipping has no limits; leave it out"),
    "alphas": Argument("the tight accountant has no orders; leave it out"),
    **dict.fromkeys(
        ("epsilon_tolerance", "eps_error", "delta_error"),
        Argument("the noise is the least that meets the target, and needs no tolerance; leave it out"),
    ),
}

_SAVED = Argument("those that make_private returned are in the file anyway; leave it out")
_FIXED = Argument("noise and clipping norm are fixed within a run; leave it out")
_ONE_FORMAT = Argument("the file has one format, which is checked when it is read; leave it out")

ARGUMENTS: Mapping[str, Mapping[str, Argument]] = {
    "__init__": {
        "accountant": Argument(
            "a guarantee names its accountant; choose one by engine.guarantee(delta=..., accountant=...), or leave it "
            "out"
        ),
        "secure_mode": Argument(
            "every run has its own noise; pass secure_mode=True to make_private", is_default=_only(False)
        ),
    },
    "make_private": {
        **_OF_A_RUN,
        "epochs": Argument(
            "a run with given noise has no end; loop over the loader so often, or use make_private_with_epsilon"
        ),
    },
    "make_private_with_epsilon": _OF_A_RUN,
    "save_checkpoint": {
        "module": _SAVED,
        "optimizer": _SAVED,
        "noise_scheduler": _FIXED,
        "grad_clip_scheduler": _FIXED,
        "checkpoint_dict": Argument("pass objects with a state_dict by name, as in scheduler=scheduler"),
        "module_state_dict_kwargs": _ONE_FORMAT,
        "torch_save_kwargs": _ONE_FORMAT,
    },
    "load_checkpoint": {
        "module": _SAVED,
        "optimizer": _SAVED,
        "noise_scheduler": _FIXED,
        "grad_clip_scheduler": _FIXED,
        "module_load_dict_kwargs": _ONE_FORMAT,
        "torch_load_kwargs": _ONE_FORMAT,
    },
}
"""By method of the engine, the arguments that only Opacus's method has."""

_GROUPS = (
    "give every layer a param group of the optimizer, and pass "
    "clipping=GroupClipping(relative_norms=[1.0, ...]) with one number for each"
)
_CAPTURED = "use 'auto', which chooses among 'stream', 'hooks' and 'ghost'; their results are equal"

VALUES: Mapping[tuple[str, object], str] = {
    ("clipping", "per_layer"): _GROUPS,
    ("clipping", "automatic_per_layer"): f"use 'automatic', or {_GROUPS}",
    ("clipping", "adaptive"): "use clipping=AdaptiveClipping(quantile=..., learning_rate=...)",
    ("max_grad_norm", list): f"give one number, the norm of the whole gradient; for several, {_GROUPS}",
    ("grad_sample_mode", "functorch"): _CAPTURED,
    ("grad_sample_mode", "ew"): _CAPTURED,
    ("grad_sample_mode", "no_op"): _CAPTURED,
    ("grad_sample_mode", "ghost_fsdp"): (
        "use 'ghost' with a module of torch.distributed.fsdp.fully_shard, see docs/sharded.md"
    ),
}
"""Values, or types of values, that only Opacus's arguments of these names take."""


def takes_opacus_arguments(method: Callable[P, R]) -> Callable[P, R]:
    """Decorate a method of the engine that Opacus's engine has, too.

    Arguments of Opacus are dropped if they ask for what the method does anyway, and refused if not. Any other unknown
    argument is left to the method, and so to Python.

    Raises:
        TypeError: from the decorated method, before anything else happens. It names the argument, and what to use
            instead.
    """
    arguments = ARGUMENTS[method.__name__]

    @functools.wraps(method)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in [name for name in kwargs if name in arguments]:
            if not arguments[name].is_default(kwargs[name], kwargs):
                raise TypeError(_refusal(method.__name__, name, kwargs[name], arguments[name].instead))
            del kwargs[name]
        for (name, refused), instead in VALUES.items():
            value = kwargs.get(name)
            if refused in (value if isinstance(value, str) else None, type(value)):
                raise TypeError(_refusal(method.__name__, name, value, instead))
        if arguments.keys() >= _OF_A_RUN.keys() and "partition" not in kwargs:
            raise TypeError(
                "partition is missing: it says which records are one unit of privacy. Pass "
                "partition=Partition.by_column(users, unit='user') with one entry per record, or "
                "Partition.by_record(len(data)) for records, the unit of Opacus"
            )
        return method(*args, **kwargs)

    return checked


def _refusal(method: str, name: str, value: object, instead: str) -> str:
    return f"{name}={value!r} is for Opacus's {method}, not for dpmi's: {instead}"


class Absent:
    """A name of an Opacus class that the class here does not have.

    Args:
        instead: why not, and what to use instead.

    Raises:
        AttributeError: whenever it is read, from the class or an instance.
    """

    def __init__(self, instead: str) -> None:
        self.instead = instead

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise AttributeError(f"{self._name} is of Opacus and not of {owner.__name__}: {self.instead}")


class WithoutOpacusMethods:
    """The attributes of Opacus's engine that :class:`PrivacyEngine` does not have."""

    get_epsilon = Absent(
        "its number is for one record added or removed. Use engine.guarantee(delta=...).epsilon, for one unit of the "
        "partition replaced, or engine.guarantee(delta=..., adjacency='add_remove').epsilon"
    )
    accountant = Absent(
        "use engine.guarantee(delta=...) for an epsilon, engine.ledger for the charged steps, and engine.account to "
        "save them"
    )
    is_compatible = Absent("make_private checks everything before anything is trained; leave the call out")
    validate = Absent("make_private checks everything before anything is trained; leave the call out")
    get_compatible_module = Absent(
        "use opacus.validators.ModuleValidator.fix(module), and build the optimizer afterwards"
    )


SKIPS_STEPS = Absent(
    "a BatchMemoryManager splits batches of records, which would split buckets. Loop over the loader that make_private "
    "returned, and pass max_physical_batch_size to make_private"
)
"""What Opacus's BatchMemoryManager calls of an optimizer."""


class Fixed:
    """A number of an optimizer that Opacus's constructor sets, and that nothing else may set.

    Opacus's schedulers of noise and clipping norm assign to it. A step is charged as planned, so with less noise it
    would release more than is charged.

    Raises:
        AttributeError: it is set a second time.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> float:
        if instance is None:
            raise AttributeError(f"{self._name} belongs to an optimizer, not to its class")
        value: float = vars(instance)[self._name]
        return value

    def __set__(self, instance: object, value: float) -> None:
        if self._name in vars(instance):
            raise AttributeError(
                f"{self._name} is fixed within a run, because each step is charged as planned: schedulers of noise or "
                "clipping norm do not work. For steps with another one, chosen before the first step, call "
                "make_private again with the plain module and optimizer; the engine is charged for both"
            )
        vars(instance)[self._name] = value
