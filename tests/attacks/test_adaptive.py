"""Attacks by somebody who knows the defence.

Modules: dpmi/attacks/base.py, dpmi/attacks/brep_mi.py, dpmi/attacks/enhanced.py, dpmi/attacks/miface.py,
dpmi/attacks/target.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpmi.attacks import Attack, BrepMi, Budget, Enhanced, LabelsOnly, MIFace, Reconstructions, Target
from dpmi.attacks.priors import WganGP
from dpmi.models import IDENTITY_LOSSES, Adaptation, Averaged, averaged, matched
from dpmi.testing.digits import SHAPE, classifier, digits

CLASSES = torch.arange(3)
LABELS_ONLY = BrepMi(iterations=2, prior=WganGP(steps=2, width=0.1))
MARGIN = matched("margin loss", IDENTITY_LOSSES["margin"])


class Loud(nn.Module):
    """The same answers, so sure that the probabilities have no gradient left."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = classifier()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = 1e4 * self.inner(images)
        return logits


def attacked(
    target: nn.Module, adaptation: Adaptation | None = None, attack: Attack | None = None, **besides: Any
) -> Reconstructions:
    attack = attack or Enhanced(iterations=60)
    return attack.run(
        target,
        CLASSES,
        image_shape=SHAPE,
        generator=torch.Generator().manual_seed(0),
        knowledge=attack.fit(target, public=digits().test.images, image_shape=SHAPE),
        adaptation=adaptation,
        **besides,
    )


def test_a_loss_that_fits_gets_around_hidden_gradients() -> None:
    """Athalye, Carlini, Wagner: what looks like protection was a gradient of zero."""
    hidden = attacked(Loud())
    found = attacked(Loud(), MARGIN)
    assert hidden.scores.max() < 0.5
    assert found.scores.min() > 0.5
    # What counts in the end is what the released model says.
    with torch.no_grad():
        confidence = Loud().eval()(found.images).softmax(dim=1)
    torch.testing.assert_close(found.scores, confidence[CLASSES, CLASSES])


def test_a_stand_in_is_searched_and_the_target_scores() -> None:
    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = classifier()

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.inner(images.round())
            return logits

    def seeing(model: nn.Module, public: Tensor) -> nn.Module:
        inner = model.get_submodule("inner")
        assert not inner.training
        return inner

    around = Adaptation(name="straight through", stand_in=seeing)
    found = attacked(Blind(), around)
    assert found.scores.mean() > attacked(Blind()).scores.mean() + 0.3
    with torch.no_grad():
        expected = Blind().eval()(found.images).softmax(dim=1)[CLASSES, CLASSES]
    torch.testing.assert_close(found.scores, expected)


def test_a_stand_in_that_is_the_model_changes_nothing() -> None:
    target = classifier()
    same = Adaptation(name="same", stand_in=lambda model, _: model)
    assert torch.equal(attacked(target, same).images, attacked(target).images)


def test_every_run_of_the_weights_is_counted_and_paid_for() -> None:
    target = classifier()
    plain, often = attacked(target), attacked(target, averaged())
    checks = 2 + len(CLASSES)
    assert plain.queries == checks + 61 * 3
    assert often.queries == checks + Averaged(target).draws * 61 * 3
    assert often.grad_calls == Averaged(target).draws * plain.grad_calls
    limit = often.queries // 2
    short = attacked(target, averaged(), budget=Budget(queries=limit))
    assert short.queries <= limit
    assert short.stopped_by == "queries"
    learns = Adaptation(name="learns", stand_in=lambda model, _: model, learns=True)
    assert attacked(target, learns).queries == plain.queries + len(digits().test.images)


def test_features_are_those_of_the_released_model() -> None:
    """A stand-in may have others, of another length: a public mean was taken of the released model's."""
    released, other = classifier(), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    target = Target(released.eval(), loss=IDENTITY_LOSSES["logit"])
    images, labels = digits().test.images[:4], digits().test.labels[:4]
    _, features = target.identity_and_features(images, labels)
    assert target.queries == 4
    with target.adapted(Adaptation(name="other", stand_in=lambda *_: other), images, features=True):
        losses, found = target.identity_and_features(images, labels)
        assert target.queries == 4 + 2 * 4
    torch.testing.assert_close(found, features)
    torch.testing.assert_close(losses, -other(images)[torch.arange(4), labels])
    released.train()


def test_a_penalty_is_part_of_what_is_lowered() -> None:
    """Towards white images, by a penalty on what is dark."""
    bright = Adaptation(
        name="bright", penalty=lambda model, public: lambda x: 100 * (1 - x).flatten(1).mean(dim=1)
    )
    target = classifier()
    assert attacked(target, bright).images.mean() > 0.9 > attacked(target).images.mean()


def test_stop_rule_of_miface_is_about_confidence_whatever_is_lowered() -> None:
    attack = MIFace(iterations=300, learning_rate=0.1, stop_confidence=0.9, window=300)
    found = attacked(classifier(), MARGIN, attack)
    assert (found.iterations < 300).all()
    assert (found.scores >= 0.9 - 1e-4).all()


def test_what_changes_nothing_is_refused() -> None:
    target = classifier()
    with pytest.raises(ValueError, match="'doubt' has no effect on enhanced"):
        attacked(target, matched("doubt", IDENTITY_LOSSES["doubt"]))
    assert not BrepMi().takes(MARGIN)
    assert BrepMi().takes(averaged())


def test_what_it_cannot_be_made_with_is_refused() -> None:
    needs = Adaptation(name="needs images", stand_in=lambda model, _: model, learns=True)
    with pytest.raises(ValueError, match="'needs images' needs public images, but there are none"):
        Enhanced(iterations=2).run(
            classifier(), CLASSES, image_shape=SHAPE, generator=torch.Generator(), adaptation=needs
        )
    with pytest.raises(ValueError, match="needs the target's weights, but the target returns labels only"):
        attacked(LabelsOnly(classifier()), averaged(), LABELS_ONLY)


def test_target_is_left_as_it_was_where_the_stand_in_fails() -> None:
    def broken(model: nn.Module, public: Tensor) -> nn.Module:
        raise RuntimeError("no such layer")

    target = classifier()
    modes = [module.training for module in target.modules()]
    with pytest.raises(RuntimeError, match="no such layer"):
        attacked(target, Adaptation(name="broken", stand_in=broken))
    assert [module.training for module in target.modules()] == modes
    assert all(p.requires_grad for p in target.parameters())
