"""Parts add up, are asked in order, and are refused, with the reason, where they cannot be combined."""

from __future__ import annotations

import math
import pickle
from dataclasses import FrozenInstanceError, dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from accountants.plugins import PluginError, Registry
from dpmi.data import ImageSet, Split
from dpmi.defenses import (
    Batch,
    ClassDP,
    Defense,
    NoDefense,
    Objective,
    Recipe,
    RecordDP,
    SubclassDP,
    check,
    compose,
    private_part,
    registry,
)
from dpmi.defenses.composition import composition

from .conftest import RECIPE, fit, softmax

DP = {"noise_multiplier": 2.0, "sampling_rate": 0.25, "max_grad_norm": 1.0}


@dataclass(frozen=True, kw_only=True)
class Doubled(Defense):
    """Another loss of a record."""

    name: ClassVar[str] = "doubled"

    def criterion(self, batch: Batch) -> Tensor:
        return 2 * super().criterion(batch)

    def build(self, model: nn.Module) -> nn.Module:
        return nn.Sequential(model, nn.Identity())

    def remarks(self) -> tuple[str, ...]:
        return ("doubled remarks",)


@dataclass(frozen=True, kw_only=True)
class Small(Defense):
    """A penalty on logits, and on what layer 1 says."""

    name: ClassVar[str] = "small"
    strength_field: ClassVar[str | None] = "weight"
    stronger: ClassVar[str] = "larger"  # type: ignore[assignment]

    weight: float

    def observed(self, model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[str, ...]:
        return ("features", "1")

    def penalty(self, batch: Batch) -> Tensor:
        return self.weight * batch.latents["1"].square().mean()

    def diagnose(self, model: nn.Module, data: ImageSet, *, seed: int) -> dict[str, float]:
        return {"small": self.weight}


@dataclass(frozen=True, kw_only=True)
class Coupled(Defense):
    """A penalty that couples the records of a batch."""

    name: ClassVar[str] = "coupled"
    strength_field: ClassVar[str | None] = "share"
    stronger: ClassVar[str] = "smaller"  # type: ignore[assignment]
    loss_scope: ClassVar[str] = "batch_coupled"  # type: ignore[assignment]
    stochastic_forward: ClassVar[bool] = True

    share: float = 0.5

    def observed(self, model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[str, ...]:
        return ("features",)

    def penalty(self, batch: Batch) -> Tensor:
        return self.share * batch.logits.var(dim=0, correction=0).sum()

    def frozen(self, model: nn.Module) -> tuple[str, ...]:
        return ("1.bias",)

    def augment(self, images: Tensor) -> Tensor:
        return images + 1


@dataclass(frozen=True, kw_only=True)
class Scaled(Defense):
    """Other images."""

    name: ClassVar[str] = "scaled"
    needs_pretrained: ClassVar[bool] = True
    changes_head: ClassVar[bool] = True

    def augment(self, images: Tensor) -> Tensor:
        return 3 * images

    def check(self, model: nn.Module, data: ImageSet, public: ImageSet | None) -> None:
        raise ValueError("scaled was asked")

    def remarks(self) -> tuple[str, ...]:
        return ("scaled remarks",)


@dataclass(frozen=True, kw_only=True)
class Staged(Defense):
    """Trains another way in the last quarter."""

    name: ClassVar[str] = "staged"

    late: bool = True

    @property
    def stages(self) -> tuple[tuple[Defense, float], ...]:
        return ((Staged(late=False), 0.75), (self, 0.25))


@dataclass(frozen=True, kw_only=True)
class Weighty(Defense):
    """Has a field that another one has too."""

    name: ClassVar[str] = "weighty"

    weight: float = 1.0


class _OwnObjective(Objective):
    pass


@dataclass(frozen=True, kw_only=True)
class Own(Defense):
    """Computes the loss in a way of its own."""

    name: ClassVar[str] = "own"
    objective: ClassVar[type[Objective]] = _OwnObjective


@pytest.fixture
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = (NoDefense, ClassDP, RecordDP, Doubled, Small)
    monkeypatch.setattr(registry, "REGISTRY", Registry("dpmi.tests", "defence", Defense, kinds, classes=True))


def _batch(done: float = 0.5) -> Batch:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    return Batch(torch.rand(5, 1, 2, 2), torch.arange(5) % 3, logits, {"1": logits}, done)


class TestOneDefence:
    def test_nothing_to_combine(self) -> None:
        assert compose(Doubled()) == Doubled()
        assert compose(Doubled(), NoDefense()) == Doubled()
        assert compose(NoDefense(), NoDefense()) == NoDefense()

    def test_is_a_frozen_dataclass_with_the_fields_of_its_parts(self) -> None:
        both = compose(Small(weight=3.0), Coupled(share=0.25))
        assert both.fields() == ("weight", "share")
        assert repr(both) == "SmallCoupled(weight=3.0, share=0.25)"
        assert both == compose(Small(weight=3.0), Coupled(share=0.25))
        assert both != compose(Small(weight=3.0), Coupled())
        assert hash(both) == hash(compose(Small(weight=3.0), Coupled(share=0.25)))
        with pytest.raises(FrozenInstanceError):
            both.weight = 1.0  # type: ignore[attr-defined]

    def test_order_is_kept(self) -> None:
        there, back = compose(Small(weight=1.0), Doubled()), compose(Doubled(), Small(weight=1.0))
        assert (there.name, back.name) == ("small+doubled", "doubled+small")
        assert there != back

    @pytest.mark.usefixtures("_registered")
    def test_by_name(self) -> None:
        kind = registry.get("small+class-dp")
        settings = {**DP, "delta": 1e-2, "weight": 0.5}
        assert kind(**settings) == compose(Small(weight=0.5), ClassDP(**DP))
        assert kind(**DP, weight=0.5) == kind(**settings), "defaults are those of the parts"
        assert registry.get("doubled") is Doubled
        with pytest.raises(TypeError, match="weight"):
            kind(**DP)

    @pytest.mark.usefixtures("_registered")
    @pytest.mark.parametrize("name", ["smal+class-dp", "class-dp+smal"])
    def test_unknown_part(self, name: str) -> None:
        with pytest.raises(PluginError, match=r"unknown defence 'smal'; did you mean 'small'\?"):
            registry.get(name)

    def test_parts_check_their_own_fields(self) -> None:
        with pytest.raises(ValueError, match="noise_multiplier must be"):
            composition((Small, ClassDP))(**{**DP, "noise_multiplier": -1.0}, weight=1.0)

    @pytest.mark.parametrize("parts", [(Small(weight=1.0), ClassDP(**DP)), (Staged(), Coupled())])
    def test_pickles(self, parts: tuple[Defense, ...]) -> None:
        cloudpickle = pytest.importorskip("cloudpickle")
        both = compose(*parts)
        for library in (pickle, cloudpickle):
            there = library.loads(library.dumps(both))
            assert there == both
            assert type(there) is type(both)


class TestWhatItSays:
    def test_flags(self) -> None:
        both = compose(Small(weight=1.0), Coupled())
        assert (both.loss_scope, both.stochastic_forward) == ("batch_coupled", True)
        assert (both.needs_pretrained, both.changes_head, both.unit) == (False, False, "none")
        other = compose(Scaled(), Doubled())
        assert (other.loss_scope, other.stochastic_forward) == ("per_sample", False)
        assert (other.needs_pretrained, other.changes_head) == (True, True)
        assert compose(Doubled(), SubclassDP(**DP)).unit == "subclass"
        assert compose(Doubled(), Own()).objective is _OwnObjective

    def test_strength_is_that_of_the_private_part_else_of_the_last(self) -> None:
        plain = compose(Small(weight=3.0), Coupled(share=0.25), Doubled())
        assert (plain.strength_field, plain.strength, plain.stronger) == ("share", 0.25, "smaller")
        private = compose(ClassDP(**DP), Small(weight=3.0))
        assert (private.strength_field, private.strength) == ("noise_multiplier", 2.0)
        neither = compose(Doubled(), Scaled())
        assert neither.strength_field is None
        assert math.isnan(neither.strength)

    def test_label(self) -> None:
        both = compose(Doubled(), Small(weight=3.0), ClassDP(**DP))
        assert both.label == "doubled + small, weight 3 + class-dp, noise multiplier 2"

    def test_private_part(self) -> None:
        assert private_part(compose(Doubled(), ClassDP(**DP))) == ClassDP(**DP)
        assert private_part(compose(Doubled(), Scaled())) is None

    def test_remarks(self) -> None:
        assert compose(Doubled(), Scaled()).remarks() == ("doubled remarks", "scaled remarks")
        assert compose(Small(weight=1.0), ClassDP(**DP)).remarks() == ()
        (remark,) = compose(Coupled(), ClassDP(**DP)).remarks()
        assert "every bucket of class-dp holds records of one class" in remark


class TestHooks:
    def test_loss_is_the_one_criterion_and_the_sum_of_penalties(self) -> None:
        batch = _batch()
        both = compose(Small(weight=3.0), Doubled(), Coupled(share=0.25))
        plain = F.cross_entropy(batch.logits, batch.labels, reduction="none")
        assert torch.equal(both.criterion(batch), 2 * plain)
        squares, spread = batch.logits.square().mean(), batch.logits.var(dim=0, correction=0).sum()
        torch.testing.assert_close(both.penalty(batch), 3 * squares + 0.25 * spread)
        assert compose(Doubled(), Scaled()).penalty(batch) == 0

    def test_criterion_is_the_usual_one_where_no_part_has_its_own(self) -> None:
        batch = _batch()
        plain = F.cross_entropy(batch.logits, batch.labels, reduction="none")
        assert torch.equal(compose(Small(weight=3.0), Coupled()).criterion(batch), plain)

    def test_objective_of_a_model(self, split: Split) -> None:
        """From images to the loss, with the model run by hand."""
        both = compose(Coupled(share=0.25), Scaled(), Small(weight=3.0))
        model = softmax()
        images, labels = split.train.images[:9], split.train.labels[:9]
        found = both.objective(both, model, (1, 8, 8), 10, 0)(model, images, labels, 0.0)
        logits = model(3 * (images + 1))  # in the order of the parts
        penalties = 0.25 * logits.var(dim=0, correction=0).sum() + 3 * logits.square().mean()
        torch.testing.assert_close(found, F.cross_entropy(logits, labels) + penalties)

    def test_layers(self) -> None:
        both = compose(Small(weight=1.0), Coupled())
        assert both.observed(softmax(), (1, 8, 8)) == ("features", "1"), "each once"
        assert both.frozen(softmax()) == ("1.bias",)
        built = compose(Doubled(), Small(weight=1.0)).build(softmax())
        assert isinstance(built[1], nn.Identity)  # type: ignore[index]

    def test_every_part_checks(self, split: Split) -> None:
        with pytest.raises(ValueError, match="scaled was asked"):
            check(compose(Doubled(), Scaled()), softmax(), split.train, split.test, RECIPE)

    def test_diagnostics_of_all_parts(self, split: Split) -> None:
        recipe = Recipe(steps=1, learning_rate=0.1)
        trained = fit(compose(Small(weight=3.0), Coupled()), split.train, recipe=recipe)
        assert trained.diagnostics == {"small": 3.0}
        assert torch.equal(trained.model[1].bias, softmax()[1].bias), "frozen"  # type: ignore[index]


class TestRefused:
    @pytest.mark.parametrize(
        ("kinds", "reason"),
        [
            ((NoDefense, Doubled), "none changes nothing; leave it out"),
            ((Small, Doubled, Small), "small is named twice"),
            ((ClassDP, Doubled, RecordDP), "class-dp and record-dp both wrap the optimizer; leave one out"),
            ((Doubled, type("Other", (Doubled,), {"name": "other"})), "both replace the loss of a record"),
            ((Scaled, type("Other", (Scaled,), {"name": "other"})), "both replace the classification head"),
            ((Staged, type("Other", (Staged,), {"name": "other"})), "both divide the training into stages"),
            ((Own, type("Other", (Own,), {"name": "other"})), "both compute the loss in a way of their own"),
            ((Own, ClassDP), "own runs the model on more than the records that class-dp draws"),
            ((Small, Weighty), "small and weighty both have a field 'weight'"),
        ],
    )
    def test_kinds(self, kinds: tuple[type[Defense], ...], reason: str) -> None:
        name = r"\+".join(kind.name for kind in kinds)
        with pytest.raises(PluginError, match=f"defence '{name}' cannot be combined: .*{reason}"):
            composition(kinds)

    def test_coupled_loss_across_units(self) -> None:
        with pytest.raises(
            ValueError, match="coupled couples the records of a batch, but the unit of record-dp"
        ):
            compose(Doubled(), Coupled(), RecordDP(**DP))
        assert compose(Coupled(), ClassDP(**DP)).loss_scope == "batch_coupled"

    @pytest.mark.parametrize("part", [Doubled(), Small(weight=1.0)])
    def test_ghost_clipping_of_another_loss(self, part: Defense) -> None:
        with pytest.raises(ValueError, match=f"'ghost'.* {part.name} changes the loss; use 'hooks'"):
            compose(part, RecordDP(**DP, grad_sample_mode="ghost"))
        compose(part, RecordDP(**DP))
        compose(Weighty(), RecordDP(**DP, grad_sample_mode="ghost"))


class TestStages:
    def test_every_part_is_in_every_stage(self) -> None:
        both = compose(Small(weight=3.0), Staged(), Doubled())
        first, last = both.stages
        assert first == (compose(Small(weight=3.0), Staged(late=False), Doubled()), 0.75)
        assert last == (both, 0.25)

    def test_one_stage_where_no_part_has_more(self) -> None:
        both = compose(Small(weight=3.0), Doubled())
        assert both.stages == ((both, 1.0),)

    def test_bill_under_differential_privacy_is_that_of_all_steps(self, split: Split) -> None:
        recipe = Recipe(steps=20, learning_rate=0.1)
        staged = fit(compose(Staged(), SubclassDP(**DP, clusters_per_class=3)), split.train, recipe=recipe)
        plain = fit(SubclassDP(**DP, clusters_per_class=3), split.train, recipe=recipe)
        assert staged.account is not None
        assert plain.account is not None
        assert staged.account.ledger.steps == 20
        assert staged.account.partition_hash == plain.account.partition_hash, "clustered once"
        assert staged.account.guarantee(1e-3).epsilon == plain.account.guarantee(1e-3).epsilon
