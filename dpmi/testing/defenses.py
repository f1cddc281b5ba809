"""The conformance suite of defences, one test for each clause of the contract."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache, partial
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

from dpmi import models
from dpmi.data import ImageSet
from dpmi.defenses import Batch, Defense, Recipe, Trained, check, get, private_part, train
from dpmi.metrics import accuracy
from dpmi.models import observe
from dpmi.privacy import Statement

from .digits import SHAPE, digits, digits_of_users, public_digits
from .plugin import PluginCase, PluginConformance


@dataclass(frozen=True)
class DefenseCase(PluginCase):
    """The settings of a defence under test; the model must learn the 8x8 digits of scikit-learn.

    Args:
        settings: the hyper-parameters.
        refused: an invalid value of every hyper-parameter; the error must be "<name> must be ..., got <value>".
        model: name of a classifier for images of 8x8, or a function that always builds the same classifier.
        recipe: the training recipe; the training should take at most a second.
        accuracy: minimum accuracy of the trained model on held-out digits; chance is 0.1.

    >>> case = DefenseCase(settings={"alpha": -0.05}, refused={"alpha": 0.0})
    >>> case.recipe.steps, sum(p.numel() for p in case.fresh_model().parameters())
    (40, 650)
    """

    model: str | Callable[[], nn.Module] = "softmax"
    recipe: Recipe = field(default_factory=partial(Recipe, steps=40, learning_rate=0.5))
    accuracy: float = 0.7

    def fresh_model(self) -> nn.Module:
        """Return the untrained classifier, always with the same weights."""
        if isinstance(self.model, str):
            return models.build(self.model, image_shape=SHAPE, num_classes=10, seed=3)
        return self.model()


class DefenseConformance(PluginConformance):
    """The conformance suite of defences; a subclass sets ``cases``, and pytest runs every test for every case.

    ``cases`` maps the name of a defence to its settings. Further cases of the same defence have a suffix after a slash:
    "my-defense/second".
    """

    cases: ClassVar[Mapping[str, DefenseCase]] = {}

    registered = staticmethod(get)

    @pytest.fixture
    def defense(self, plugin: Defense) -> Defense:
        """Return the defence under test."""
        return plugin

    @pytest.fixture
    def watched(self, defense: Defense, case: DefenseCase, capfd: pytest.CaptureFixture[str]) -> Watched:
        """Return a training on the digits and its observable effects."""
        watched = watch(defense, case.model, case.recipe)
        if watched.printed is None:
            watched.printed = "".join(capfd.readouterr())
        return watched

    @pytest.fixture
    def trained(self, watched: Watched) -> Trained:
        """Return the result of the training on the digits."""
        return watched.trained

    def test_takes_its_parameters_by_name(self, kind: Callable[..., Defense]) -> None:
        """Hyper-parameters are keyword-only, so that a new one does not change the meaning of the others."""
        with pytest.raises(TypeError, match="positional"):
            kind(1.0)

    def test_declares_its_flags(self, defense: Defense) -> None:
        """The flags, which determine the possible compositions, have valid values."""
        assert defense.loss_scope in ("per_sample", "batch_coupled")
        assert defense.stronger in ("larger", "smaller")
        for flag in (defense.stochastic_forward, defense.needs_pretrained, defense.changes_head):
            assert isinstance(flag, bool)
        assert (private_part(defense) is None) == (defense.unit == "none")
        assert all(share > 0 for _, share in defense.stages)
        assert sum(share for _, share in defense.stages) == pytest.approx(1)

    def test_strength_and_label(self, defense: Defense) -> None:
        """The label distinguishes two strengths."""
        assert defense.label.startswith(defense.name.split("+")[0])
        if defense.strength_field is None:
            assert math.isnan(defense.strength)
        else:
            assert defense.strength_field in defense.fields()
            assert math.isnan(defense.strength) or f"{defense.strength:g}" in defense.label

    def test_remarks_are_sentences(self, defense: Defense) -> None:
        """The remarks are non-empty strings for the report."""
        assert all(isinstance(remark, str) and remark for remark in defense.remarks())

    def test_checking_changes_nothing(self, defense: Defense, case: DefenseCase) -> None:
        """``check`` does not change the model."""
        model = case.fresh_model()
        before, modes = deepcopy(model.state_dict()), [m.training for m in model.modules()]
        check(defense, model, _records(defense), public_digits(), case.recipe)
        assert _same(model.state_dict(), before)
        assert [m.training for m in model.modules()] == modes
        assert all(p.requires_grad for p in model.parameters())
        assert [type(m) for m in model.modules()] == [type(m) for m in case.fresh_model().modules()]

    def test_asks_for_labelled_public_images_before_it_starts(
        self, defense: Defense, case: DefenseCase
    ) -> None:
        """A defence that trains on labelled public images raises an error before training if there are none."""
        if defense.needs_pretrained:
            with pytest.raises(ValueError, match="labelled public images"):
                train(defense, case.fresh_model(), _records(defense), case.recipe, seed=0)
        else:
            check(defense, case.fresh_model(), _records(defense), None, case.recipe)

    def test_building_again_changes_nothing(self, defense: Defense, case: DefenseCase) -> None:
        """A second call of ``build`` changes nothing, because every stage calls it."""
        built = defense.build(case.fresh_model())
        before = deepcopy(built.state_dict())
        modules = [type(m) for m in built.modules()]
        again = defense.build(built)
        assert _same(again.state_dict(), before)
        assert [type(m) for m in again.modules()] == modules

    def test_building_is_deterministic(self, defense: Defense, case: DefenseCase) -> None:
        """``build`` always gives the same weights, and the global random generator does not advance."""
        before = torch.get_rng_state()
        first = defense.build(case.fresh_model()).state_dict()
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(7)
        assert _same(defense.build(case.fresh_model()).state_dict(), first)

    def test_loss_of_a_record_depends_on_that_record_alone(self, defense: Defense, case: DefenseCase) -> None:
        """``criterion`` returns one loss per record, in order, independent of the other records of the batch."""
        for stage, _ in defense.stages:
            batch = _batch(stage, case)
            losses = stage.criterion(batch)
            assert losses.shape == (16,)
            assert losses.isfinite().all()
            assert losses.std() > 0
            rows = torch.tensor([3, 11, 4])
            torch.testing.assert_close(stage.criterion(_rows(batch, rows)), losses[rows])

    def test_penalty_is_a_mean_over_records(self, defense: Defense, case: DefenseCase) -> None:
        """``penalty`` is a scalar, and a mean over records unless the loss is batch-coupled."""
        for stage, _ in defense.stages:
            batch = _batch(stage, case)
            penalty = torch.as_tensor(stage.penalty(batch))
            assert penalty.shape == ()
            assert penalty.isfinite()
            if stage.loss_scope == "per_sample":
                alone = [torch.as_tensor(stage.penalty(_rows(batch, torch.tensor([i])))) for i in range(16)]
                torch.testing.assert_close(torch.stack(alone).mean(), penalty, rtol=1e-4, atol=1e-6)

    def test_augments_each_image_by_itself(self, defense: Defense) -> None:
        """``augment`` keeps shape and dtype, and does not change the images of the data set."""
        before = digits().train.images[:16]
        images = before.clone()
        with torch.random.fork_rng(devices=[]):
            changed = defense.augment(images)
        assert changed.shape == images.shape
        assert changed.dtype == images.dtype
        assert torch.equal(images, before)

    def test_everything_that_is_not_frozen_has_a_gradient(self, defense: Defense, case: DefenseCase) -> None:
        """In each stage, the loss has a gradient for every parameter that is not frozen."""
        images, labels = digits().train.images[:64], digits().train.labels[:64]
        for stage, _ in defense.stages:
            model = stage.build(case.fresh_model())
            frozen = set(_frozen_keys(stage, model))
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)
                loss = stage.objective(stage, model, SHAPE, 10, 0)(model, images, labels, 0.5)
                assert loss.shape == ()
            keys, parameters = zip(*model.named_parameters(), strict=True)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for key, gradient in zip(keys, gradients, strict=True):
                assert key in frozen or (gradient is not None and gradient.abs().sum() > 0), key

    def test_learns(self, trained: Trained, case: DefenseCase) -> None:
        """The trained model reaches the accuracy of the case."""
        found = accuracy(trained.model, digits().test.images, digits().test.labels)
        assert found >= case.accuracy

    def test_diagnostics_are_numbers(self, trained: Trained) -> None:
        """Diagnostics are finite floats, because they are stored with the trained model."""
        for key, value in trained.diagnostics.items():
            assert isinstance(key, str)
            assert type(value) is float
            assert math.isfinite(value)

    def test_frozen_layers_stay_as_public_images_left_them(
        self, defense: Defense, trained: Trained, case: DefenseCase
    ) -> None:
        """Frozen weights and buffers do not change after the pretraining; other weights do."""
        model = defense.pretrain(case.fresh_model(), public_digits(), case.recipe, seed=0, progress=None)
        before = deepcopy(defense.build(model).state_dict())
        after = trained.model.state_dict()
        frozen = set(_frozen_keys(defense, model))
        for stage, _ in defense.stages[:-1]:
            frozen &= set(_frozen_keys(stage, stage.build(deepcopy(model))))
        for key, value in after.items():
            if key in frozen:
                assert torch.equal(value, before[key]), key
        assert any(not torch.equal(value, before[key]) for key, value in after.items())

    def test_takes_and_bills_exactly_the_steps_of_the_recipe(
        self, defense: Defense, watched: Watched, case: DefenseCase
    ) -> None:
        """The recipe's steps are taken, reported and charged; earlier updates on public images are not charged."""
        steps = case.recipe.steps
        assert [told[:2] for told in watched.reports[-steps:]] == [
            (done, steps) for done in range(1, steps + 1)
        ]
        # The report comes from inside an update, before that update is counted.
        first = watched.updates - steps
        assert [updates for *_, updates in watched.reports[-steps:]] == list(range(first, watched.updates))
        assert first == 0 or defense.needs_pretrained
        account = watched.trained.account
        if account is not None:
            assert account.ledger.steps == steps

    def test_the_seed_alone_decides_the_parameters(self, defense: Defense, case: DefenseCase) -> None:
        """The result depends on the seed only, and the global generator does not advance, even with Dropout."""

        def fit(seed: int) -> Mapping[str, Tensor]:
            model = case.fresh_model()
            model.register_forward_pre_hook(_drop_some)
            return _fit(defense, case, seed=seed, model=model).model.state_dict()

        before = torch.get_rng_state()
        first = fit(seed=0)
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(7)
        assert _same(fit(seed=0), first)
        assert not _same(fit(seed=1), first)

    def test_returned_model_is_plain(self, defense: Defense, trained: Trained, case: DefenseCase) -> None:
        """The returned model is in evaluation mode, without hooks, gradients or attributes of the training."""
        plain = defense.build(case.fresh_model())
        assert [type(m) for m in trained.model.modules()] == [type(m) for m in plain.modules()]
        for module, fresh in zip(trained.model.modules(), plain.modules(), strict=True):
            assert not module.training
            assert set(vars(module)) == set(vars(fresh))
            for hooks in (key for key in vars(fresh) if "hooks" in key):
                assert len(getattr(module, hooks)) == len(getattr(fresh, hooks)), hooks
        for p in trained.model.parameters():
            assert vars(p) == {}
            assert p.grad is None
            assert not p._backward_hooks
            assert not p._post_accumulate_grad_hooks
            assert p.requires_grad

    def test_returned_model_can_be_trained_again(
        self, defense: Defense, trained: Trained, case: DefenseCase
    ) -> None:
        """The returned model can be trained again like a fresh one."""
        again = _fit(defense, case, model=deepcopy(trained.model))
        assert accuracy(again.model, digits().test.images, digits().test.labels) >= case.accuracy

    def test_state_loads_into_a_fresh_model(
        self, defense: Defense, trained: Trained, case: DefenseCase
    ) -> None:
        """The state dict restores the model, because the store keeps only the state dict."""
        fresh = defense.build(case.fresh_model()).eval()
        fresh.load_state_dict(trained.model.state_dict())
        assert torch.equal(_logits(fresh), _logits(trained.model))

    def test_released_model_is_stochastic_only_if_it_says_so(
        self, defense: Defense, trained: Trained
    ) -> None:
        """The released model draws noise only if ``stochastic_forward`` is set."""
        assert torch.equal(_logits(trained.model, 0), _logits(trained.model, 0))
        if not defense.stochastic_forward:
            assert torch.equal(_logits(trained.model, 0), _logits(trained.model, 1))

    def test_data_are_left_alone(self, watched: Watched) -> None:
        """Private and public images and labels are unchanged."""
        for records, (images, labels) in zip((digits().train, public_digits()), watched.data, strict=True):
            own = records.images
            assert isinstance(own, Tensor)
            assert torch.equal(own, images)
            assert torch.equal(records.labels, labels)
            assert not own.requires_grad
            assert own.grad is None

    def test_training_is_silent(self, watched: Watched) -> None:
        """The training prints nothing and issues no warnings; remarks and statement contain all messages."""
        assert watched.warned == []
        assert watched.printed == ""

    def test_guarantee_carries_the_unit(self, defense: Defense, trained: Trained, case: DefenseCase) -> None:
        """The guarantee of a private defence states its unit; other defences have no account."""
        if defense.unit == "none":
            assert trained.account is None
            return
        assert trained.account is not None
        guarantee = trained.account.guarantee(1e-6)
        assert guarantee.unit == defense.unit
        assert 0 < guarantee.epsilon < math.inf
        assert guarantee.steps == case.recipe.steps

    def test_seeded_run_guarantees_nothing_and_says_why(self, trained: Trained) -> None:
        """A seeded run is not a guarantee, because the seed reveals the noise, and a caveat says so."""
        if trained.account is None:
            return
        guarantee = trained.account.guarantee(1e-6)
        assert not guarantee.is_guarantee
        assert any("came from a user's seed" in caveat for caveat in guarantee.caveats)
        assert "came from a user's seed" in Statement(accounts=(trained.account,), delta=1e-6).markdown()


@dataclass
class Watched:
    """A training and its observable effects."""

    trained: Trained
    reports: list[tuple[int, int, int]]
    """The progress reports (done, total), each with the number of updates so far."""
    updates: int
    data: list[tuple[Tensor, Tensor]]
    """Images and labels before the training, private and public."""
    warned: list[str]
    printed: str | None = None


@cache
def watch(defense: Defense, model: str | Callable[[], nn.Module], recipe: Recipe) -> Watched:
    """Train on the digits and record all observable effects, except printed text, which the caller records."""
    kind_of_optimizer = type(recipe.optimizer_of(nn.Linear(1, 1).parameters()))
    updates = 0
    reports: list[tuple[int, int, int]] = []

    def count(optimizer: torch.optim.Optimizer, *_: object) -> None:
        # The hook also runs for a wrapping optimizer; only the wrapped optimizer is counted.
        nonlocal updates
        updates += type(optimizer) is kind_of_optimizer

    data = [
        (records.images[:].clone(), records.labels.clone()) for records in (digits().train, public_digits())
    ]
    handle = register_optimizer_step_post_hook(count)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("default")
            trained = _fit(
                defense,
                DefenseCase(model=model, recipe=recipe),
                progress=lambda done, total: reports.append((done, total, updates)),
            )
    finally:
        handle.remove()
    return Watched(trained, reports, updates, data, [str(warning.message) for warning in warned])


def _fit(
    defense: Defense,
    case: DefenseCase,
    *,
    seed: int = 0,
    model: nn.Module | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    model = case.fresh_model() if model is None else model
    public = public_digits()
    return train(defense, model, _records(defense), case.recipe, seed=seed, public=public, progress=progress)


def _records(defense: Defense) -> ImageSet:
    """Return the private digits, with users if the unit of the defence is a user."""
    return digits_of_users() if defense.unit == "user" else digits().train


def _drop_some(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (F.dropout(inputs[0], 0.2, module.training),)


def _same(state: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return state.keys() == other.keys() and all(torch.equal(state[key], other[key]) for key in state)


def _frozen_keys(defense: Defense, model: nn.Module) -> list[str]:
    frozen = defense.frozen(model)
    return [key for key in model.state_dict() if any(f"{key}.".startswith(f"{name}.") for name in frozen)]


def _batch(defense: Defense, case: DefenseCase) -> Batch:
    """Return the inputs of the loss for 16 digits, halfway through the training."""
    model = defense.build(case.fresh_model())
    images, labels = digits().train.images[:16], digits().train.labels[:16]
    with torch.random.fork_rng(devices=[]), observe(model, defense.observed(model, SHAPE)) as latents:
        torch.default_generator.manual_seed(0)
        logits = model(images)
    return Batch(images, labels, logits, latents, 0.5)


def _rows(batch: Batch, rows: Tensor) -> Batch:
    latents = {name: latent[rows] for name, latent in batch.latents.items()}
    return Batch(batch.images[rows], batch.labels[rows], batch.logits[rows], latents, batch.done)


def _logits(model: nn.Module, seed: int = 0) -> Tensor:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        logits: Tensor = model(digits().test.images)
    return logits
