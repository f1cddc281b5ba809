"""What a loop may not do with a batch of several buckets, whatever the dry runs showed.

Modules: dpmi/privacy/dry_run.py, dpmi/privacy/grad_sample.py, dpmi/privacy/isolation/shared.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dpmi.privacy.isolation.shared import Constants

from .test_dry_run import Loop, Trained, after_the_dry_runs, linear, plain, two_terms


def penalty(run: Trained, x: Tensor, y: Tensor) -> None:
    loss = run.criterion(run.module(x), y)
    (loss + 0.01 * sum(p.square().sum() for p in run.model.parameters())).backward()
    run.optimizer.step()


def last_batch() -> Loop:
    kept: list[Tensor] = []

    def loop(run: Trained, x: Tensor, y: Tensor) -> None:
        kept.append(x)
        plain(run, x if run.optimizer.rehearsing else kept[0], y)

    return loop


def changed(change: Callable[[Trained, Tensor], Tensor], *, inputs: bool) -> Loop:
    """Something else than the batch goes into the module, or than its output into the criterion."""

    def loop(run: Trained, x: Tensor, y: Tensor) -> None:
        out = run.module(change(run, x) if inputs else x)
        run.criterion(out if inputs else change(run, out), y).backward()
        run.optimizer.step()

    return loop


def check_refused(loop: Loop, match: str) -> None:
    model = linear()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(RuntimeError, match=match):
        Trained(model, loop=loop, grad_sample_mode="hooks")
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_a_second_term_of_the_loss_is_refused() -> None:
    check_refused(
        after_the_dry_runs(two_terms),
        r"backward\(\) was called on a tensor other than the loss of the criterion",
    )


def test_a_penalty_on_parameters_is_refused() -> None:
    check_refused(
        after_the_dry_runs(penalty), r"parameter '\d.\w+' has a gradient that does not come from outputs"
    )


def test_what_belongs_to_another_batch_is_refused() -> None:
    check_refused(last_batch(), "a tensor of another physical batch is used")


def test_a_trained_parameter_in_the_loop_is_refused() -> None:
    def shifted(run: Trained, out: Tensor) -> Tensor:
        return out + run.model[2].bias  # type: ignore[index, operator]

    check_refused(
        changed(shifted, inputs=False),
        "a parameter of shape .* is combined with the records outside of the private module",
    )


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        (True, "computes the module's inputs depends on the number of records"),
        (False, "computes the criterion's arguments depends on the number of records"),
    ],
)
def test_what_depends_on_the_number_of_records_is_noticed(inputs: bool, match: str) -> None:
    check_refused(changed(lambda _, t: t * len(t), inputs=inputs), match)


def test_constants_are_learnt_in_the_dry_runs_only() -> None:
    constants, mean, of_the_batch = Constants(), torch.ones(3), torch.ones(3)
    of_the_batch._dpmi = (object(), False)  # type: ignore[attr-defined]
    assert constants.knows(mean)
    assert not constants.knows(of_the_batch)
    constants.learning = False
    assert constants.knows(mean)
    assert not constants.knows(torch.ones(3))
    mean.add_(1)
    assert not constants.knows(mean)
