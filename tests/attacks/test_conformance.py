"""What every attack promises, asked of every registered attack."""

from copy import deepcopy
from dataclasses import FrozenInstanceError, fields

import pytest
import torch
from torch import Tensor, nn

from dpmi.attacks import Attack, Reconstructions, get, names
from dpmi.attacks.base import REQUIREMENTS

from .conftest import SHAPE, convolutional, digits, fit

# Enough to get somewhere on 8x8 digits; an attack that is not named here runs with its defaults.
SETTINGS: dict[str, dict[str, object]] = {"miface": {"iterations": 1000}, "enhanced": {"iterations": 200}}
ALL = torch.arange(10)


def make(name: str, **overrides: object) -> Attack:
    return get(name)(**SETTINGS.get(name, {}), **overrides)


def run(attack: Attack, target: nn.Module, classes: Tensor = ALL, seed: int = 0) -> Reconstructions:
    return attack.run(target, classes, image_shape=SHAPE, generator=torch.Generator().manual_seed(seed))


def confidence(target: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    target = deepcopy(target).eval()
    with torch.no_grad():
        return target(images).softmax(1)[torch.arange(len(labels)), labels]


@pytest.fixture(params=names())
def attack(request: pytest.FixtureRequest) -> Attack:
    return make(request.param)


def test_declares_what_it_is(attack: Attack) -> None:
    assert get(attack.name) is type(attack)
    assert attack.requires <= REQUIREMENTS
    assert attack.requires
    for field in fields(attack):
        assert f"{field.name}={getattr(attack, field.name)!r}" in repr(attack)
        with pytest.raises(FrozenInstanceError):
            setattr(attack, field.name, None)


def test_returns_one_image_per_class(attack: Attack, trained: nn.Module) -> None:
    recons = run(attack, trained)
    assert recons.images.shape == (10, *SHAPE)
    assert recons.images.dtype == torch.float32
    assert recons.images.min() >= 0
    assert recons.images.max() <= 1
    assert not recons.images.requires_grad
    assert recons.labels.tolist() == ALL.tolist()
    for column, dtype in (("scores", torch.float32), ("iterations", torch.int64), ("diverged", torch.bool)):
        assert getattr(recons, column).shape == (10,)
        assert getattr(recons, column).dtype == dtype
    assert not recons.diverged.any()
    assert (recons.iterations >= 1).all()


def test_scores_are_those_of_the_returned_tensors(attack: Attack, trained: nn.Module) -> None:
    """Trap 10: no rescaling, no rounding between the image that is scored and the image that is returned."""
    recons = run(attack, trained)
    torch.testing.assert_close(recons.scores, confidence(trained, recons.images, recons.labels))


def test_beats_the_black_and_the_grey_image(attack: Attack, trained: nn.Module) -> None:
    recons = run(attack, trained)
    for level in (0.0, 0.5):
        start = confidence(trained, torch.full((10, *SHAPE), level), ALL)
        assert recons.scores.mean() > start.mean() + 0.5
        assert (recons.scores > start).all()
    assert recons.scores.min() > 0.8


def test_images_are_different_and_not_blank(attack: Attack, trained: nn.Module) -> None:
    """Trap 13."""
    flat = run(attack, trained).images.flatten(1)
    assert (flat.sum(1) > 0.5).all()
    assert (torch.cdist(flat, flat) + 10 * torch.eye(10)).min() > 0.5


def test_same_seed_same_images(attack: Attack, trained: nn.Module) -> None:
    """Trap 19, with restarts so that randomness is used at all."""
    attack = make(attack.name, restarts=2)
    first, second, other = run(attack, trained), run(attack, trained), run(attack, trained, seed=1)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.scores, second.scores)
    assert not torch.equal(first.images, other.images)


def test_global_randomness_is_left_alone(attack: Attack, trained: nn.Module) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = deepcopy(trained)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.inner(images)
            return logits + 0.01 * torch.randn_like(logits)

    before = torch.get_rng_state()
    first = run(attack, Noisy())
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(run(attack, Noisy()).images, first.images)


def test_target_is_left_as_it_was(attack: Attack, trained: nn.Module) -> None:
    target = deepcopy(trained)
    target[3].eval()  # modes differ between modules, and each has its own back afterwards
    target[0].weight.requires_grad_(False)
    target[0].bias.grad = torch.ones_like(target[0].bias)
    state = deepcopy(target.state_dict())
    modes = [module.training for module in target.modules()]
    run(attack, target)
    assert all(torch.equal(value, state[key]) for key, value in target.state_dict().items())
    assert [module.training for module in target.modules()] == modes
    assert [p.requires_grad for p in target.parameters()] == [False, *[True] * 5]
    assert torch.equal(target[0].bias.grad, torch.ones(12))
    assert all(p.grad is None for name, p in target.named_parameters() if name != "0.bias")


def test_target_is_restored_after_an_error(attack: Attack, trained: nn.Module) -> None:
    target = deepcopy(trained)
    with pytest.raises(ValueError, match="largest is 10"):
        run(attack, target, torch.tensor([10]))
    assert all(module.training for module in target.modules())
    assert all(p.requires_grad for p in target.parameters())


def test_counts_are_true(attack: Attack, trained: nn.Module) -> None:
    target = deepcopy(trained)
    queries, gradients = [], []
    target.register_forward_hook(lambda module, inputs, output: queries.append(len(inputs[0])))
    target.register_full_backward_hook(lambda module, into, out: gradients.append(len(out[0])))
    recons = run(attack, target, torch.arange(3))
    assert recons.queries == sum(queries)
    assert recons.grad_calls == sum(gradients)
    assert recons.grad_calls > 0 or "white_grad" not in attack.requires


def test_parameters_need_no_gradient_while_it_runs(attack: Attack, trained: nn.Module) -> None:
    target = deepcopy(trained)
    seen = set()
    target.register_forward_hook(lambda *_: seen.add(any(p.requires_grad for p in target.parameters())))
    run(attack, target, torch.arange(2))
    assert seen == {False}


def test_single_and_repeated_classes(attack: Attack, trained: nn.Module) -> None:
    assert run(attack, trained, torch.tensor([7])).images.shape == (1, *SHAPE)
    twice = run(attack, trained, torch.tensor([7, 2, 7]))
    assert twice.labels.tolist() == [7, 2, 7]
    assert torch.equal(twice.images[0], twice.images[2])


def test_class_does_not_depend_on_the_others(attack: Attack, trained: nn.Module) -> None:
    attack = make(attack.name, restarts=2)
    together, alone = run(attack, trained), run(attack, trained, torch.tensor([4]))
    torch.testing.assert_close(together.scores[4], alone.scores[0], atol=0.01, rtol=0)
    torch.testing.assert_close(together.images[4], alone.images[0], atol=1e-3, rtol=0)


def test_works_inside_no_grad(attack: Attack, trained: nn.Module) -> None:
    outside = run(attack, trained)
    with torch.no_grad():
        assert torch.equal(run(attack, trained).images, outside.images)


def test_two_classes(attack: Attack) -> None:
    images, labels = digits()
    few = labels < 2
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        target = fit(convolutional(2), images[few], labels[few], steps=60)
    recons = run(attack, target, torch.arange(2))
    assert recons.scores.min() > 0.8


def test_progress_ends_at_the_total(attack: Attack, trained: nn.Module) -> None:
    calls: list[tuple[int, int]] = []
    attack.run(
        trained,
        torch.arange(2),
        image_shape=SHAPE,
        generator=torch.Generator(),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1]


class _Breaks(nn.Module):
    """Logits that are no longer finite once an image is far enough from where the attack began."""

    def __init__(self, inner: nn.Module, broken_from: int) -> None:
        super().__init__()
        self.inner = inner
        self.calls = 0
        self.broken_from = broken_from

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.inner(images)
        # Only class 1's rows break, and only from some iteration on: the others must not notice.
        if self.calls > self.broken_from and len(images) > 1:
            logits = torch.where(torch.arange(len(images))[:, None] == 1, torch.nan, logits)
        return logits


def test_non_finite_gradient_ends_one_class_only(attack: Attack, trained: nn.Module) -> None:
    recons = run(attack, _Breaks(deepcopy(trained), broken_from=20), torch.arange(2))
    assert recons.diverged.tolist() == [False, True]
    assert recons.images.isfinite().all()
    assert recons.iterations[1] == 19
    assert recons.images[1].std() > 0, "the best image visited before the break, not the start"
    torch.testing.assert_close(
        recons.scores[0], run(attack, trained, torch.arange(2)).scores[0], atol=0.01, rtol=0
    )


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
def test_bad_classes(attack: Attack, trained: nn.Module, classes: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(attack, trained, classes)


def test_target_that_needs_contiguous_images(attack: Attack, trained: nn.Module) -> None:
    """`view` refuses what a convolution returns for channels_last images."""

    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = deepcopy(trained)

        def forward(self, images: Tensor) -> Tensor:
            features = self.inner[:4](images)
            logits: Tensor = self.inner[5:](features.view(len(features), -1))
            return logits

    recons, same = run(attack, Views()), run(attack, trained)
    assert recons.queries == same.queries + 2
    torch.testing.assert_close(recons.scores, same.scores, atol=0.01, rtol=0)


@pytest.mark.parametrize("shape", [(1, 8), (1, 0, 8), (3, 8, 8), (1, 16, 16), (1, 8.0, 8)])
def test_bad_image_shape(attack: Attack, trained: nn.Module, shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="image_shape"):
        attack.run(trained, ALL, image_shape=shape, generator=torch.Generator())


@pytest.mark.parametrize("wrong", ["target", "classes", "generator"])
def test_wrong_types(attack: Attack, trained: nn.Module, wrong: str) -> None:
    arguments = {"target": trained, "classes": ALL, "generator": torch.Generator(), wrong: 3}
    with pytest.raises(TypeError, match=f"{wrong} must be .* got int"):
        attack.run(arguments.pop("target"), arguments.pop("classes"), image_shape=SHAPE, **arguments)


def test_target_with_nan_logits_is_refused(attack: Attack, trained: nn.Module) -> None:
    target = deepcopy(trained)
    with torch.no_grad():
        target[-1].bias[3] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        run(attack, target)


@pytest.mark.parametrize("head", [nn.Flatten(0), nn.Linear(10, 1), nn.Unflatten(1, (5, 2))])
def test_target_without_logits_is_refused(attack: Attack, trained: nn.Module, head: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"logits \(n, K\) with K at least 2"):
        run(attack, nn.Sequential(trained, head))


@pytest.mark.parametrize("field", ["iterations", "restarts", "learning_rate"])
def test_bad_hyper_parameters(attack: Attack, field: str) -> None:
    if field in {f.name for f in fields(attack)}:
        with pytest.raises(ValueError, match=f"{field} must be .*; got 0"):
            get(attack.name)(**{field: 0})
