"""The conformance suite of attacks, one test for each clause of the contract."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from dpmi.attacks import Attack, Budget, Knowledge, LabelsOnly, Reconstructions, get
from dpmi.attacks.base import REQUIREMENTS
from dpmi.models import IDENTITY_LOSSES, Adaptation, matched

from .digits import SHAPE, classifier, digits
from .plugin import PluginCase, PluginConformance

ALL = torch.arange(10)


@dataclass(frozen=True)
class AttackCase(PluginCase):
    """The settings of an attack under test, on a classifier of the 8x8 digits of scikit-learn.

    Args:
        settings: the hyper-parameters; the attack should take at most a second.
        refused: an invalid value of every hyper-parameter; the error must be "<name> must be ...; got <value>".
        random: further settings with which the result depends on the seed.
        draws: whether the result of any settings depends on the seed, up to rounding.
        score: minimum of the target's confidence in the reconstructions of every class, on average.
        gain: minimum difference between the mean confidence and that in a black or a grey image.
        rounding: maximum difference of confidences due to rounding, which a search of many steps amplifies; a tenth of
            it for pixels.

    >>> case = AttackCase(
    ...     settings={"iterations": 100}, refused={"iterations": 0}, draws=False, score=0.5, gain=0.1)
    >>> get("miface")(**case.settings).iterations
    100
    """

    random: Mapping[str, Any] = field(default_factory=dict)
    draws: bool = True
    score: float = 0.8
    gain: float = 0.5
    rounding: float = 0.01


class AttackConformance(PluginConformance):
    """The conformance suite of attacks; a subclass sets ``cases``, and pytest runs every test for every case.

    ``cases`` maps the name of an attack to its settings. Further cases of the same attack have a suffix after a slash:
    "my-attack/second".

    >>> class TestMiFace(AttackConformance):  # in a test file, where pytest finds it
    ...     cases = {"miface": AttackCase(settings={"iterations": 100}, refused={"iterations": 0}, draws=False)}
    >>> [name for name in dir(TestMiFace) if name.startswith("test_target_is")]
    ['test_target_is_left_as_it_was', 'test_target_is_restored_after_an_error']
    """

    cases: ClassVar[Mapping[str, AttackCase]] = {}

    registered = staticmethod(get)

    @pytest.fixture
    def attack(self, plugin: Attack) -> Attack:
        """Return the attack under test."""
        return plugin

    @pytest.fixture
    def random_attack(self, kind: type[Attack], case: AttackCase) -> Attack:
        """Return the attack with settings for which its result depends on the seed."""
        return kind(**{**case.settings, **case.random})

    @pytest.fixture
    def target(self) -> nn.Module:
        """Return a trained classifier of ten classes, a copy that tests may change."""
        return deepcopy(classifier())

    @pytest.fixture
    def found(self, attack: Attack) -> Reconstructions:
        """Return the reconstructions of all classes of the target."""
        return reconstruct(attack)

    @pytest.fixture
    def drawn(self, random_attack: Attack) -> Reconstructions:
        """Return the reconstructions of the random attack."""
        return reconstruct(random_attack)

    def test_says_what_it_needs(self, attack: Attack) -> None:
        """It declares its requirements from the known set, and a loss exactly if it takes gradients."""
        assert attack.requires
        assert attack.requires <= REQUIREMENTS
        assert (attack.loss in IDENTITY_LOSSES) == ("white_grad" in attack.requires)

    def test_returns_images_of_every_class(self, attack: Attack, found: Reconstructions) -> None:
        """The images are in [0, 1], and every column of the result has the right shape and dtype."""
        count = 10 * attack.images_per_class
        assert found.images.shape == (count, *SHAPE)
        assert found.images.dtype == torch.float32
        assert found.images.min() >= 0
        assert found.images.max() <= 1
        assert not found.images.requires_grad
        assert torch.equal(found.labels, ALL.repeat_interleave(attack.images_per_class))
        columns = (("scores", torch.float32), ("iterations", torch.int64), ("diverged", torch.bool))
        for column, dtype in columns:
            assert getattr(found, column).shape == (count,)
            assert getattr(found, column).dtype == dtype
        assert not found.diverged.any()
        assert (found.iterations >= 1).all()
        assert found.stopped_by is None

    def test_scores_are_those_of_the_returned_tensors(
        self, found: Reconstructions, target: nn.Module
    ) -> None:
        """The scored image is not rescaled or rounded before it is returned."""
        torch.testing.assert_close(found.scores, _confidence(target, found.images, found.labels))

    def test_beats_the_black_and_the_grey_image(
        self, found: Reconstructions, case: AttackCase, target: nn.Module
    ) -> None:
        """The target's confidence in the reconstructions exceeds that in blank images."""
        scores = found.scores.view(10, -1).mean(dim=1)
        for level in (0.0, 0.5):
            blank = _confidence(target, torch.full((10, *SHAPE), level), ALL)
            assert scores.mean() > blank.mean() + case.gain
            assert (scores > blank).sum() > 10 * case.gain
        assert scores.min() > case.score

    def test_images_are_different_and_not_blank(self, attack: Attack, found: Reconstructions) -> None:
        """The images of different classes differ, and so do the images of one class."""
        flat = found.images.flatten(1)
        assert (flat.sum(1) > 0.5).all()
        assert (torch.cdist(flat, flat) + 10 * torch.eye(len(flat))).min() > (
            0.5 if attack.images_per_class == 1 else 0
        )

    def test_same_seed_same_images(
        self, random_attack: Attack, drawn: Reconstructions, case: AttackCase, target: nn.Module
    ) -> None:
        """The same seed gives the same images, another seed gives different images if the attack draws any number."""
        again = _run(random_attack, target)
        assert torch.equal(again.images, drawn.images)
        assert torch.equal(again.scores, drawn.scores)
        other = _run(random_attack, target, seed=1).images
        assert torch.allclose(again.images, other, atol=1e-5) != case.draws

    def test_global_randomness_is_left_alone(self, random_attack: Attack, target: nn.Module) -> None:
        """The global generator does not advance, even if the target draws random numbers."""
        before = torch.get_rng_state()
        first = _run(random_attack, _Noisy(target))
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(7)
        assert torch.equal(_run(random_attack, _Noisy(target)).images, first.images)

    def test_target_is_left_as_it_was(self, attack: Attack, target: nn.Module) -> None:
        """Weights, buffers, gradients, modes and ``requires_grad`` of the target are unchanged."""
        convolution, pooling = target.get_submodule("0"), target.get_submodule("3")
        pooling.eval()  # the modes of the modules differ, and each must be restored
        convolution.get_parameter("weight").requires_grad_(False)
        bias = convolution.get_parameter("bias")
        bias.grad = torch.ones_like(bias)
        state = deepcopy(target.state_dict())
        modes = [module.training for module in target.modules()]
        _run(attack, target)
        assert all(torch.equal(value, state[key]) for key, value in target.state_dict().items())
        assert [module.training for module in target.modules()] == modes
        assert [p.requires_grad for p in target.parameters()] == [False, *[True] * 5]
        assert torch.equal(bias.grad, torch.ones(12))
        assert all(p.grad is None for key, p in target.named_parameters() if key != "0.bias")

    def test_target_is_restored_after_an_error(self, attack: Attack, target: nn.Module) -> None:
        """After an error the model is not left frozen."""
        with pytest.raises(ValueError, match="largest is 10"):
            _run(attack, target, torch.tensor([10]))
        assert all(module.training for module in target.modules())
        assert all(p.requires_grad for p in target.parameters())

    def test_counts_are_true(self, attack: Attack, target: nn.Module) -> None:
        """The counts of queries and gradient calls equal the actual calls of the target."""
        queries: list[int] = []
        gradients: list[int] = []
        target.register_forward_hook(lambda module, inputs, output: queries.append(len(inputs[0])))

        def count(_: nn.Module, into: Any, out: Any) -> None:
            gradients.append(len(out[0]))

        target.register_full_backward_hook(count)
        recons, learnt = _run(attack, target, torch.arange(3)), _knowledge(attack, 10)
        assert recons.queries - learnt.queries == sum(queries)
        assert recons.grad_calls - learnt.grad_calls == sum(gradients)
        assert (sum(gradients) > 0) == ("white_grad" in attack.requires)

    def test_takes_a_loss_that_it_is_told(self, attack: Attack, target: nn.Module) -> None:
        """An adaptive attack uses the loss of the adaptation; an attack without gradients refuses it."""
        losses: list[str] = []

        def told(logits: Tensor, labels: Tensor) -> Tensor:
            losses.append("told")
            return IDENTITY_LOSSES["logit"](logits, labels)

        adaptation = matched("told", told)
        assert attack.takes(adaptation) == ("white_grad" in attack.requires)
        if attack.takes(adaptation):
            _run(attack, target, torch.arange(2), adaptation=adaptation)
            assert losses
        else:
            with pytest.raises(ValueError, match="'told' has no effect"):
                _run(attack, target, adaptation=adaptation)

    def test_stops_when_the_budget_is_spent(self, attack: Attack, target: nn.Module) -> None:
        """It then returns its best images so far."""
        free, learnt = _run(attack, target, torch.arange(3)), _knowledge(attack, 10)
        limit = free.queries - learnt.queries - 1
        recons = _run(attack, target, torch.arange(3), budget=Budget(queries=limit))
        assert recons.queries - learnt.queries <= limit
        assert recons.stopped_by == "queries"
        assert recons.images.shape == free.images.shape
        assert recons.images.isfinite().all()

    def test_refuses_a_budget_that_pays_for_nothing(self, attack: Attack, target: nn.Module) -> None:
        """A budget that covers no search is refused before the attack starts."""
        with pytest.raises(ValueError, match="budget must allow more than"):
            _run(attack, target, budget=Budget(queries=1))

    def test_asks_for_no_more_than_labels_or_is_refused(self, attack: Attack, target: nn.Module) -> None:
        """On a target that returns labels only, it either runs or is refused."""
        if attack.requires & {"white_grad", "logits", "probs", "features", "bn_stats"}:
            with pytest.raises(ValueError, match="returns labels only"):
                _run(attack, LabelsOnly(target))
        else:
            recons = _run(attack, LabelsOnly(target))
            assert set(recons.scores.tolist()) <= {0.0, 1.0}

    def test_refuses_to_run_without_what_it_learns(self, attack: Attack, target: nn.Module) -> None:
        """An attack that needs priors or public images refuses to run without its knowledge."""
        if not attack.priors() and "public_data" not in attack.requires:
            return
        with pytest.raises(ValueError, match=r"call fit .*pass its result"):
            attack.run(target, ALL, image_shape=SHAPE, generator=torch.Generator())

    def test_parameters_need_no_gradient_while_it_runs(self, attack: Attack, target: nn.Module) -> None:
        """Parameter gradients are not needed and would cost a fifth more."""
        seen = set()
        target.register_forward_hook(lambda *_: seen.add(any(p.requires_grad for p in target.parameters())))
        _run(attack, target, torch.arange(2))
        assert seen == {False}

    def test_single_and_repeated_classes(self, attack: Attack, target: nn.Module) -> None:
        """A class that is listed twice is attacked twice, with the same result."""
        count = attack.images_per_class
        assert _run(attack, target, torch.tensor([7])).images.shape == (count, *SHAPE)
        twice = _run(attack, target, torch.tensor([7, 2, 7]))
        assert twice.labels[::count].tolist() == [7, 2, 7]
        assert torch.equal(twice.images[:count], twice.images[-count:])

    def test_class_does_not_depend_on_the_others(
        self, random_attack: Attack, drawn: Reconstructions, case: AttackCase, target: nn.Module
    ) -> None:
        """The reconstructions of a class are independent of the other classes, up to rounding."""
        alone = _run(random_attack, target, torch.tensor([4]))
        rows = slice(4 * random_attack.images_per_class, 5 * random_attack.images_per_class)
        torch.testing.assert_close(drawn.scores[rows], alone.scores, atol=case.rounding, rtol=0)
        torch.testing.assert_close(drawn.images[rows], alone.images, atol=case.rounding / 10, rtol=0)

    def test_works_inside_no_grad(self, attack: Attack, found: Reconstructions, target: nn.Module) -> None:
        """An attack inside ``torch.no_grad`` gives the same images."""
        with torch.no_grad():
            assert torch.equal(_run(attack, target).images, found.images)

    def test_two_classes(self, attack: Attack, case: AttackCase) -> None:
        """It works with the minimum of two classes."""
        recons = _run(attack, deepcopy(classifier(2, steps=60)), torch.arange(2), num_classes=2)
        assert recons.scores.view(2, -1).mean(dim=1).min() > case.score

    def test_progress_ends_at_the_total(self, attack: Attack, target: nn.Module) -> None:
        """The reported progress never decreases and ends at the total."""
        calls: list[tuple[int, int]] = []
        attack.run(
            target,
            torch.arange(2),
            image_shape=SHAPE,
            generator=torch.Generator(),
            knowledge=_knowledge(attack, 10),
            progress=lambda done, total: calls.append((done, total)),
        )
        assert calls
        assert calls == sorted(calls)
        assert calls[-1][0] == calls[-1][1]

    def test_target_that_needs_contiguous_images(
        self, attack: Attack, found: Reconstructions, case: AttackCase, target: nn.Module
    ) -> None:
        """A target with ``view``, which fails after a convolution in channels_last, gives the same scores."""
        recons = _run(attack, _Views(target))
        assert recons.queries == found.queries + 2
        torch.testing.assert_close(recons.scores, found.scores, atol=case.rounding, rtol=0)

    @pytest.mark.parametrize(
        ("classes", "message"),
        [
            (torch.tensor([0, 10]), r"classes must be in \[0, 10\).*largest is 10"),
            (torch.tensor([-1]), "smallest is -1"),
            (torch.tensor([], dtype=torch.int64), "R at least 1"),
            (torch.tensor([[1]]), r"shape \(1, 1\)"),
            (torch.tensor([1.0]), "float32"),
        ],
    )
    def test_refuses_bad_classes(
        self, attack: Attack, target: nn.Module, classes: Tensor, message: str
    ) -> None:
        """Invalid classes raise an error, and the message says what is wrong."""
        with pytest.raises(ValueError, match=message):
            _run(attack, target, classes)

    @pytest.mark.parametrize("shape", [(1, 8), (1, 0, 8), (3, 8, 8), (1, 16, 16), (1, 8.0, 8)])
    def test_refuses_a_bad_image_shape(
        self, attack: Attack, target: nn.Module, shape: tuple[int, int, int]
    ) -> None:
        """An invalid image shape, or one that the target does not accept, raises an error."""
        with pytest.raises(ValueError, match="image_shape"):
            attack.run(target, ALL, image_shape=shape, generator=torch.Generator())

    @pytest.mark.parametrize("wrong", ["target", "classes", "generator"])
    def test_refuses_wrong_types(self, attack: Attack, target: nn.Module, wrong: str) -> None:
        """A wrong type raises a TypeError that names the argument."""
        right = {"target": target, "classes": ALL, "generator": torch.Generator()}
        arguments: dict[str, Any] = {**right, wrong: 3}
        with pytest.raises(TypeError, match=f"{wrong} must be .* got int"):
            attack.run(arguments.pop("target"), arguments.pop("classes"), image_shape=SHAPE, **arguments)

    def test_refuses_a_target_whose_logits_are_not_finite(self, attack: Attack, target: nn.Module) -> None:
        """A target with logits that are not finite is refused."""
        with torch.no_grad():
            target.get_submodule("6").get_parameter("bias")[3] = torch.nan
        with pytest.raises(ValueError, match="not finite"):
            _run(attack, target)

    @pytest.mark.parametrize("head", [nn.Flatten(0), nn.Linear(10, 1), nn.Unflatten(1, (5, 2))])
    def test_refuses_a_target_without_logits(
        self, attack: Attack, target: nn.Module, head: nn.Module
    ) -> None:
        """A target whose output is not logits of at least two classes is refused."""
        with pytest.raises(ValueError, match=r"logits \(n, K\) with K at least 2"):
            _run(attack, nn.Sequential(target, head))


def _run(
    attack: Attack,
    target: nn.Module,
    classes: Tensor = ALL,
    seed: int = 0,
    *,
    num_classes: int = 10,
    budget: Budget | None = None,
    adaptation: Adaptation | None = None,
) -> Reconstructions:
    return attack.run(
        target,
        classes,
        image_shape=SHAPE,
        generator=torch.Generator().manual_seed(seed),
        knowledge=_knowledge(attack, num_classes),
        budget=budget,
        adaptation=adaptation,
    )


@cache
def reconstruct(attack: Attack) -> Reconstructions:
    """Attack all classes of the target, once for all tests that use the result."""
    return _run(attack, deepcopy(classifier()))


@cache
def _knowledge(attack: Attack, num_classes: int) -> Knowledge:
    """Return the attack's knowledge from the held-out images, for the target with this number of classes."""
    target = deepcopy(classifier() if num_classes == 10 else classifier(num_classes, steps=60))
    return attack.fit(target, public=digits().test.images, image_shape=SHAPE, folder=Path(_folder().name))


@cache
def _folder() -> TemporaryDirectory[str]:
    """Return a temporary cache folder, through which attacks share their common priors."""
    return TemporaryDirectory()


def _confidence(target: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    target = deepcopy(target).eval()
    with torch.no_grad():
        probabilities: Tensor = target(images).softmax(1)
    return probabilities[torch.arange(len(labels)), labels]


class _Noisy(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images)
        return logits + 0.01 * torch.randn_like(logits)


class _Views(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(inner.children())

    def forward(self, images: Tensor) -> Tensor:
        for layer in self.layers:
            images = images.view(len(images), -1) if isinstance(layer, nn.Flatten) else layer(images)
        return images
