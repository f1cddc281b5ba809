"""Faults between one batch and the next: in the checks of state that a module or another optimizer leaves."""

from __future__ import annotations

from ..fault import Fault

_BATTERY = "tests/privacy/promise/test_battery.py::test_one_user_moves_the_sum_by_two_at_most"
_CRITERION = "tests/privacy/test_criterion_refused.py"
_DRY = "tests/privacy/test_dry_run.py"
_FINGERPRINT = "tests/privacy/test_fingerprint.py"
_GUARD = "tests/privacy/test_guard.py"
_OPTIMIZER = "tests/privacy/test_one_optimizer.py"
_PROVENANCE = "tests/privacy/isolation/test_provenance.py"
_RELEASE = "tests/privacy/test_release.py"
_WATCHED = "tests/privacy/isolation/test_left_behind.py"

_MODULE_FAULTS = (
    Fault(
        name="a rejected batch is released if the loop continues",
        path="dpmi/privacy/grad_sample.py",
        old="        if self._problem is not None:\n            raise RuntimeError(self._problem)\n",
        new="",
        tests=(f"{_DRY}::test_an_error_that_the_loop_swallows_still_stops_the_step",),
    ),
    Fault(
        name="a gradient over all buckets is silently dropped",
        path="dpmi/privacy/grad_sample.py",
        old="        doubts += self.ordinary_gradients()\n",
        new="",
        tests=(f"{_GUARD}::test_a_penalty_on_parameters_is_refused",),
    ),
    Fault(
        name="a module can be called more often than in the dry runs",
        path="dpmi/privacy/grad_sample.py",
        old="        if at >= len(self.agreement.programs):\n            raise Coupled(",
        new="        at = min(at, len(self.agreement.programs) - 1)\n"
        "        if at < 0:\n"
        "            raise Coupled(",
        tests=(f"{_DRY}::test_a_later_deviation_is_an_error_before_anything_is_released",),
    ),
    Fault(
        name="the tensors that a pass of one bucket uses are not checked",
        path="dpmi/privacy/grad_sample.py",
        old="with nullcontext() if self._is_compiled else provenance:",
        new="with nullcontext():",
        tests=(f"{_BATTERY}[bank in a closure]",),
    ),
    Fault(
        name="all buckets have the same token",
        path="dpmi/privacy/grad_sample.py",
        old="            token=object(),\n",
        new="            token=self,\n",
        tests=(f"{_BATTERY}[bank in a closure]",),
    ),
    Fault(
        name="a buffer can change in evaluation",
        path="dpmi/privacy/grad_sample.py",
        old="            self._watch.check_tensors(before)\n            return out\n",
        new="            return out\n",
        tests=(f"{_RELEASE}::test_an_evaluation_moves_no_buffer",),
    ),
    Fault(
        name="buffers of weights are not reset between physical batches",
        path="dpmi/privacy/grad_sample.py",
        old="            with torch.no_grad():\n                buffer.copy_(before)\n",
        new="            pass\n",
        tests=(f"{_RELEASE}::test_buffers_of_weights_move_once_in_a_logical_step",),
    ),
    Fault(
        name="records of another loader can be used for training",
        path="dpmi/privacy/grad_sample.py",
        old="        if shapes and (whole or not any(size and size % n == 0 for size in sizes)):\n",
        new="        if not shapes:\n",
        tests=("tests/privacy/test_engine.py::test_records_from_another_loader_are_refused",),
    ),
    Fault(
        name="the model can train without a batch of the private loader",
        path="dpmi/privacy/grad_sample.py",
        old="        if self.batch is None:\n"
        "            raise RuntimeError(\n"
        '                "the private model',
        new="        if self.batch is None and self.capture:\n"
        "            raise RuntimeError(\n"
        '                "the private model',
        tests=("tests/privacy/test_engine.py::test_records_from_another_loader_are_refused",),
    ),
    Fault(
        name="the collate function gets all buckets at once",
        path="dpmi/privacy/loader.py",
        old="yield [part.tolist() for part in np.split(records, np.cumsum(sizes)[:-1])]",
        new="yield [records.tolist()] if len(sizes) else []",
        tests=("tests/privacy/test_collate.py",),
    ),
)

_WATCH_FAULTS = (
    Fault(
        name="a tensor of another bucket can be used again",
        path="dpmi/privacy/isolation/provenance.py",
        old="if mark[0] is not self._token:",
        new="if mark[0] is None:",
        tests=(f"{_BATTERY}[bank in a closure]",),
    ),
    Fault(
        name="the memory of a parameter can be exposed",
        path="dpmi/privacy/isolation/provenance.py",
        old="        if func in MEMORY:\n",
        new="        if func is None:\n",
        tests=(f"{_BATTERY}[average in a frozen parameter's memory]",),
    ),
    Fault(
        name="a write that the function's name does not show is not detected",
        path="dpmi/privacy/isolation/provenance.py",
        old="if version(t) != versions[i] or (values",
        new="if (values",
        tests=(
            f"{_PROVENANCE}::test_a_write_that_only_the_version_counter_tells_makes_the_tensor_that_of_its_bucket",
        ),
    ),
    Fault(
        name="batch normalisation can update its statistics",
        path="dpmi/privacy/isolation/provenance.py",
        old="if name in _STATISTICS else []",
        new="if not name else []",
        tests=(f"{_PROVENANCE}::test_writes_that_no_name_tells_are_refused",),
    ),
    Fault(
        name="records can be written into a tensor through a view",
        path="dpmi/privacy/isolation/provenance.py",
        old="for other in self._sharing.get(memory(t), ()):",
        new="for other in ():",
        tests=(
            f"{_PROVENANCE}::test_what_was_written_to_under_another_name_is_not_used_for_the_next_bucket",
        ),
    ),
    Fault(
        name="views of tensors from outside the pass are not tracked",
        path="dpmi/privacy/isolation/provenance.py",
        old="            for t in tensors:\n                self._note_pure(t)\n",
        new="            pass\n",
        tests=(
            f"{_PROVENANCE}::test_what_was_written_to_under_another_name_is_not_used_for_the_next_bucket",
        ),
    ),
    Fault(
        name="the memory of an attribute can be written to",
        path="dpmi/privacy/isolation/watch.py",
        old="for t in (*self._tensors.values(), *kept)",
        new="for t in self._tensors.values()",
        tests=(f"{_PROVENANCE}::test_writes_to_what_outlives_the_pass_are_refused",),
    ),
    Fault(
        name="writes to an attribute are not counted",
        path="dpmi/privacy/isolation/watch.py",
        old="if any(version(writes.to) != writes.times for writes in self._writes):",
        new="if any(writes.times < 0 for writes in self._writes):",
        tests=(f"{_PROVENANCE}::test_writes_that_are_not_seen_as_calls_are_found_afterwards",),
    ),
    Fault(
        name="a container can grow",
        path="dpmi/privacy/isolation/watch.py",
        old="        if list(map(len, self._views)) != self._sizes:\n            return False\n",
        new="",
        tests=(f"{_WATCHED}::test_a_container_that_is_the_last_may_not_grow_either",),
    ),
    Fault(
        name="a number read from the records can be stored anywhere",
        path="dpmi/privacy/grad_sample.py",
        old="        provenance.forget_numbers()\n",
        new="",
        tests=(f"{_BATTERY}[average in a global number]",),
    ),
    Fault(
        name="a criterion can store a number read from the records",
        path="dpmi/privacy/criterion/wrapped.py",
        old="        provenance.forget_numbers()\n",
        new="",
        tests=(f"{_CRITERION}::test_a_number_that_it_leaves_for_the_next_bucket",),
    ),
    Fault(
        name="the state of global generators can depend on the records",
        path="dpmi/privacy/isolation/provenance.py",
        old="        self._reached.generators.go_on()\n",
        new="",
        tests=("tests/privacy/isolation/test_reach.py::test_no_seed_outlives_the_pass",),
    ),
    Fault(
        name="the state of generators in objects can depend on the records",
        path="dpmi/privacy/isolation/reach.py",
        old="                generators.append(value)\n",
        new="                pass\n",
        tests=("tests/privacy/isolation/test_reach.py::test_no_seed_outlives_the_pass",),
    ),
    Fault(
        name="a custom backward pass is not checked",
        path="dpmi/privacy/grad_sample.py",
        old="        provenance.watch_backward(tensors_in(out))\n",
        new="",
        tests=(f"{_BATTERY}[gradient in a number, by a function of its own]",),
    ),
    Fault(
        name="a custom backward pass in the criterion is not checked",
        path="dpmi/privacy/criterion/wrapped.py",
        old="        provenance.watch_backward(tensors_in(value), inputs=tensors_in((args, kwargs)))\n",
        new="",
        tests=(f"{_CRITERION}::test_a_number_that_its_backward_pass_leaves_for_the_next_bucket",),
    ),
    Fault(
        name="a backward pass within the forward pass is not checked",
        path="dpmi/privacy/isolation/provenance.py",
        old="        elif func in _BACKWARD:\n            self.watch_backward(tensors)\n",
        new="",
        tests=(
            f"{_PROVENANCE}::test_a_function_of_the_users_own_keeps_nothing_in_a_backward_pass_within_the_forward_pass",
        ),
    ),
    Fault(
        name="a tensor saved for a custom backward pass counts as public",
        path="dpmi/privacy/isolation/provenance.py",
        old="            self._is_backward = True\n",
        new="            self._is_backward = False\n",
        tests=(
            f"{_PROVENANCE}::test_what_a_backward_pass_computes_from_what_was_saved_is_not_used_for_the_next_bucket",
        ),
    ),
    Fault(
        name="a tensor stored by a custom backward pass counts as public",
        path="dpmi/privacy/isolation/provenance.py",
        old="                if all(t is not other for other in before):\n",
        new="                if all(t is other for other in before):\n",
        tests=(f"{_BATTERY}[output in a bank, by a function of its own]",),
    ),
    Fault(
        name="a hook of the backward pass can store a number",
        path="dpmi/privacy/isolation/provenance.py",
        old="            self.forget_numbers()\n            return out\n",
        new="            return out\n",
        tests=(f"{_BATTERY}[gradient in a number, by a hook]",),
    ),
    Fault(
        name="an embedding with max_norm can rescale its table",
        path="dpmi/privacy/isolation/provenance.py",
        old='            self._check_write(table, f"{name} with max_norm", pure=False)\n',
        new="            pass\n",
        tests=(f"{_PROVENANCE}::test_writes_that_no_name_tells_are_refused",),
    ),
    Fault(
        name="a rejected call leaves updated statistics",
        path="dpmi/privacy/isolation/provenance.py",
        old="                    t.detach().copy_(value)\n",
        new="                    pass\n",
        tests=(f"{_PROVENANCE}::test_writes_that_no_name_tells_are_refused",),
    ),
    Fault(
        name="the globals of a function are not searched",
        path="dpmi/privacy/isolation/reach.py",
        old="for name in names & function.__globals__.keys():",
        new="for name in ():",
        tests=("tests/privacy/isolation/test_reach.py",),
    ),
    Fault(
        name="the closure of a function is not searched",
        path="dpmi/privacy/isolation/reach.py",
        old="            yield name, cell.cell_contents\n",
        new="            continue\n",
        tests=("tests/privacy/isolation/test_reach.py",),
    ),
    Fault(
        name="hooks of the backward pass are not checked",
        path="dpmi/privacy/isolation/provenance.py",
        old="elif func in _HOOKS and len(args) > 1:",
        new="elif func in _HOOKS and len(args) > 9:",
        tests=(f"{_WATCHED}::test_a_hook_of_the_backward_pass_is_watched_too",),
    ),
    Fault(
        name="a view of a parameter can be written to",
        path="dpmi/privacy/isolation/provenance.py",
        old="        elif t.numel() and t.untyped_storage().data_ptr() in self._storages():\n",
        new="        elif t.numel() and not self._token:\n",
        tests=(f"{_WATCHED}::test_a_write_is_refused",),
    ),
    Fault(
        name="a public tensor can be written to",
        path="dpmi/privacy/isolation/provenance.py",
        old="if not (pure and id(t) in self._buffers):",
        new="if not (pure or id(t) in self._buffers):",
        tests=(f"{_WATCHED}::test_a_write_is_refused",),
    ),
    Fault(
        name="records can be written into a buffer",
        path="dpmi/privacy/isolation/provenance.py",
        old="if not (pure and id(t) in self._buffers):",
        new="if id(t) not in self._buffers:",
        tests=(f"{_BATTERY}[average in a buffer]",),
    ),
    Fault(
        name="numbers read from records can be written into a buffer",
        path="dpmi/privacy/isolation/provenance.py",
        old="            self._numbers_left = True\n",
        new="            self._numbers_left = False\n",
        tests=(f"{_WATCHED}::test_a_write_is_refused",),
    ),
    Fault(
        name="an attribute can change",
        path="dpmi/privacy/isolation/watch.py",
        old="if old is not new and not _may_become(name, old, new, used):",
        new="if old is not new and name not in now:",
        tests=(f"{_PROVENANCE}::test_attributes_that_a_pass_changes_are_refused",),
    ),
    Fault(
        name="a NumPy array can be written to",
        path="dpmi/privacy/isolation/watch.py",
        old="return all(_content(array) == content for array, content in self._arrays)",
        new="return True",
        tests=(f"{_WATCHED}::test_what_a_module_keeps_is_compared",),
    ),
    Fault(
        name="a parameter can get new memory",
        path="dpmi/privacy/isolation/watch.py",
        old="if (t.data_ptr(), t._version) == before[name] or",
        new="if t._version == before[name][1] or",
        tests=(f"{_BATTERY}[average in a frozen parameter's data]",),
    ),
    Fault(
        name="writes to a buffer are not detected",
        path="dpmi/privacy/isolation/watch.py",
        old="if (t.data_ptr(), t._version) == before[name] or",
        new="if t.data_ptr() == before[name][0] or",
        tests=(f"{_WATCHED}::test_a_tensor_that_changed_is_named",),
    ),
)

_OPTIMIZER_FAULTS = (
    Fault(
        name="another optimizer can update trained parameters",
        path="dpmi/privacy/exclusive.py",
        old="    if name := _claimed(optimizer):\n",
        new="    if name := None:\n",
        tests=(f"{_OPTIMIZER}::test_another_optimizer_is_stopped_before_it_moves_anything",),
    ),
    Fault(
        name="make_private claims no parameter",
        path="dpmi/privacy/engine.py",
        old="        private_optimizer.claim.take()\n",
        new="",
        tests=(f"{_OPTIMIZER}::test_another_optimizer_is_stopped_before_it_moves_anything",),
    ),
    Fault(
        name="after an error in a release any optimizer can update the parameters",
        path="dpmi/privacy/exclusive.py",
        old="        try:\n            yield\n        finally:\n            self.is_releasing = False\n",
        new="        yield\n        self.is_releasing = False\n",
        tests=(f"{_RELEASE}::test_an_error_of_the_optimizer_ends_its_release",),
    ),
    Fault(
        name="the optimizer of an earlier make_private can still release",
        path="dpmi/privacy/optimizer.py",
        old="            self.claim.check()\n",
        new="",
        tests=(f"{_OPTIMIZER}::test_a_second_make_private_on_the_same_module_takes_it_over",),
    ),
    Fault(
        name="parameters can change within a logical step",
        path="dpmi/privacy/optimizer.py",
        old="        doubts = self._doubts_of_moves(quick=not batch.completes_step)\n",
        new="        doubts: list[Doubt] = []\n",
        tests=(f"{_OPTIMIZER}::test_a_move_within_a_logical_step_is_refused_before_release",),
    ),
    Fault(
        name="parameters can change before a part of a bucket",
        path="dpmi/privacy/optimizer.py",
        old="                read(torch.empty(0, dtype=torch.float64, device=self._device), doubts)\n",
        new="",
        tests=("tests/privacy/test_waits.py::test_a_move_before_a_part_of_a_bucket_is_refused_there",),
    ),
    Fault(
        name="a check that is read with the norms is not heeded",
        path="dpmi/privacy/waits.py",
        old="        if is_wrong:\n",
        new="        if doubt is None:\n",
        tests=("tests/privacy/test_waits.py::test_the_first_doubt_that_is_right_raises",),
    ),
    Fault(
        name="the parameters are never checked completely",
        path="dpmi/privacy/optimizer.py",
        old="quick=not batch.completes_step",
        new="quick=True",
        tests=(f"{_OPTIMIZER}::test_a_few_values_of_many_are_found_at_the_end_of_the_step",),
    ),
    Fault(
        name="parameters can change before every physical batch",
        path="dpmi/privacy/optimizer.py",
        old="if dry is None and self.taken is None:",
        new="if dry is None:",
        tests=(f"{_OPTIMIZER}::test_a_move_within_a_logical_step_is_refused_before_release",),
    ),
    Fault(
        name="rows of a parameter can be swapped",
        path="dpmi/privacy/fingerprint.py",
        old="places = (_ROWS, _COLUMNS)",
        new="places = (_COLUMNS,)",
        tests=(f"{_FINGERPRINT}::test_places_count",),
    ),
    Fault(
        name="columns of a parameter can be swapped",
        path="dpmi/privacy/fingerprint.py",
        old="places = (_ROWS, _COLUMNS)",
        new="places = (_ROWS,)",
        tests=(f"{_FINGERPRINT}::test_places_count",),
    ),
    Fault(
        name="signs can change in pairs",
        path="dpmi/privacy/fingerprint.py",
        old="if flat.dtype == torch.float64 else (rows,)",
        new="if flat.dtype == torch.float16 else (rows,)",
        tests=(f"{_FINGERPRINT}::test_opposite_signs_are_a_change",),
    ),
)

FAULTS: tuple[Fault, ...] = (
    *_MODULE_FAULTS,
    *_WATCH_FAULTS,
    *_OPTIMIZER_FAULTS,
)
