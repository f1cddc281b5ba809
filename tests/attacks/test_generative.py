"""What sets GMI, KED-MI, VMI, LOMMA and PLG-MI apart, each formula against its definition, each loop as published.

Modules: dpmi/attacks/attackable.py, dpmi/attacks/gmi.py, dpmi/attacks/ked_mi.py, dpmi/attacks/latent_attack.py,
dpmi/attacks/lomma.py, dpmi/attacks/vmi.py.
"""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpmi.attacks import Attack, Gmi, KedMi, Knowledge, LommaGmi, LommaKedMi, Target, Task, Vmi
from dpmi.attacks.base import Candidates
from dpmi.attacks.gmi import MOMENTUM
from dpmi.attacks.ked_mi import realism
from dpmi.attacks.priors import FeatureMoments, Gan, Generator, Surrogates, WganGP
from dpmi.attacks.stages.latents import Noise, starting_latents
from dpmi.models import IDENTITY_LOSSES
from dpmi.models.identity import logit

SHAPE = (1, 2, 2)
CLASSES = torch.arange(3)


class _Shows(Generator):
    """An image is its latent, squeezed into [0, 1]."""

    def __init__(self) -> None:
        super().__init__(4, SHAPE)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return latents.sigmoid().view(-1, *SHAPE)


def _gan(outputs: int) -> Gan:
    torch.manual_seed(0)
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(4, outputs))
    if outputs == 1:
        discriminator.append(nn.Flatten(0))
    return Gan(_Shows(), discriminator).requires_grad_(False)


@pytest.fixture
def target() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).requires_grad_(False)


def test_gmi_moves_as_published() -> None:
    """v' = .9 v - lr g; z += -.9 v + 1.9 v' [published code] is the Nesterov momentum of torch."""
    latent = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([latent], lr=0.02, momentum=MOMENTUM, nesterov=True)
    z, v = latent.detach().clone(), torch.zeros(2, dtype=torch.float64)
    for _ in range(20):
        optimizer.zero_grad()
        (latent**4).sum().backward()
        optimizer.step()
        gradient, before = 4 * z**3, v
        v = 0.9 * v - 0.02 * gradient
        z = z - 0.9 * before + 1.9 * v
    torch.testing.assert_close(latent.detach(), z)


def _published(attack: Attack, model: nn.Module, *modules: nn.Module) -> Candidates:
    """The result of the attack on all three classes, before anything is scored."""
    assert attack.loss is not None
    task = Task(SHAPE, Knowledge(torch.zeros(0, *SHAPE), modules), seed=7, progress=lambda done, total: None)
    return attack._run(Target(model, loss=IDENTITY_LOSSES[attack.loss]), CLASSES, task)


def _double(*modules: nn.Module) -> list[nn.Module]:
    return [deepcopy(module).double() for module in modules]


@pytest.mark.parametrize("lomma", [False, True])
def test_gmi_takes_the_steps_of_the_published_batch(target: nn.Module, lomma: bool) -> None:
    """The loop of GMI's and LOMMA's attack.py: one loss, the mean over the classes, and a rate per class of lr / bs."""
    rate, iterations, students = 0.001, 20, _students()
    images: list[Tensor] = []
    gan, known = _gan(1), (students, _moments())
    published, critic, *others = _double(target, gan.discriminator, *students)
    z = starting_latents(CLASSES, per_class=1, size=4, seed=7).double().requires_grad_()
    v = torch.zeros_like(z)
    for _ in range(iterations):
        images.append(z.sigmoid().view(-1, *SHAPE))
        identity = F.cross_entropy(published(images[-1]), CLASSES)
        if lomma:
            identity = _lomma(published, others, images[-1])
        (gradient,) = torch.autograd.grad(-critic(images[-1]).mean() + 100 * identity, z)
        before, v = v, 0.9 * v - 3 * rate * gradient
        z = (z.detach() - 0.9 * before + 1.9 * v).clamp(-1, 1).requires_grad_()
    settings = {"iterations": iterations, "learning_rate": rate, "restarts": 1}
    attack = LommaGmi(**settings) if lomma else Gmi(**settings)  # type: ignore[arg-type]
    found = _published(attack, target, gan, *known)
    assert found.iterations.tolist() == [iterations] * 3, "the last position is the best"
    torch.testing.assert_close(found.images.double(), z.sigmoid().view(-1, *SHAPE), atol=1e-4, rtol=0)
    assert (found.images - images[0]).abs().mean() > 0.02


def test_the_learning_rates_of_gmi_are_the_published_ones_per_class() -> None:
    """GMI attacks 100 faces at once, LOMMA 60, both with 0.02."""
    assert 100 * Gmi().learning_rate == pytest.approx(0.02)
    assert 60 * LommaGmi().learning_rate == pytest.approx(0.02)


@pytest.mark.parametrize("lomma", [False, True])
def test_ked_mi_takes_the_steps_of_the_published_loop(target: nn.Module, lomma: bool) -> None:
    """Adam over mu and logvar from 0 and 1; LOMMA clamps each sample to [-1, 1] for the generator, KED-MI does not."""
    iterations, count, students = 30, 6, _students()
    gan, known = _gan(3), (students, _moments())
    published, discriminator, *others = _double(target, gan.discriminator, *students)

    def shown(eps: Tensor) -> Tensor:
        z = mu + (0.5 * logvar).exp() * eps.double()
        return (z.clamp(-1, 1) if lomma else z).sigmoid().view(-1, *SHAPE)

    mu = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    logvar = torch.ones(3, 4, dtype=torch.float64, requires_grad=True)
    noise, optimizer = Noise(CLASSES, per_class=1, size=4, seed=7), torch.optim.Adam([mu, logvar], lr=0.02)
    for _ in range(iterations):
        images = shown(noise.draw())
        evidence = discriminator(images).logsumexp(dim=1)
        identity = F.cross_entropy(published(images), CLASSES)
        if lomma:
            identity = _lomma(published, others, images)
        optimizer.zero_grad()
        (F.softplus(evidence).mean() - evidence.mean() + 100 * identity).backward()
        optimizer.step()
    settings = {"iterations": iterations, "images_per_class": count}
    attack = LommaKedMi(**settings) if lomma else KedMi(**settings)  # type: ignore[arg-type]
    found = _published(attack, target, gan, *known)
    fresh = Noise(CLASSES, per_class=1, size=4 * count, seed=7, first=1).draw().view(3, count, 4)
    expected = torch.stack([shown(eps) for eps in fresh.unbind(dim=1)], dim=1).flatten(0, 1)
    torch.testing.assert_close(found.images.double(), expected, atol=1e-4, rtol=0)
    outside = (found.images.logit().abs() > 1.001).float().mean()
    assert (float(outside) == 0) == lomma


def test_vmi_weighs_the_whole_divergence(target: nn.Module) -> None:
    """CE + lambda_kl KL(q || N(0, I)), the sum over all dimensions, as in attack_stylegan.py with a single layer."""
    iterations, draws, weight = 60, 5, 0.1
    (published,) = _double(target)
    mu = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    logvar = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    noise = Noise(CLASSES, per_class=1, size=4 * draws, seed=7)
    optimizer = torch.optim.Adam([mu, logvar], lr=0.05)
    normal = torch.distributions.Normal(torch.tensor(0.0).double(), torch.tensor(1.0).double())
    for _ in range(iterations):
        optimizer.zero_grad()
        for label, eps in zip(CLASSES, noise.draw().double().view(3, draws, 4), strict=True):
            own = torch.distributions.Normal(mu[label], (logvar[label] / 2).exp())
            logits = published((own.loc + own.scale * eps).sigmoid().view(-1, *SHAPE))
            divergence = torch.distributions.kl_divergence(own, normal).sum()
            (F.cross_entropy(logits, label.expand(draws)) + weight * divergence).backward()
        optimizer.step()
    attack = Vmi(iterations=iterations, learning_rate=0.05, draws=draws, kl_weight=weight, images_per_class=3)
    found = _published(attack, target, _gan(1))
    fresh = Noise(CLASSES, per_class=1, size=12, seed=7, first=1).draw().double().view(3, 3, 4)
    expected = (mu[:, None] + (logvar / 2).exp()[:, None] * fresh).sigmoid().view(-1, *SHAPE)
    torch.testing.assert_close(found.images.double(), expected, atol=1e-4, rtol=0)


def _students() -> nn.ModuleList:
    torch.manual_seed(2)
    students = [nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)) for _ in range(2)]
    return nn.ModuleList(students).requires_grad_(False)


def _moments() -> FeatureMoments:
    moments = FeatureMoments()
    moments.mean, moments.std = torch.linspace(-1, 1, 6), torch.ones(6)
    return moments


def _lomma(model: nn.Module, students: list[nn.Module], images: Tensor) -> Tensor:
    """iden_loss of LOMMA's attack.py: the mean logit over the networks, and the features of the target alone."""
    assert isinstance(model, nn.Sequential)
    losses = [F.nll_loss(network(images), CLASSES) for network in (model, *students)]
    away = (model[:3](images) - torch.linspace(-1, 1, 6).double()).pow(2).mean()
    return torch.stack(losses).mean() + away


def test_gmi_weighs_the_critic_against_the_target(target: nn.Module) -> None:
    """With 100 times its weight the target wins: the class is shown, whatever the critic likes."""
    knowledge = Knowledge(torch.zeros(0, *SHAPE), (_gan(1),))
    found = Gmi(iterations=200, learning_rate=0.05, restarts=3).run(
        target,
        torch.arange(3),
        image_shape=SHAPE,
        generator=torch.Generator().manual_seed(0),
        knowledge=knowledge,
    )
    limits = torch.tensor([-1.0, 1.0]).sigmoid()
    assert found.images.min() >= limits[0]
    assert found.images.max() <= limits[1]
    # The image of a class that is best among all corners of the box the latents may be in.
    corners = limits[torch.cartesian_prod(*[torch.arange(2)] * 4)].view(-1, *SHAPE)
    best = target(corners).softmax(1).amax(dim=0)
    assert (found.scores > 0.9 * best).all()


def test_realism_is_softplus_minus_itself_of_the_evidence() -> None:
    gan, images = _gan(5), torch.rand(7, *SHAPE)
    for row, value in enumerate(realism(gan, images).tolist()):
        logits = gan.discriminator(images[row : row + 1])[0].double()
        evidence = math.log(sum(math.exp(v) for v in logits.tolist()))
        assert value == pytest.approx(math.log1p(math.exp(evidence)) - evidence, rel=1e-5)


def test_ked_mi_draws_more_images_where_the_variance_is_larger(target: nn.Module) -> None:
    knowledge = Knowledge(torch.zeros(0, *SHAPE), (_gan(3),))

    def spread(log_variance: float) -> float:
        attack = KedMi(iterations=1, log_variance=log_variance, images_per_class=50)
        found = attack.run(
            target,
            torch.arange(3),
            image_shape=SHAPE,
            generator=torch.Generator().manual_seed(0),
            knowledge=knowledge,
        )
        return float(found.images.std(dim=0).mean())

    assert spread(-4.0) < spread(0.0) < spread(2.0)


@pytest.mark.parametrize("regularizer", ["mean", "sampled"])
def test_lomma_identity_is_its_definition(target: nn.Module, regularizer: str) -> None:
    surrogates = Surrogates(count=2).build((1, 8, 8), 3).eval().requires_grad_(False)
    images, labels = torch.rand(4, 1, 8, 8), torch.tensor([0, 2, 1, 1])
    wide = nn.Sequential(nn.AdaptiveAvgPool2d(2), target).eval()
    moments = FeatureMoments()
    moments.mean, moments.std = torch.linspace(-1, 1, 6), torch.zeros(6)
    attack = LommaGmi(regularizer=regularizer, feature_weight=0.7)  # type: ignore[arg-type]
    known = Knowledge(torch.zeros(0, 1, 8, 8), (_gan(1), surrogates, moments))
    found = attack.identity(Target(wide, loss=logit), known)(images, labels)
    for row, label in enumerate(labels.tolist()):
        one = images[row : row + 1]
        logits = [float(model(one)[0, label]) for model in (wide, *surrogates)]
        features = wide[1][:3](wide[0](one))[0]
        away = sum((float(f) - float(m)) ** 2 for f, m in zip(features, moments.mean, strict=True)) / 6
        assert float(found[row]) == pytest.approx(-sum(logits) / 3 + 0.7 * away, rel=1e-4)


def test_lomma_draws_the_features_it_goes_for_anew(target: nn.Module) -> None:
    surrogates = Surrogates(count=1).build((1, 8, 8), 3).eval().requires_grad_(False)
    moments = FeatureMoments()
    moments.mean, moments.std = torch.zeros(6), torch.ones(6)
    wide = nn.Sequential(nn.AdaptiveAvgPool2d(2), target).eval()
    known = Knowledge(torch.zeros(0, 1, 8, 8), (_gan(1), surrogates, moments))
    images, labels = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    for regularizer, same in (("mean", True), ("sampled", False)):
        cost = LommaGmi(regularizer=regularizer).identity(Target(wide, loss=logit), known)  # type: ignore[arg-type]
        assert torch.equal(cost(images, labels), cost(images, labels)) == same


def test_a_generator_of_another_shape_is_refused(target: nn.Module) -> None:
    wide = nn.Sequential(nn.AdaptiveAvgPool2d(2), target)
    with pytest.raises(ValueError, match=r"makes images of \(1, 2, 2\), the target takes \(1, 8, 8\)"):
        Gmi().run(
            wide,
            torch.arange(3),
            image_shape=(1, 8, 8),
            generator=torch.Generator(),
            knowledge=Knowledge(torch.zeros(0, 1, 8, 8), (_gan(1),)),
        )


def test_no_public_images_are_refused(target: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"public must be .* M at least 1"):
        Gmi(prior=WganGP(steps=1)).fit(target, public=torch.zeros(0, *SHAPE), image_shape=SHAPE)
