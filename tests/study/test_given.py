"""A given model: what is checked before it is attacked, and what a study of one may say.

Modules: dpmi/study/given.py.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dpmi.data import ImageSet
from dpmi.study import SpecError, parse
from dpmi.study.given import check, returns_probabilities
from dpmi.study.spec import NormalizeSpec

CLASSES, EACH = 4, 30


class Brightness(nn.Module):
    """Recognises a class by the brightness of its images, after normalisation."""

    def __init__(self, centres: list[float]) -> None:
        super().__init__()
        self.register_buffer("centres", torch.tensor(centres))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return -((images.mean(dim=(1, 2, 3))[:, None] - self.centres) ** 2) * 100


def images() -> ImageSet:
    """Class k has brightness (k + 0.5) / 4."""
    labels = torch.arange(CLASSES).repeat(EACH)
    noise = torch.rand(len(labels), 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.1
    return ImageSet((labels.view(-1, 1, 1, 1) + 0.45) / CLASSES + noise, labels)


OWN = [0.125, 0.375, 0.625, 0.875]
WITHIN_255 = [255 * each for each in OWN]
HALVED = [2 * each - 1 for each in OWN]


def test_a_model_of_pixels_in_0_1_passes() -> None:
    check(Brightness(OWN), images(), normalize=None, outputs="logits")


@pytest.mark.parametrize(("centres", "name"), [(HALVED, "'0.5'"), (WITHIN_255, "'0/0.00392'")])
def test_the_range_under_which_it_works_is_named(centres: list[float], name: str) -> None:
    with pytest.raises(ValueError, match=rf"under normalize {name} it recognises 100.0%"):
        check(Brightness(centres), images(), normalize=None, outputs="logits")


def test_what_the_user_says_is_taken() -> None:
    half = NormalizeSpec.model_validate("0.5")
    check(Brightness(HALVED), images(), normalize=half, outputs="logits")
    with pytest.raises(ValueError, match="give that"):
        check(Brightness(HALVED), images(), normalize=None, outputs="logits")
    check(Brightness(HALVED), images(), normalize=NormalizeSpec.model_validate("none"), outputs="logits")


def test_a_model_that_is_near_guessing_in_every_range() -> None:
    with pytest.raises(ValueError, match=r"recognises 25.0% .* guessing recognises 25.0%.*another order"):
        check(Brightness([0.5, 999.0, 999.0, 999.0]), images(), normalize=None, outputs="logits")


def test_guessing_is_the_largest_class() -> None:
    """60 of 80 images are of one class, so 75 % of them say nothing."""
    labels = torch.tensor([0] * 60 + [1] * 20)
    some = ImageSet(torch.rand(80, 1, 4, 4, generator=torch.Generator().manual_seed(1)), labels)
    with pytest.raises(ValueError, match=r"recognises 75.0% .* guessing recognises 75.0%"):
        check(Brightness([0.5, 300.0]), some, normalize=None, outputs="logits")


def test_probabilities_are_told_from_logits() -> None:
    soft = nn.Sequential(Brightness(OWN), nn.Softmax(dim=1))
    assert returns_probabilities(soft, images())
    assert not returns_probabilities(Brightness(OWN), images())
    assert not returns_probabilities(nn.Sequential(Brightness(OWN), nn.LogSoftmax(dim=1)), images())
    check(soft, images(), normalize=None, outputs="probabilities")
    with pytest.raises(ValueError, match="the model returns probabilities"):
        check(soft, images(), normalize=None, outputs="logits")
    with pytest.raises(ValueError, match="outputs is 'probabilities', but"):
        check(Brightness(OWN), images(), normalize=None, outputs="probabilities")


STUDY = """
name = "given"
seeds = [0]
model = "softmax"
data = "digits"
attacks = [{ name = "wiener" }]
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "training is missing; or give checkpoint"),
        (
            'checkpoint = "n.pt"\ntraining = { steps = 1, learning_rate = 1.0 }',
            "training is given, but the model of",
        ),
        (
            'checkpoint = "n.pt"\ndefenses = [{ name = "none" }]',
            "defenses is given, but the model of a checkpoint",
        ),
        ('checkpoint = "n.pt"\nweights = "w.pt"', "weights is given, but the model of a checkpoint"),
        ('checkpoint = "n.pt"\nfeatures = "scatter"', "features is given, but the model of a checkpoint"),
        ('checkpoint = "n.pt"\naudit = {}', "audit is given, but the model of a checkpoint"),
        ('checkpoint = "n.pt"\nunits = { unit = "record" }', "units is given, but the model of a checkpoint"),
        ('checkpoint = "n.pt"\nlinkage = {}', "give drawn = false, and private"),
        ('checkpoint = "n.pt"\nlinkage = { drawn = false }', "drawn = false needs private"),
        ('checkpoint = "torchvision"', "needs a torchvision model"),
        (
            "training = { steps = 1, learning_rate = 1.0 }\nlinkage = { drawn = false, private = 3 }",
            "only the classes of a checkpoint are fixed",
        ),
        (
            'training = { steps = 1, learning_rate = 1.0 }\nfeatures = "scatter"\nnormalize = "0.5"',
            "an extractor takes images in",
        ),
        ('checkpoint = "n.pt"\nnormalize = { mean = [0.5] }', "normalize.std is missing"),
        ('checkpoint = "n.pt"\nnormalize = { mean = [0.5], std = [0.0] }', "standard deviations above 0"),
    ],
)
def test_a_study_of_a_given_model_trains_nothing(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(STUDY + text)


def test_preprocessing_and_the_file_s_role_are_part_of_the_key() -> None:
    texts = [
        'checkpoint = "n.pt"',
        'checkpoint = "n.pt"\nnormalize = "0.5"',
        'checkpoint = "n.pt"\nnormalize = "imagenet"',
        'checkpoint = "n.pt"\noutputs = "probabilities"',
        'weights = "n.pt"\ntraining = { steps = 1, learning_rate = 1.0 }',
    ]
    settings = [parse(STUDY + text).jobs[0].settings for text in texts]
    assert len(set(settings)) == len(texts)
    named = 'checkpoint = "n.pt"\nnormalize = { mean = [0.5], std = [0.5] }'
    assert parse(STUDY + named).jobs[0].settings == settings[1], "a name stands for its numbers"
