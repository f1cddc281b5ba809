"""Faults in physical batches of several buckets: taps, guarded tensors, the criterion, the dry runs."""

from __future__ import annotations

from ..fault import Fault

_BATTERY = "tests/privacy/promise/test_battery.py::test_one_user_moves_the_sum_by_two_at_most"
_CAPTURE = "tests/privacy/gradients/test_capture.py"
_DRY = "tests/privacy/test_dry_run.py"
_GUARD = "tests/privacy/test_guard.py"
_LEAVES = "tests/privacy/gradients/test_leaves.py"
_LOSSES = "tests/privacy/criterion/test_bucket_losses.py"

_CAPTURE_FAULTS = (
    Fault(
        name="taps accept gradients of any backward pass",
        path="dpmi/privacy/gradients/capture.py",
        old="        if not self._taking:\n",
        new="        if self._taking is None:\n",
        tests=(f"{_CAPTURE}::test_gradients_from_anything_but_the_criterion_are_refused",),
    ),
    Fault(
        name="a layer that is recomputed in the backward pass is accepted",
        path="dpmi/privacy/gradients/capture.py",
        old="if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:",
        new="if torch._C._autograd._top_saved_tensors_default_hooks(True) is self:",
        tests=(f"{_CAPTURE}::test_gradient_checkpointing_is_refused",),
    ),
    Fault(
        name="a parameter outside the known layers is left to autograd",
        path="dpmi/privacy/gradients/capture.py",
        old="if type(label) is Public and t.requires_grad and not any(t is p for p in trained):",
        new="if type(label) is Public and t.requires_grad and not call.tensors:",
        tests=(f"{_CAPTURE}::test_another_operand_of_a_layer_that_is_trained_is_refused",),
    ),
    Fault(
        name="a public value that cannot be spread over the records is left to autograd",
        path="dpmi/privacy/gradients/capture.py",
        old="            if own is None:\n                raise self._cannot_be_split(call, t)\n",
        new="            if own is None:\n                continue\n",
        tests=(f"{_CAPTURE}::test_other_uses_of_parameters_are_refused",),
    ),
    Fault(
        name="draws for each record count as one value",
        path="dpmi/privacy/gradients/spread.py",
        old="(label.is_constant(at) and label.same)",
        new="label.is_constant(at)",
        tests=(f"{_CAPTURE}::test_other_uses_of_parameters_are_refused",),
    ),
    Fault(
        name="a parameter may pass through code whose backward pass is unknown",
        path="dpmi/privacy/gradients/spread.py",
        old='        if getattr(node, "_forward_cls", None) is not None:\n',
        new='        if getattr(node, "_forward_cls", None) is node:\n',
        tests=(f"{_CAPTURE}::test_a_parameter_that_passes_through_own_code_is_refused",),
    ),
    Fault(
        name="a hook of a parameter may change its gradient",
        path="dpmi/privacy/gradients/spread.py",
        old="            if leaf._backward_hooks:\n",
        new="            if leaf._backward_hooks is leaf:\n",
        tests=(f"{_CAPTURE}::test_a_parameter_with_a_hook_is_refused_where_other_values_come_from_it",),
    ),
    Fault(
        name="a tensor that requires a gradient and is no parameter loses it",
        path="dpmi/privacy/gradients/spread.py",
        old="    if t.grad_fn is None:\n        raise Coupled(_UNKNOWN)\n",
        new="",
        tests=(f"{_CAPTURE}::test_a_public_tensor_that_is_trained_by_somebody_else_is_refused",),
    ),
    Fault(
        name="a tensor computed from what is no trained parameter loses its gradient",
        path="dpmi/privacy/gradients/spread.py",
        old="            if id(leaf) not in names:\n                raise Coupled(_UNKNOWN)\n",
        new="            if id(leaf) not in names:\n                continue\n",
        tests=(f"{_CAPTURE}::test_a_public_tensor_that_is_trained_by_somebody_else_is_refused",),
    ),
    Fault(
        name="a size that the concatenation would refuse is accepted",
        path="dpmi/privacy/gradients/spread.py",
        old="    elif t.shape[at] != 1 or rule is cat:\n",
        new="    elif t.shape[at] != 1:\n",
        tests=(f"{_CAPTURE}::test_a_concatenation_of_other_sizes_fails_as_in_torch",),
    ),
    Fault(
        name="ghost holds all rows of a parameter that is used several times",
        path="dpmi/privacy/gradients/capture.py",
        old="self._ghost and (t is not p or self._used[id(p)] > 1)",
        new="self._ghost and t is not p",
        tests=(f"{_CAPTURE}::test_rows_of_a_large_table_are_computed_for_a_few_buckets_at_a_time",),
    ),
    Fault(
        name="what ghost computes again may have changed",
        path="dpmi/privacy/gradients/recomputed.py",
        old="        if self.x._version != self.version:\n",
        new="        if self.x._version < self.version:\n",
        tests=(f"{_CAPTURE}::test_what_ghost_computes_again_must_not_have_changed",),
    ),
    Fault(
        name="the uses of a parameter are counted per pass",
        path="dpmi/privacy/gradients/capture.py",
        old="        if p in self.rows:  # of an earlier backward pass, when it was used once\n",
        new="        if p is self.rows:\n",
        tests=(f"{_CAPTURE}::test_rows_of_an_earlier_use_are_added",),
    ),
    Fault(
        name="tensors that nobody observed leave a layer of an unknown type",
        path="dpmi/privacy/gradients/leaves.py",
        old="                    self._check_labels(out)\n",
        new="",
        tests=(f"{_LEAVES}::test_a_layer_whose_calls_cannot_be_seen_runs_bucket_by_bucket",),
    ),
    Fault(
        name="a module can return a tensor that depends on parameters only",
        path="dpmi/privacy/gradients/capture.py",
        old="if type(self.label(t)) is Public and t.requires_grad:",
        new="if type(self.label(t)) is Public and t is None:",
        tests=(f"{_CAPTURE}::test_what_depends_on_parameters_alone_is_no_output",),
    ),
    Fault(
        name="a layer that is run bucket by bucket can store values",
        path="dpmi/privacy/gradients/leaves.py",
        old="        with provenance:\n            return forward(*args, **kwargs)\n",
        new="        return forward(*args, **kwargs)\n",
        tests=(f"{_LEAVES}::test_a_leaf_that_keeps_something_of_one_bucket_for_the_next_is_refused",),
    ),
    Fault(
        name="all buckets of a layer that is run bucket by bucket have the same token",
        path="dpmi/privacy/gradients/leaves.py",
        old="storages=frozenset, token=object())",
        new="storages=frozenset, token=self)",
        tests=(f"{_LEAVES}::test_a_leaf_that_keeps_something_of_one_bucket_for_the_next_is_refused",),
    ),
    Fault(
        name="records outside of dimension 0 are treated as if they were in it",
        path="dpmi/privacy/gradients/capture.py",
        old="        if label.dim:\n            t = t.movedim(label.dim, 0)\n",
        new="",
        tests=("tests/privacy/gradients/test_tap_layouts.py",),
    ),
    Fault(
        name="only one of several rows per record is used",
        path="dpmi/privacy/gradients/capture.py",
        old="if label.before > 1:\n            parts",
        new="if label.before > self.records:\n            parts",
        tests=("tests/privacy/gradients/test_tap_layouts.py",),
    ),
)

_SHARED_FAULTS = (
    Fault(
        name="a result of all records counts as computed record by record",
        path="dpmi/privacy/isolation/shared.py",
        old="        return _mixed(shared, func(*args, **kwargs))\n",
        new="        out = func(*args, **kwargs)\n"
        "        if isinstance(out, Tensor) and out.dim():\n"
        "            shared.following.take_in(out, Records(0))\n"
        "            return shared.wrap(out, out, None)\n"
        "        return _mixed(shared, out)\n",
        tests=(f"{_BATTERY}[loop: mixup]",),
    ),
    Fault(
        name="a loop can use records of another batch",
        path="dpmi/privacy/isolation/shared.py",
        old="if t._shared is not self or t._real is None:",
        new="if t._real is None:",
        tests=(f"{_GUARD}::test_what_belongs_to_another_batch_is_refused",),
    ),
    Fault(
        name="a tensor that the loop computes from a batch counts as a constant",
        path="dpmi/privacy/isolation/shared.py",
        old='if self.learning and not hasattr(t, "_dpmi"):',
        new='if not hasattr(t, "_dpmi"):',
        tests=(f"{_GUARD}::test_constants_are_learnt_in_the_dry_runs_only",),
    ),
    Fault(
        name="a constant can be modified",
        path="dpmi/privacy/isolation/shared.py",
        old="return found is not None and found[1] == t._version",
        new="return found is not None",
        tests=(f"{_GUARD}::test_constants_are_learnt_in_the_dry_runs_only",),
    ),
    Fault(
        name="outputs accept gradients that are not the criterion's",
        path="dpmi/privacy/isolation/shared.py",
        old="        return real.detach()\n"
        "\n"
        "    @staticmethod\n"
        "    def backward(ctx: Any, *_: Any) -> Any:\n",
        new="        return real.detach()\n"
        "\n"
        "    @staticmethod\n"
        "    def backward(ctx: Any, *_: Any) -> Any:\n"
        "        return _[0]\n"
        "\n"
        "    @staticmethod\n"
        "    def unused(ctx: Any, *_: Any) -> Any:\n",
        tests=(f"{_GUARD}::test_a_second_term_of_the_loss_is_refused",),
    ),
)

_CRITERION_FAULTS = (
    Fault(
        name="the loop's computation on the loss changes every bucket's gradient",
        path="dpmi/privacy/criterion/wrapped.py",
        old="        ctx.send()\n",
        new="        ctx.send.func(*ctx.send.args[:-1], ctx.send.args[-1] * float(g))\n",
        tests=("tests/privacy/test_dry_run_loss.py::test_a_factor_of_the_loop_counts_for_every_bucket",),
    ),
    Fault(
        name="the loss of every bucket is that of the whole batch",
        path="dpmi/privacy/criterion/bucket_losses.py",
        old="buckets = whole if segments.num_buckets == 1 else split(args, kwargs, segments, rows_per_record)",
        new="buckets = whole * segments.num_buckets",
        tests=(_LOSSES,),
    ),
    Fault(
        name="a criterion can store a number of one bucket for the next",
        path="dpmi/privacy/criterion/wrapped.py",
        old="        self._watch.check_attributes(attributes)\n",
        new="",
        tests=(
            "tests/privacy/test_criterion_refused.py::test_an_attribute_that_it_changes_for_the_next_bucket",
        ),
    ),
    Fault(
        name="a criterion can store outputs of one bucket for the next",
        path="dpmi/privacy/criterion/wrapped.py",
        old="        with provenance:\n            value = self.criterion(*args, **kwargs)\n",
        new="        value = self.criterion(*args, **kwargs)\n",
        tests=(f"{_BATTERY}[loss: remembers outputs in a closure]",),
    ),
    Fault(
        name="a criterion can be called more often than in the dry runs",
        path="dpmi/privacy/criterion/wrapped.py",
        old="        if at >= len(calls):\n",
        new="        at = min(at, len(calls) - 1)\n        if not calls:\n",
        tests=(f"{_DRY}::test_a_later_deviation_is_an_error_before_anything_is_released",),
    ),
    Fault(
        name="a bucket's loss is divided by the targets of all buckets",
        path="dpmi/privacy/criterion/torch_losses.py",
        old="return sums / torch.where(nothing, 1, count)",
        new="return sums / torch.where(nothing, 1, count).sum()",
        tests=(_LOSSES,),
    ),
    Fault(
        name="a loss with a hook is computed without it",
        path="dpmi/privacy/criterion/torch_losses.py",
        old="if type(criterion) not in _MODULES or has_own_forward(criterion):",
        new="if type(criterion) not in _MODULES:",
        tests=("tests/privacy/criterion/test_torch_losses.py",),
    ),
)

_DRY_RUN_FAULTS = (
    Fault(
        name="the result of the dry runs is ignored",
        path="dpmi/privacy/loader.py",
        old="found = self._ranks.any(dry.problem is not None)",
        new="found = self._ranks.any(dry is None)",
        tests=(f"{_BATTERY}[home-made batch norm]",),
    ),
    Fault(
        name="a user who chose several buckets at a time gets one",
        path="dpmi/privacy/loader.py",
        old="            if self._choice.insist:\n",
        new="            if not problem:\n",
        tests=(f"{_DRY}::test_it_is_refused_if_the_user_insists",),
    ),
    Fault(
        name="further terms of the loss are not detected",
        path="dpmi/privacy/dry_run.py",
        old="if not apart <= (TOLERANCE * scale) ** 2 * length:",
        new="if apart < 0:",
        tests=(f"{_DRY}::test_it_is_refused_if_the_user_insists",),
    ),
    Fault(
        name="gradients that the loop sets by hand are not detected",
        path="dpmi/privacy/dry_run.py",
        old="if not self._arrived or not self.accumulated:",
        new="if not self._arrived:",
        tests=(
            "tests/privacy/test_auto_never_fails.py::test_auto_is_stream[gradients by hand-criterion]",
            f"{_BATTERY}[loop: gradients by hand]",
        ),
    ),
    Fault(
        name="the loop's factor on the loss is that of the second dry run",
        path="dpmi/privacy/dry_run.py",
        old="            if self.round == 0:\n                call.factor = factor\n",
        new="            if self.round == 1 or not call.factor:\n                call.factor = factor\n",
        tests=(
            "tests/privacy/test_dry_run_loss.py::test_what_is_no_multiple_of_the_loss_gets_a_fixed_factor_and_a_warning",
        ),
    ),
    Fault(
        name="the module's inputs can depend on the number of records",
        path="dpmi/privacy/dry_run.py",
        old="if self.agreement.inputs[at] != inputs:",
        new="if self.agreement.inputs[at] is inputs:",
        tests=(f"{_GUARD}::test_what_depends_on_the_number_of_records_is_noticed",),
    ),
    Fault(
        name="the criterion's arguments can depend on the number of records",
        path="dpmi/privacy/dry_run.py",
        old="elif at >= len(self.agreement.calls) or self.agreement.calls[at].paths != paths:",
        new="elif at >= len(self.agreement.calls):",
        tests=(f"{_GUARD}::test_what_depends_on_the_number_of_records_is_noticed",),
    ),
)

FAULTS: tuple[Fault, ...] = (*_CAPTURE_FAULTS, *_SHARED_FAULTS, *_CRITERION_FAULTS, *_DRY_RUN_FAULTS)
