"""What the loop computes from a shared batch record by record stays so; all else is an ordinary tensor."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpmi.privacy.isolation.follow import Following
from dpmi.privacy.isolation.labels import Coupled
from dpmi.privacy.isolation.public import PublicTensors
from dpmi.privacy.isolation.shared import BucketTensor, Constants, Shared, ordinary

X = torch.arange(12.0).view(4, 3) + 1


def shared_batch(
    *, constants: Constants | None = None, rehearsing: bool = False
) -> tuple[Shared, BucketTensor]:
    if constants is None:
        constants = Constants()
        constants.learning = False
    shared = Shared(Following(PublicTensors(nn.Identity()), 4), constants, rehearsing=rehearsing)
    return shared, shared.take_in(X.clone(), "0")


@pytest.mark.parametrize("rehearsing", [False, True])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + 1,
        lambda x: x.exp(),
        lambda x: x.flatten(1),
        lambda x: x.sum(1),
        lambda x: x[:, 0],
        lambda x: x.T,
    ],
)
def test_what_is_done_record_by_record_follows(
    function: Callable[[Tensor], Tensor], rehearsing: bool
) -> None:
    shared, x = shared_batch(rehearsing=rehearsing)
    y = function(x)
    assert type(y) is BucketTensor
    assert torch.equal(ordinary(y), function(X))
    assert torch.equal(shared.real(y), function(X))
    assert not shared.numbers_left


@pytest.mark.parametrize("rehearsing", [False, True])
@pytest.mark.parametrize(
    "function",
    [lambda x: x.mean(0), lambda x: x.flip(0), lambda x: x[:2], lambda x: x.cumsum(0), lambda x: x.max()],
)
def test_all_else_is_ordinary_and_taken_by_nobody(
    function: Callable[[Tensor], Tensor], rehearsing: bool
) -> None:
    shared, x = shared_batch(constants=Constants(), rehearsing=rehearsing)
    y = function(x)
    assert type(y) is Tensor
    assert torch.equal(y, function(X))
    with pytest.raises(Coupled, match="neither computed from them record by record"):
        shared.real(y)
    assert shared.numbers_left, "as a number, it may be read unseen"


@pytest.mark.parametrize(
    "read",
    [lambda x: x.tolist(), lambda x: float(x.max()), lambda x: x.numpy(), lambda x: bool((x > 0).all())],
)
def test_numbers_that_are_read_are_noted(read: Callable[[Tensor], object]) -> None:
    shared, x = shared_batch()
    read(x)
    assert shared.numbers_left


def test_shapes_are_no_numbers() -> None:
    shared, x = shared_batch()
    assert (len(x), x.shape, x.dim(), x.dtype) == (4, (4, 3), 2, torch.float32)
    assert not shared.numbers_left


@pytest.mark.parametrize("rehearsing", [False, True])
def test_writing_in_place_writes_to_what_is_behind(rehearsing: bool) -> None:
    shared, x = shared_batch(rehearsing=rehearsing)
    path = shared.path(x)
    x.mul_(2)
    x[:, 0] = 7.0
    assert F.threshold(input=x, threshold=8.0, value=8.0, inplace=True) is x
    expected = X * 2
    expected[:, 0] = 7.0
    expected.clamp_(min=8.0)
    assert torch.equal(ordinary(x), expected)
    assert torch.equal(shared.real(x), expected)
    assert shared.path(x) != path


def test_writing_across_records_makes_it_of_no_use() -> None:
    shared, x = shared_batch()
    x.sub_(X.mean(0))
    with pytest.raises(Coupled, match=r"another physical batch|is combined with the records"):
        shared.real(x)
    _, y = shared_batch()
    y[0] = 0.0
    with pytest.raises(Coupled):
        y._shared.real(y)


@pytest.mark.parametrize("alias", [lambda x: x.data, lambda x: torch.from_numpy(x.numpy())])
def test_memory_that_is_given_away_is_a_copy(alias: Callable[[Tensor], Tensor]) -> None:
    """A write to it would be seen by nobody."""
    shared, x = shared_batch()
    given = alias(x)
    given -= given.mean(0)
    assert torch.equal(shared.real(x), X)
    assert shared.numbers_left
    assert type(given) is Tensor


def test_a_tensor_of_another_batch_is_refused() -> None:
    shared, _ = shared_batch()
    _, other = shared_batch()
    with pytest.raises(Coupled, match="of another physical batch"):
        shared.real(other)


def test_a_parameter_does_not_meet_the_records_in_the_loop() -> None:
    shared, _ = shared_batch(constants=Constants())
    with pytest.raises(Coupled, match="a parameter of shape"):
        shared.real(nn.Parameter(torch.ones(3)))


def test_constants_are_what_the_dry_run_saw_unchanged() -> None:
    constants, mean = Constants(), X.mean(0)
    _, x = shared_batch(constants=constants, rehearsing=True)
    assert type(x - mean) is BucketTensor
    constants.learning = False
    _, x = shared_batch(constants=constants)
    assert type(x - mean) is BucketTensor
    assert type(x - X.mean(0)) is Tensor, "made later"
    mean.add_(1)
    _shared, x = shared_batch(constants=constants)
    assert type(x - mean) is Tensor, "changed"


def test_paths_tell_what_was_done() -> None:
    def of(function: Callable[[Tensor], Tensor], records: int = 4) -> object:
        constants = Constants()
        constants.learning = False
        shared = Shared(Following(PublicTensors(nn.Identity()), records), constants, rehearsing=False)
        return shared.path(function(shared.take_in(torch.rand(records, 3), "0")))

    assert of(lambda x: x * 2) == of(lambda x: x * 2) == of(lambda x: x * 2, 7)
    assert of(lambda x: x.view(len(x), 3, 1)) == of(lambda x: x.view(len(x), 3, 1), 7)
    different = [
        of(f)
        for f in (lambda x: x * 2, lambda x: x * 3, lambda x: x + 2, lambda x: x * 2 * 2, lambda x: x * 2.0)
    ]
    assert len(set(different)) == 5


def test_gradients_do_not_come_back_through_what_the_loop_gets() -> None:
    shared, _ = shared_batch()
    real = X.clone().requires_grad_() * 1
    shared.following.take_in(real, shared.following.label(shared.real(_)))
    out = shared.give_out(real, ("module", 0))
    assert type(out) is BucketTensor
    with pytest.raises(RuntimeError, match=r"backward\(\) was called on a tensor other than"):
        ordinary(out.sum()).backward()


def test_copies_and_pickles_are_ordinary() -> None:
    _, x = shared_batch()
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    for found in (copy.deepcopy(x), copy.copy(x), pickle.loads(pickle.dumps(x)), torch.load(file)):
        assert type(found) is Tensor
        assert torch.equal(found, X)


def test_after_the_step_it_is_like_any_tensor() -> None:
    shared, x = shared_batch()
    shared.end()
    for found in (x + 1, x.mean(0)):
        assert type(found) is Tensor
    assert not shared.numbers_left
