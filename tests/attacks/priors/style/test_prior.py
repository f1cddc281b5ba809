from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dpmi.attacks.priors import Gan, samples
from dpmi.attacks.priors.style import prior as style
from dpmi.attacks.priors.style.network import StyleGenerator
from dpmi.attacks.priors.style.prior import StylePrior

SMALL = StylePrior(steps=120, batch_size=8, latent_size=8, mapping_layers=2, width=4)


def _crosses(count: int) -> Tensor:
    """8x8 images, a white row and column at random places."""
    random = torch.Generator().manual_seed(0)
    images = torch.zeros(count, 1, 8, 8)
    for image in images:
        row, column = torch.randint(8, (2,), generator=random).tolist()
        image[0, row] = image[0, :, column] = 1
    return images


def build(prior: StylePrior, shape: tuple[int, int, int] = (1, 8, 8)) -> Gan:
    torch.manual_seed(prior.seed)
    return prior.build(shape, 10)


@pytest.fixture(autouse=True)
def _random() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 32, 32), (3, 64, 64)])
def test_makes_images_of_the_size(shape: tuple[int, int, int]) -> None:
    prior = StylePrior(width=2)
    gan = build(prior, shape)
    generator = gan.generator
    assert isinstance(generator, StyleGenerator)
    images = generator(torch.randn(4, 64))
    assert images.shape == (4, *shape)
    assert images.min() >= 0
    assert images.max() <= 1
    assert gan.discriminator(images).shape == (4,)
    base = 7 if shape[1] == 28 else 4
    assert generator.synthesis.blocks[:2] == (f"b{base}", f"b{2 * base}")
    assert generator.synthesis.num_ws == 2 * len(generator.synthesis.blocks)


def test_refuses_a_size_it_cannot_make() -> None:
    with pytest.raises(ValueError, match=r"image_shape .*got \(1, 4, 4\)"):
        StylePrior().build((1, 4, 4), 10)


def test_other_shapes_are_resized_from_and_to_a_square() -> None:
    gan = StylePrior(width=4).build((1, 70, 60), 10).eval()
    images = gan.generator(torch.randn(2, gan.generator.latent_size))
    assert images.shape == (2, 1, 70, 60)
    square = F.interpolate(images, (64, 64), mode="bilinear", antialias=True)
    torch.testing.assert_close(gan.discriminator(images), gan.discriminator(square))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("batch_size", 1),
        ("learning_rate", 0.0),
        ("r1", -1.0),
        ("latent_size", 0),
        ("mapping_layers", 0),
        ("width", 0),
        ("crop", 8),
    ],
)
def test_refuses_what_is_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be .* got {value}"):
        StylePrior(**{name: value})  # type: ignore[arg-type]


def test_learns_what_the_images_look_like() -> None:
    """Every image is white on one side, on the left in half of them."""
    left = torch.zeros(1, 8, 8)
    left[:, :, :4] = 1
    public = torch.stack([left, left.flip(2)] * 32)
    prior = StylePrior(steps=60, batch_size=16, latent_size=8, mapping_layers=2, width=4, learning_rate=0.03)
    gan = build(prior)
    before = samples(gan, 32)
    trainer = prior.trainer(gan, public, None)
    for _ in range(trainer.steps):
        trainer.step()
    after = samples(gan, 32)
    assert _distance(after, public) < 0.5 * _distance(before, public)


def _distance(images: Tensor, public: Tensor) -> float:
    """Mean distance from the nearest public image."""
    return float(torch.cdist(images.flatten(1), public.flatten(1)).min(dim=1).values.mean())


def test_mean_style_is_the_mean_of_the_styles() -> None:
    gan, public = build(SMALL), _crosses(64)
    trainer = SMALL.trainer(gan, public, None)
    for _ in range(12):
        trainer.step()
    generator = gan.generator
    assert isinstance(generator, StyleGenerator)
    styles = generator.mapping(torch.randn(4000, 8))[:, 0]
    apart = (generator.mapping.w_avg - styles.mean(dim=0)).norm() / styles.std(dim=0).norm()
    assert apart < 0.3


def test_interrupted_training_ends_where_an_uninterrupted_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a file, over steps with the gradient penalty and without."""
    monkeypatch.setattr(style, "LAZY", 2)
    public = _crosses(40)
    whole = build(SMALL)
    trainer = SMALL.trainer(whole, public, None)
    for _ in range(6):
        trainer.step()

    first = build(SMALL)
    trainer = SMALL.trainer(first, public, None)
    for _ in range(3):
        trainer.step()
    stored = io.BytesIO()
    torch.save([first.state_dict(), trainer.state_dict(), torch.get_rng_state()], stored)
    torch.rand(100)
    stored.seek(0)
    module, training, random = torch.load(stored, weights_only=True)
    second = build(StylePrior(**{**vars(SMALL), "seed": 5}))
    trainer = SMALL.trainer(second, public, None)
    second.load_state_dict(module)
    trainer.load_state_dict(training)
    torch.set_rng_state(random)
    for _ in range(3):
        trainer.step()
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in whole.state_dict().items())
