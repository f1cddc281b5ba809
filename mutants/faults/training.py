"""Faults in a logical step: drawing, clipping, summing, releasing and charging."""

from __future__ import annotations

from ..fault import Fault

_CHECKPOINT = "tests/privacy/test_checkpoint.py"
_ENGINE = "tests/privacy/test_engine.py"
_NOISE = "tests/privacy/test_billed_noise.py"
_OPTIMIZER = "tests/privacy/test_one_optimizer.py"
_RECORDS = "tests/privacy/test_records_per_bucket.py"
_TARGET = "tests/privacy/test_target_epsilon.py"
_OPACUS = "tests/privacy/test_from_opacus.py"
_CLIPPING = "tests/privacy/test_clipping.py"
_GROUPS = "tests/privacy/test_parameter_groups.py"
_COUNT = "tests/privacy/test_unclipped_count.py"
_UPDATE = "tests/privacy/test_update.py"
_BRUTE_FORCE = f"{_UPDATE}::test_update_equals_brute_force"

_RELEASE_FAULTS = (
    Fault(
        name="noise is not scaled by the noise multiplier",
        path="dpmi/privacy/optimizer.py",
        old="std = self.noise_multiplier * self.max_grad_norm / self.expected_batch_size",
        new="std = self.max_grad_norm / self.expected_batch_size",
        tests=(_NOISE,),
        audited=True,
    ),
    Fault(
        name="noise has half its size",
        path="dpmi/privacy/optimizer.py",
        old="std = self.noise_multiplier * self.max_grad_norm / self.expected_batch_size",
        new="std = self.noise_multiplier * self.max_grad_norm / (2 * self.expected_batch_size)",
        tests=(_NOISE,),
        audited=True,
    ),
    Fault(
        name="noise is scaled as a mean over all buckets",
        path="dpmi/privacy/optimizer.py",
        old="std = self.noise_multiplier * self.max_grad_norm / self.expected_batch_size",
        new="std = self.noise_multiplier * self.max_grad_norm / self.plan.partition.num_buckets",
        tests=(_NOISE,),
        audited=True,
    ),
    Fault(
        name="noise is drawn at every physical batch",
        path="dpmi/privacy/optimizer.py",
        old="* (scale / self.expected_batch_size)\n",
        new="* (scale / self.expected_batch_size)\n"
        "        for flat in self._sum.flat:\n"
        "            flat.add_(torch.randn_like(flat), alpha=self.noise_multiplier * self.max_grad_norm)\n",
        tests=(_NOISE,),
        audited=True,
    ),
    Fault(
        name="every physical batch restarts the sum",
        path="dpmi/privacy/optimizer.py",
        old="            self._step_is_open = True\n",
        new="            self._step_is_open = False\n",
        tests=(_BRUTE_FORCE,),
    ),
    Fault(
        name="a step includes the sum and the noise of the previous step",
        path="dpmi/privacy/optimizer.py",
        old="        self._step_is_open = False\n        self._module.end_step(",
        new="        self._module.end_step(",
        tests=(_NOISE,),
        audited=True,
    ),
    Fault(
        name="a step is charged after its release, so not at all if the release crashes",
        path="dpmi/privacy/optimizer.py",
        old="            self._bill()\n",
        new="            bill = self._bill\n"
        "            after = self.original_optimizer.register_step_post_hook(lambda *_: (after.remove(), bill()))\n",
        tests=(f"{_ENGINE}::test_a_step_is_billed_even_if_the_optimizer_crashes_while_it_is_released",),
    ),
    Fault(
        name="the sum of a dropped step is released by the next step",
        path="dpmi/privacy/optimizer.py",
        old="        self._step_is_open = False\n        self.steps_of_pass = 0\n",
        new="        self.steps_of_pass = 0\n",
        tests=(f"{_ENGINE}::test_what_a_dropped_step_has_summed_is_dropped_with_it",),
        audited=True,
    ),
    Fault(
        name="a part of a dropped bucket is added to the next bucket",
        path="dpmi/privacy/optimizer.py",
        old="self._batch = self._parts = self._dry = self.taken = None",
        new="self._batch = self._dry = self.taken = None",
        tests=("tests/privacy/test_release.py::test_a_part_of_a_bucket_is_dropped_with_its_step",),
    ),
    Fault(
        name="a gradient that is not finite is summed",
        path="dpmi/privacy/optimizer.py",
        old="        if not finite.all():",
        new="        if len(norms) == 0:",
        tests=(f"{_ENGINE}::test_a_non_finite_gradient_is_refused_before_anything_is_released",),
    ),
    Fault(
        name="a parameter unfrozen later is trained without clipping",
        path="dpmi/privacy/optimizer.py",
        old="            self._check_trainable()\n",
        new="",
        tests=(f"{_OPTIMIZER}::test_a_parameter_that_becomes_trainable_later_is_noticed_before_release",),
    ),
)

_CLIPPING_FAULTS = (
    Fault(
        name="a bucket is not clipped",
        path="dpmi/privacy/clipping.py",
        old="NDArray[np.float64] = np.minimum(1.0 / sizes, longest / norms)",
        new="NDArray[np.float64] = 1.0 / sizes",
        tests=(_BRUTE_FORCE,),
        audited=True,
    ),
    Fault(
        name="a bucket is clipped to twice the bound",
        path="dpmi/privacy/clipping.py",
        old="longest = max_grad_norm * (1.0 - ROUNDING)",
        new="longest = 2 * max_grad_norm * (1.0 - ROUNDING)",
        tests=(f"{_UPDATE}::test_clipped_norm_never_exceeds_the_bound_in_float64",),
        audited=True,
    ),
    Fault(
        name="a bucket is clipped twice",
        path="dpmi/privacy/clipping.py",
        old="NDArray[np.float64] = np.minimum(1.0 / sizes, longest / norms)",
        new="NDArray[np.float64] = np.minimum(1.0 / sizes, longest / norms) * np.minimum(longest / norms, 1.0)",
        tests=(_BRUTE_FORCE,),
    ),
    Fault(
        name="a bucket's sum is clipped, not its mean",
        path="dpmi/privacy/clipping.py",
        old="NDArray[np.float64] = np.minimum(1.0 / sizes, longest / norms)",
        new="NDArray[np.float64] = np.minimum(1.0, longest / norms)",
        tests=(_BRUTE_FORCE,),
    ),
    Fault(
        name="rounding can leave a clipped bucket above the bound",
        path="dpmi/privacy/clipping.py",
        old="longest = max_grad_norm * (1.0 - ROUNDING)",
        new="longest = max_grad_norm * (1.0 + ROUNDING)",
        tests=(f"{_UPDATE}::test_clipped_norm_never_exceeds_the_bound_in_float64",),
    ),
    Fault(
        name="automatic clipping lets short gradients grow without a limit",
        path="dpmi/privacy/clipping.py",
        old="longest / (norms + STABILITY * sizes)",
        new="longest / norms",
        tests=(f"{_CLIPPING}::test_automatic_clipping_keeps_short_gradients_short",),
    ),
    Fault(
        name="automatic clipping divides by the stability alone",
        path="dpmi/privacy/clipping.py",
        old="longest / (norms + STABILITY * sizes)",
        new="longest / (STABILITY * sizes)",
        tests=(f"{_CLIPPING}::test_no_contribution_exceeds_the_bound_in_float64",),
    ),
    Fault(
        name="the count of adaptive clipping is free",
        path="dpmi/privacy/clipping.py",
        old="left = noise_multiplier**-2 - (2 * count) ** -2",
        new="left = noise_multiplier**-2",
        tests=(f"{_COUNT}::test_one_bucket_moves_both_releases_by_one_over_the_charged_noise",),
    ),
    Fault(
        name="adaptive gradients have the noise of the charge",
        path="dpmi/privacy/optimizer.py",
        old="noise_multiplier=plan.gradient_noise,",
        new="noise_multiplier=plan.noise_multiplier,",
        tests=(f"{_COUNT}::test_gradients_have_the_noise_that_the_count_leaves_and_the_current_norm",),
    ),
    Fault(
        name="the count of adaptive clipping has no noise",
        path="dpmi/privacy/unclipped_count.py",
        old="            fill(self.value, self._noise)",
        new="            pass",
        tests=(f"{_COUNT}::test_the_count_has_its_noise_once",),
    ),
    Fault(
        name="every rank adds noise to the count",
        path="dpmi/privacy/optimizer.py",
        old="self._unclipped.start(self._source.fill_ if self.ranks.adds_noise else None)",
        new="self._unclipped.start(self._source.fill_)",
        tests=("tests/privacy/test_distributed.py::test_two_ranks_adapt_the_norm_as_one_process_does",),
    ),
    Fault(
        name="a bucket counts 1 or 0, so its contribution is twice as long",
        path="dpmi/privacy/unclipped_count.py",
        old="self.value += float(np.count_nonzero(unclipped)) - len(unclipped) / 2",
        new="self.value += float(np.count_nonzero(unclipped))",
        tests=(f"{_COUNT}::test_the_count_has_its_noise_once",),
    ),
    Fault(
        name="a resumed training starts with the first norm",
        path="dpmi/privacy/checkpoint.py",
        old='    training.optimizer.clip_to(facts["current_norm"])\n',
        new="",
        tests=(f"{_COUNT}::test_a_resumed_training_goes_on_with_the_norm_it_had",),
    ),
    Fault(
        name="a statement names the first norm only",
        path="dpmi/privacy/statement.py",
        old="    if account.adaptive:",
        new="    if False:",
        tests=(f"{_COUNT}::test_account_and_statement_say_that_the_norm_adapted",),
    ),
    Fault(
        name="an engine ignores which clipping was asked for",
        path="dpmi/privacy/settings.py",
        old="            clipping=self.clipping,\n",
        new="",
        tests=(f"{_CLIPPING}::test_an_update_equals_brute_force",),
    ),
    Fault(
        name="every group of parameters is clipped to the norm of all",
        path="dpmi/privacy/clipping.py",
        old="        return [max_grad_norm * (norm / whole) for norm in self.relative_norms]",
        new="        return [max_grad_norm for norm in self.relative_norms]",
        tests=(f"{_GROUPS}::test_all_groups_together_are_as_long_as_the_bound",),
    ),
    Fault(
        name="the norms of groups add up to the bound, not their squares",
        path="dpmi/privacy/clipping.py",
        old="        whole = math.hypot(*self.relative_norms)",
        new="        whole = sum(self.relative_norms)",
        tests=(f"{_GROUPS}::test_all_groups_together_are_as_long_as_the_bound",),
    ),
    Fault(
        name="a group's part keeps the gradients of the other groups",
        path="dpmi/privacy/gradients/bucket_gradients.py",
        old="        return Rows([row if i in places else None for i, row in enumerate(self.rows)], buckets=k)",
        new="        return Rows(list(self.rows), buckets=k)",
        tests=(f"{_GROUPS}::test_an_update_equals_brute_force",),
    ),
    Fault(
        name="a group's ghost keeps the gradients of the other groups",
        path="dpmi/privacy/gradients/bucket_gradients.py",
        old="        return Ghost(self._capture, [p if i in places else None for i, p in enumerate(self._trained)])",
        new="        return Ghost(self._capture, self._trained)",
        tests=(f"{_GROUPS}::test_an_update_equals_brute_force",),
    ),
    Fault(
        name="only the norm of the first group is looked at for NaN",
        path="dpmi/privacy/optimizer.py",
        old="np.isfinite(norms).all(axis=0)",
        new="np.isfinite(norms[0])",
        tests=(f"{_GROUPS}::test_a_gradient_that_is_not_finite_in_one_group_releases_nothing",),
    ),
    Fault(
        name="a group more than there are norms trains unclipped",
        path="dpmi/privacy/settings.py",
        old="            self.clipping.check(len(self.optimizer.param_groups))\n",
        new="            pass\n",
        tests=(f"{_GROUPS}::test_one_norm_for_every_group_of_the_optimizer_is_needed",),
    ),
    Fault(
        name="a bucket is clipped in each part",
        path="dpmi/privacy/optimizer.py",
        old="        if batch.is_part:\n",
        new="        if not batch.buckets:\n",
        tests=(_BRUTE_FORCE,),
        audited=True,
    ),
    Fault(
        name="only the last part of a bucket counts",
        path="dpmi/privacy/optimizer.py",
        old="            gradients.add(self._parts)\n",
        new="            pass\n",
        tests=(_BRUTE_FORCE,),
    ),
)

_DRAW_FAULTS = (
    Fault(
        name="a fixed number of buckets is drawn",
        path="dpmi/privacy/samplers.py",
        old="np.flatnonzero(numbers < _given(sampling_rate))",
        new="np.sort(np.argsort(numbers)[: max(1, round(_given(sampling_rate) * buckets))])",
        tests=(_NOISE,),
        audited=True,
    ),
    Fault(
        name="buckets are drawn more often than is charged",
        path="dpmi/privacy/samplers.py",
        old="np.flatnonzero(numbers < _given(sampling_rate))",
        new="np.flatnonzero(numbers < 1.25 * _given(sampling_rate))",
        tests=(f"{_NOISE}::test_every_bucket_is_drawn_as_a_whole_at_the_billed_rate",),
        audited=True,
    ),
    Fault(
        name="one draw decides for all buckets",
        path="dpmi/privacy/samplers.py",
        old="np.flatnonzero(numbers < _given(sampling_rate))",
        new="np.flatnonzero(np.full_like(numbers, numbers[0]) < _given(sampling_rate))",
        tests=(f"{_NOISE}::test_every_bucket_is_drawn_as_a_whole_at_the_billed_rate",),
        audited=True,
    ),
    Fault(
        name="an empty draw does not count as a step",
        path="dpmi/privacy/sampling.py",
        old="packed = list(self._packed(mine, draw.starts * self.plan.views, limit)) if len(mine) else [_EMPTY]",
        new="packed = list(self._packed(mine, draw.starts * self.plan.views, limit))\n"
        "            if not packed:\n                continue",
        tests=(f"{_ENGINE}::test_empty_draws_update_with_noise_and_are_billed",),
        audited=True,
    ),
    Fault(
        name="records near the end of a bucket are used less often",
        path="dpmi/privacy/sampling.py",
        old="(places * sizes).astype(np.int64)",
        new="(places * (sizes - self.plan.records_of)).astype(np.int64)",
        tests=(f"{_RECORDS}::test_every_record_is_taken_equally_often",),
    ),
    Fault(
        name="the selection of a bucket's records depends on other buckets",
        path="dpmi/privacy/sampling.py",
        old="number = np.arange(len(order)) - start[bucket]",
        new="number = order",
        tests=(f"{_RECORDS}::test_what_is_taken_of_a_bucket_does_not_depend_on_the_others",),
    ),
    Fault(
        name="the last bucket of a large draw is omitted",
        path="dpmi/privacy/sampling.py",
        old="while first < len(drawn):",
        new="while first < max(1, len(drawn) - 1) and len(drawn):",
        tests=(f"{_NOISE}::test_every_bucket_is_drawn_as_a_whole_at_the_billed_rate",),
    ),
    Fault(
        name="an empty draw is not released",
        path="dpmi/privacy/loader.py",
        old="                    optimizer.release(batch)\n",
        new="",
        tests=(f"{_ENGINE}::test_empty_draws_update_with_noise_and_are_billed",),
        audited=True,
    ),
    Fault(
        name="a batch without optimizer.step() is skipped",
        path="dpmi/privacy/loader.py",
        old="                self._check_stepped(batch)\n                self._check_taken(batch)\n",
        new="",
        tests=(f"{_ENGINE}::test_a_forgotten_step_is_an_error_not_a_free_pass",),
    ),
)

_BILL_FAULTS = (
    Fault(
        name="only the first step is charged",
        path="dpmi/privacy/engine.py",
        old="self._ledger = self._limits.charged(self._ledger, plan.mechanism)",
        new="self._ledger = self._ledger if self._ledger.steps else self._limits.charged(self._ledger, plan.mechanism)",
        tests=(_ENGINE,),
        audited=True,
    ),
    Fault(
        name="a resumed engine drops the charged steps",
        path="dpmi/privacy/engine.py",
        old="        self._ledger = loaded.account.ledger\n",
        new="",
        tests=(f"{_CHECKPOINT}::test_resumed_equals_uninterrupted_bit_for_bit",),
        audited=True,
    ),
    Fault(
        name="loading a checkpoint drops the charged steps of an engine",
        path="dpmi/privacy/engine.py",
        old="        if self._ledger.steps:\n",
        new="        if self._ledger.steps < 0:\n",
        tests=(f"{_CHECKPOINT}::test_an_engine_that_has_billed_steps_does_not_forget_them",),
    ),
    Fault(
        name="an engine reports a seed as secure noise",
        path="dpmi/privacy/engine.py",
        old="self._noise = self._noise.weaker(source.mode)",
        new="self._noise = NoiseMode.SECURE",
        tests=(_ENGINE,),
    ),
    Fault(
        name="an engine drops the provenance of its partition",
        path="dpmi/privacy/engine.py",
        old="provenance=partition.provenance,",
        new="provenance=type(partition.provenance).RECORD,",
        tests=(f"{_ENGINE}::test_a_seeded_or_fitted_run_says_so",),
    ),
    Fault(
        name="one engine charges two partitions as one",
        path="dpmi/privacy/engine.py",
        old="self.plan.partition.hash != partition.hash:",
        new="len(self.plan.partition) != len(partition):",
        tests=(f"{_ENGINE}::test_two_runs_on_one_engine_add_up_and_another_partition_is_refused",),
    ),
    Fault(
        name="a training takes one step more than its target allows",
        path="dpmi/privacy/limits.py",
        old="ledger.steps >= self.most_steps:",
        new="ledger.steps > self.most_steps:",
        tests=(f"{_TARGET}::test_the_step_after_the_last_one_releases_nothing_and_bills_nothing",),
    ),
    Fault(
        name="a scheduler lowers the noise below what is charged",
        path="dpmi/privacy/from_opacus.py",
        old="        if self._name in vars(instance):\n",
        new="        if self._name not in vars(instance) and False:\n",
        tests=(f"{_OPACUS}::test_schedulers_of_noise_and_norm_are_refused",),
    ),
    Fault(
        name="poisson_sampling=False is ignored",
        path="dpmi/privacy/from_opacus.py",
        old="return value is True and isinstance(",
        new="return isinstance(",
        tests=(f"{_OPACUS}::test_every_other_value_is_refused_by_name",),
    ),
    Fault(
        name="a noise generator of the user is ignored",
        path="dpmi/privacy/from_opacus.py",
        old="return lambda value, others: value is same",
        new="return lambda value, others: True",
        tests=(f"{_OPACUS}::test_every_other_value_is_refused_by_name",),
    ),
    Fault(
        name="epochs are counted as if a pass had the steps of Poisson draws",
        path="dpmi/privacy/target.py",
        old="steps_of_a_pass(sampling, rate, steps_per_epoch)",
        new="steps_of_a_pass(POISSON, rate, None)",
        tests=(f"{_OPACUS}::test_epochs_are_passes_over_the_loader",),
    ),
)

FAULTS: tuple[Fault, ...] = (
    *_RELEASE_FAULTS,
    *_CLIPPING_FAULTS,
    *_DRAW_FAULTS,
    *_BILL_FAULTS,
)
