"""Composition of several defences in one training: ``transfer+bido-hsic``, ``subclass-dp+calor``.

A composition is itself a defence. Its fields are those of its parts. Parts can be combined if no two of them change the
same thing; otherwise an error gives the reason.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, ClassVar, get_type_hints

from torch import Tensor, nn

from accountants.plugins import PluginError
from dpmi.data import ImageSet
from dpmi.models import Adaptation
from dpmi.progress import Progress

from .base import Defense
from .objective import Batch, Objective
from .private import PrivateDefense, private_part
from .recipe import Recipe
from .session import Session, Setup

SEPARATOR = "+"


def compose(*parts: Defense) -> Defense:
    """Return the composition of several defences.

    Args:
        parts: at least one; they build the model in this order, which is also their order in the name.

    Raises:
        ValueError: two parts cannot be combined; the message gives the reason.

    Example:
        >>> from dpmi.defenses import ClassDP, NoDefense
        >>> private = ClassDP(noise_multiplier=1.0, sampling_rate=0.2, max_grad_norm=1.0)
        >>> compose(private, NoDefense()) == private
        True
    """
    kept = [part for part in parts if type(part).name != "none"] or list(parts[:1])
    if len(kept) == 1:
        return kept[0]
    values = {f: getattr(part, f) for part in kept for f in part.fields()}
    return composition(tuple(type(part) for part in kept))(**values)


@lru_cache
def composition(kinds: tuple[type[Defense], ...]) -> type[Composition]:
    """Return the class of a composition.

    Args:
        kinds: the classes of the parts, at least two.

    Raises:
        PluginError: (a ValueError) they cannot be combined; the message gives the reason.
    """
    name = SEPARATOR.join(kind.name for kind in kinds)
    problem = _conflict(kinds)
    if problem is not None:
        raise PluginError(f"defence {name!r} cannot be combined: {problem}")
    with_strength = [kind for kind in kinds if kind.strength_field is not None]
    # The strength of the composition is that of its private part, or else of its last part.
    with_strength.sort(key=lambda kind: issubclass(kind, PrivateDefense))
    private = [kind for kind in kinds if issubclass(kind, PrivateDefense)]
    flags: dict[str, Any] = {
        "name": name,
        "kinds": kinds,
        "unit": private[0].unit if private else "none",
        "loss_scope": _joined([kind.loss_scope for kind in kinds], "per_sample"),
        "stochastic_forward": any(kind.stochastic_forward for kind in kinds),
        "needs_pretrained": any(kind.needs_pretrained for kind in kinds),
        "changes_head": any(kind.changes_head for kind in kinds),
        "objective": _joined([kind.objective for kind in kinds], Objective),
        **{
            key: getattr(with_strength[-1], key)
            for key in ("strength_field", "strength_range", "stronger")
            if with_strength
        },
    }
    fields = [
        (f.name, hints[f.name], dataclasses.field(default=f.default, default_factory=f.default_factory))
        for kind in kinds
        for hints in [get_type_hints(kind)]
        for f in dataclasses.fields(kind)
    ]
    made = dataclasses.make_dataclass(
        "".join(kind.__name__ for kind in kinds),
        fields,
        bases=(Composition,),
        namespace={**flags, "__doc__": f"{name}: see its parts.", "__module__": __name__},
        frozen=True,
        kw_only=True,
    )
    assert issubclass(made, Composition)
    return made


class Composition(Defense):
    """Base class of all compositions; each hook calls the parts in order."""

    kinds: ClassVar[tuple[type[Defense], ...]]

    def __post_init__(self) -> None:
        private = private_part(self)
        if private is not None:
            private.check_beside(*(part for part in self.parts if part is not private))
            coupled = [part.name for part in self.parts if part.loss_scope == "batch_coupled"]
            if coupled and not private.couples_inside_buckets:
                raise ValueError(
                    f"{coupled[0]} couples the records of a batch, but the unit of {private.name} is one "
                    f"{private.unit}: its guarantee would not hold. Combine it with class-dp, subclass-dp or user-dp"
                )

    def __reduce__(self) -> tuple[Any, ...]:
        # pickle could not find the class, which is created at run time.
        return _remade, (self.kinds, {f: getattr(self, f) for f in self.fields()})

    @cached_property
    def parts(self) -> tuple[Defense, ...]:
        """One defence for each part of the name."""
        return tuple(kind(**{f: getattr(self, f) for f in kind.fields()}) for kind in self.kinds)

    @property
    def pretrains(self) -> bool:
        """Whether a part trains on labelled public images first."""
        return any(part.pretrains for part in self.parts)

    @property
    def label(self) -> str:
        """The labels of the parts."""
        return " + ".join(part.label for part in self.parts)

    @property
    def plain_loss(self) -> bool:
        """Whether no part changes the loss."""
        return all(part.plain_loss for part in self.parts)

    @property
    def stages(self) -> tuple[tuple[Defense, float], ...]:
        """The stages of the part that has several; the other parts apply to every stage."""
        for part in self.parts:
            if len(part.stages) > 1:
                return tuple(
                    (compose(*(stage if other is part else other for other in self.parts)), share)
                    for stage, share in part.stages
                )
        return ((self, 1.0),)

    def check(self, model: nn.Module, data: ImageSet, public: ImageSet | None) -> None:
        """Run the checks of every part."""
        for part in self.parts:
            part.check(model, data, public)

    def pretrain(
        self,
        model: nn.Module,
        public: ImageSet | None,
        recipe: Recipe,
        *,
        seed: int,
        progress: Progress | None,
    ) -> nn.Module:
        """Pretrain with every part, in order."""
        for part in self.parts:
            model = part.pretrain(model, public, recipe, seed=seed, progress=progress)
        return model

    def build(self, model: nn.Module) -> nn.Module:
        """Build with every part, in order."""
        for part in self.parts:
            model = part.build(model)
        return model

    def frozen(self, model: nn.Module) -> tuple[str, ...]:
        """Return the layers that any part freezes."""
        return tuple(name for part in self.parts for name in part.frozen(model))

    def observed(self, model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[str, ...]:
        """Return the layers that any part observes."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.observed(model, image_shape)))

    def augment(self, images: Tensor) -> Tensor:
        """Augment with every part, in order."""
        for part in self.parts:
            images = part.augment(images)
        return images

    def criterion(self, batch: Batch) -> Tensor:
        """Return the criterion of the one part that overrides it."""
        return next(
            (part for part in self.parts if _overrides(type(part), "criterion")), self.parts[0]
        ).criterion(batch)

    def penalty(self, batch: Batch) -> Tensor | float:
        """Return the sum of all penalties."""
        return sum((part.penalty(batch) for part in self.parts), start=0.0)

    def privatize(self, setup: Setup) -> Session:
        """Privatize with the private part, if there is one."""
        private = private_part(self)
        return super().privatize(setup) if private is None else private.privatize(setup)

    def adaptations(self) -> tuple[Adaptation, ...]:
        """Return the adaptive attacks against all parts, without duplicates."""
        found = {adaptation.name: adaptation for part in self.parts for adaptation in part.adaptations()}
        return tuple(found.values())

    def diagnose(self, model: nn.Module, data: ImageSet, *, seed: int) -> dict[str, float]:
        """Return the diagnostics of all parts."""
        return {k: v for part in self.parts for k, v in part.diagnose(model, data, seed=seed).items()}

    def remarks(self) -> tuple[str, ...]:
        """Return the remarks of all parts and on their combination."""
        found = tuple(remark for part in self.parts for remark in part.remarks())
        private = private_part(self)
        if private is None or self.loss_scope == "per_sample":
            return found
        return (*found, *private.remarks_on_coupling())


def _remade(kinds: tuple[type[Defense], ...], values: dict[str, Any]) -> Defense:
    return composition(kinds)(**values)


def _overrides(kind: type[Defense], hook: str) -> bool:
    return getattr(kind, hook) is not getattr(Defense, hook)


def _joined(values: Sequence[Any], usual: Any) -> Any:
    return next((value for value in values if value != usual), usual)


def _conflict(kinds: Sequence[type[Defense]]) -> str | None:
    """Return why these parts cannot be combined; None if they can."""

    def those(condition: Any) -> list[str]:
        return [kind.name for kind in kinds if condition(kind)]

    if those(lambda kind: kind.name == "none"):
        return "none changes nothing; leave it out"
    again = [name for name, count in Counter(kind.name for kind in kinds).items() if count > 1]
    if again:
        return f"{again[0]} is named twice"
    private = those(lambda kind: issubclass(kind, PrivateDefense))
    for several, what in (
        (private, "wrap the optimizer"),
        (those(lambda kind: _overrides(kind, "criterion")), "replace the loss of a record"),
        (those(lambda kind: kind.changes_head), "replace the classification head"),
        (those(lambda kind: _overrides(kind, "stages")), "divide the training into stages"),
        (those(lambda kind: kind.objective is not Objective), "compute the loss in a way of their own"),
    ):
        if len(several) > 1:
            return f"{' and '.join(several)} both {what}; leave one out"
    own_way = those(lambda kind: kind.objective is not Objective)
    if private and own_way:
        return (
            f"{own_way[0]} runs the model on more than the records that {private[0]} draws, so their gradients would "
            "not be clipped together; leave one out"
        )
    owner: dict[str, str] = {}
    for kind in kinds:
        for field in kind.fields():
            if owner.setdefault(field, kind.name) != kind.name:
                return f"{owner[field]} and {kind.name} both have a field {field!r}"
    return None
