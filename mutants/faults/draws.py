"""Faults in draws: after a loop is left, an error, or a fork; and in charging a step."""

from __future__ import annotations

from ..fault import Fault

_DRAW = "tests/privacy/test_one_draw.py"
_FORK = "tests/privacy/test_fork.py"
_RELEASE = "tests/privacy/test_release.py"

_DRAW_FAULTS = (
    Fault(
        name="the views of a record are those of its neighbours",
        path="dpmi/privacy/sampling.py",
        old="        place //= self.plan.views",
        new="        place += 0",
        tests=("tests/privacy/test_views.py::test_every_record_comes_as_often_as_it_has_views",),
    ),
    Fault(
        name="a training resumes with other views",
        path="dpmi/privacy/checkpoint.py",
        old='            "views": self.plan.views,\n',
        new="",
        tests=("tests/privacy/test_views.py::test_a_training_does_not_resume_with_other_views",),
    ),
    Fault(
        name="leaving a loop gives a new draw",
        path="dpmi/privacy/sampling.py",
        old="        pending = deque(self.pending)\n",
        new="        pending: deque[Draw] = deque()\n",
        tests=(f"{_DRAW}::test_who_is_in_does_not_depend_on_when_the_loop_is_left",),
        audited=True,
    ),
    Fault(
        name="only the last pending draw is kept",
        path="dpmi/privacy/sampling.py",
        old="        self._drawn.extend(draws)\n",
        new="        self._drawn = deque(draws)\n",
        tests=(f"{_DRAW}::test_who_is_in_does_not_depend_on_when_the_loop_is_left",),
    ),
    Fault(
        name="a checkpoint drops draws that are not charged yet",
        path="dpmi/privacy/checkpoint.py",
        old='for buckets, starts in content["pending"]]',
        new='for buckets, starts in content["pending"][:0]]',
        tests=(f"{_DRAW}::test_a_checkpoint_after_a_loop_that_was_left_has_the_draw",),
    ),
    Fault(
        name="a charged draw is used in another step",
        path="dpmi/privacy/optimizer.py",
        old="        draw.spent = True\n",
        new="",
        tests=(f"{_DRAW}::test_a_step_that_was_billed_is_not_released_again",),
        audited=True,
    ),
    Fault(
        name="a loop that swallows errors continues without the dropped buckets",
        path="dpmi/privacy/loader.py",
        old="                self._check_taken(batch)\n",
        new="",
        tests=(f"{_DRAW}::test_a_loop_that_swallows_an_error_does_not_go_on_without_the_dropped_buckets",),
    ),
    Fault(
        name="two loops share one logical step",
        path="dpmi/privacy/loader.py",
        old="                yield self._shared(records, batch)\n                self._check_newest(this)\n",
        new="                yield self._shared(records, batch)\n",
        tests=(f"{_DRAW}::test_two_loops_at_a_time_are_refused",),
    ),
    Fault(
        name="a fork repeats the noise of its parent",
        path="dpmi/privacy/noise.py",
        old="        self._after_fork()\n        flat.normal_(",
        new="        flat.normal_(",
        tests=(f"{_FORK}::test_an_unseeded_source_begins_anew",),
    ),
    Fault(
        name="a fork repeats the draws of its parent",
        path="dpmi/privacy/noise.py",
        old="        self._after_fork()\n        return torch.rand(n,",
        new="        return torch.rand(n,",
        tests=(f"{_FORK}::test_an_unseeded_source_begins_anew",),
    ),
    Fault(
        name="a fork of a seeded run continues with a random seed",
        path="dpmi/privacy/noise.py",
        old="        if self.mode is NoiseMode.SEEDED:\n            raise RuntimeError(\n",
        new="        if self.mode is None:\n            raise RuntimeError(\n",
        tests=(f"{_FORK}::test_a_seeded_source_is_refused",),
    ),
    Fault(
        name="parent and child release one draw",
        path="dpmi/privacy/sampling.py",
        old="if not draw.spent and draw.process == here)",
        new="if not draw.spent and here)",
        tests=(f"{_FORK}::test_a_draw_is_not_released_by_parent_and_child",),
    ),
    Fault(
        name="a forked process completes the step of its parent",
        path="dpmi/privacy/optimizer.py",
        old="if draw.process != os.getpid():",
        new="if draw.process < 0:",
        tests=(f"{_FORK}::test_a_step_that_was_begun_in_the_parent_is_not_released_by_the_child",),
    ),
)

_BILL_FAULTS = (
    Fault(
        name="no step is charged",
        path="dpmi/privacy/optimizer.py",
        old="        self._bill()\n",
        new="",
        tests=("tests/privacy/test_engine.py::test_empty_draws_update_with_noise_and_are_billed",),
        audited=True,
    ),
    Fault(
        name="a user's step hook replaces the charge",
        path="dpmi/privacy/optimizer.py",
        old="        if not draw.charge.made:\n",
        new="        if self.step_hook is None and not draw.charge.made:\n",
        tests=(f"{_RELEASE}::test_a_step_hook_of_the_user_does_not_replace_the_bill",),
    ),
)

_SIZE = "tests/privacy/test_physical_limit.py"
_SIZE_FAULTS = (
    Fault(
        name="the rest of a step is packed with another limit",
        path="dpmi/privacy/sampling.py",
        old="limit = packed_with or self.limit.records",
        new="limit = self.limit.records",
        tests=(f"{_SIZE}::test_a_step_keeps_the_limit_that_it_was_packed_with",),
    ),
    Fault(
        name="a pass starts again where a batch did not fit",
        path="dpmi/privacy/loader.py",
        old="            self.draws.go_on_with(failed)\n",
        new="            pass\n",
        tests=(f"{_SIZE}::test_the_next_loop_is_the_rest_of_the_pass",),
    ),
    Fault(
        name="a batch that did not fit is stepped with a part of its gradient",
        path="dpmi/privacy/optimizer.py",
        old="self._module.drop(",
        new="len(",
        tests=(f"{_SIZE}::test_a_loop_that_swallows_the_error_does_not_release_the_rest",),
    ),
    Fault(
        name="a step that did not fit into memory after its charge is charged again",
        path="dpmi/privacy/loader.py",
        old="failed.records > 1 and not (failed.draw and failed.draw.spent)",
        new="failed.records > 1",
        tests=(f"{_SIZE}::test_a_step_that_was_charged_is_not_taken_again",),
    ),
)

FAULTS: tuple[Fault, ...] = (*_DRAW_FAULTS, *_BILL_FAULTS, *_SIZE_FAULTS)
