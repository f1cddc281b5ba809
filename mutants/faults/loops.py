"""Faults in the loops of other libraries: steps that are not counted, checkpoints without an account, averages."""

from __future__ import annotations

from ..fault import Fault

_TESTS = "tests/privacy/integrations"
_ACCELERATE = f"{_TESTS}/test_accelerate.py"
_LIGHTNING = f"{_TESTS}/test_lightning.py"
_TRANSFORMERS = f"{_TESTS}/test_transformers.py"

FAULTS: tuple[Fault, ...] = (
    Fault(
        name="a private module can be averaged over processes",
        path="dpmi/privacy/grad_sample.py",
        old="    def _ddp_params_and_buffers_to_ignore(self)",
        new="    def _ddp_ignored(self)",
        tests=(f"{_ACCELERATE}::test_a_private_module_cannot_be_averaged_over_processes",),
    ),
    Fault(
        name="a step can be charged without an update",
        path="dpmi/privacy/preconditions.py",
        old='    if getattr(optimizer, "_is_accelerate_prepared", False):\n',
        new="    if False:\n",
        tests=(f"{_ACCELERATE}::test_a_prepared_optimizer_is_refused",),
    ),
    Fault(
        name="a trainer may count other steps than are charged",
        path="dpmi/privacy/integrations/steps.py",
        old="    if counted != released:\n",
        new="    if False:\n",
        tests=(f"{_TESTS}/test_steps.py::test_different_counts_are_refused",),
    ),
    Fault(
        name="a Trainer resumes without its account",
        path="dpmi/privacy/integrations/transformers.py",
        old="        if checkpoint is not None:\n",
        new="        if False:\n",
        tests=(f"{_TRANSFORMERS}::test_a_checkpoint_at_the_end_of_an_epoch_resumes_bit_for_bit",),
    ),
    Fault(
        name="a Trainer does not compare its steps",
        path="dpmi/privacy/integrations/transformers.py",
        old="        steps.check_count(counted=self.state.global_step, released=optimizer.released_steps)\n",
        new="",
        tests=(f"{_TRANSFORMERS}::test_a_trainer_that_counts_differently_releases_nothing",),
    ),
    Fault(
        name="a Trainer logs the loss of private records",
        path="dpmi/privacy/integrations/transformers.py",
        old='_NOT_LOGGED = ("loss", ',
        new='_NOT_LOGGED = ("nothing", ',
        tests=(f"{_TRANSFORMERS}::test_the_loss_of_private_records_is_not_logged",),
    ),
    Fault(
        name="Lightning resumes without the account",
        path="dpmi/privacy/integrations/lightning.py",
        old="            self._resume()\n",
        new="            pass\n",
        tests=(f"{_LIGHTNING}::test_a_checkpoint_without_the_account_is_refused",),
    ),
    Fault(
        name="a training step reaches its trainer",
        path="dpmi/privacy/integrations/lightning.py",
        old="        self._step.module._trainer = _Counts(trainer.global_step, trainer.current_epoch)\n",
        new="        self._step.module._trainer = trainer\n",
        tests=(f"{_LIGHTNING}::test_a_training_step_that_carries_over_releases_nothing",),
    ),
    Fault(
        name="Lightning does not compare its steps",
        path="dpmi/privacy/integrations/lightning.py",
        old="        steps.check_count(counted=trainer.global_step, released=private.released_steps)\n",
        new="",
        tests=(f"{_LIGHTNING}::test_a_second_fit_of_one_trainer_releases_nothing",),
    ),
)
