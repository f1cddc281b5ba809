"""What plug-ins are tried on: the digits, their public counterparts, and a classifier of them."""

from __future__ import annotations

import pytest
import torch

from dpmi.metrics import accuracy
from dpmi.testing.digits import SHAPE, classifier, digits, public_digits


def test_public_digits_lie_on_their_side_and_are_no_private_ones() -> None:
    public, test = public_digits(), digits().test
    assert public.images.shape[1:] == SHAPE
    assert public.images.is_contiguous()
    assert torch.equal(public.images[7, 0], test.images[7, 0].T)
    assert torch.equal(public.labels, test.labels)
    private = {image.numpy().tobytes() for image in digits().train.images}
    assert not any(image.numpy().tobytes() in private for image in public.images)


@pytest.mark.parametrize("classes", [2, 10])
def test_the_classifier_knows_the_first_digits(classes: int) -> None:
    before = torch.get_rng_state()
    model = classifier(classes)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    few = digits().test.labels < classes
    assert accuracy(model, digits().test.images[few], digits().test.labels[few]) > 0.95
    assert classifier(classes) is model, "trained once"
