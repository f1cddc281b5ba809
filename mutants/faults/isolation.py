"""Faults in the isolation of records: labels, rules and programs."""

from __future__ import annotations

from ..fault import Fault

_BATTERY = "tests/privacy/promise/test_battery.py::test_one_user_moves_the_sum_by_two_at_most"
_FUNCTIONS = "tests/privacy/isolation/test_functions.py"
_CALLS = "tests/privacy/isolation/test_same_calls.py"
_KNOWN = "tests/privacy/isolation/test_known.py"
_LABELS = "tests/privacy/isolation/test_labels.py"
_RULES = "tests/privacy/isolation"
_SUBTRACTED = f"{_RULES}/test_elementwise.py::test_keeps_records_apart[_VariableFunctionsClass.subtract]"

_LABEL_FAULTS = (
    Fault(
        name="a label of another pass is valid",
        path="dpmi/privacy/isolation/follow.py",
        old="if mark is not None and mark[0] is self.token:\n            if mark[2] != t._version:",
        new="if mark is not None and len(mark) > 2:\n            if mark[2] != t._version:",
        tests=(_LABELS,),
    ),
    Fault(
        name="a label stays valid after its tensor was modified unobserved",
        path="dpmi/privacy/isolation/follow.py",
        old="if mark[2] != t._version:",
        new="if mark[2] > t._version:",
        tests=(_LABELS,),
    ),
    Fault(
        name="an unknown tensor counts as public",
        path="dpmi/privacy/isolation/follow.py",
        old="if self.public.reference(t) is not None:",
        new="if self.public.reference(t) is not None or mark is None:",
        tests=(_LABELS,),
    ),
    Fault(
        name="a modified attribute still counts as public",
        path="dpmi/privacy/isolation/public.py",
        old="return name if version is None or version == t._version else None",
        new="return name",
        tests=(_LABELS,),
    ),
    Fault(
        name="a function without a rule is accepted",
        path="dpmi/privacy/isolation/follow.py",
        old="if holds and not (func in FACTORIES_NEW and len(tensors) == 1):",
        new="if holds and func is None:",
        tests=(_LABELS,),
    ),
    Fault(
        name="records can be written into a public tensor",
        path="dpmi/privacy/isolation/follow.py",
        old="if call.tensors and writes_in_place(func, call.name, call.kwargs) and call.tensors[0] in self.public:",
        new="if call.tensors and 'out' in call.kwargs and call.tensors[0] in self.public:",
        tests=(_LABELS,),
    ),
    Fault(
        name="uninitialised memory can be read",
        path="dpmi/privacy/isolation/follow.py",
        old="if func not in FILLS or len(labels) > 1:",
        new="if func is None:",
        tests=(_LABELS,),
    ),
    Fault(
        name="a number can be read from records in the forward pass",
        path="dpmi/privacy/isolation/follow.py",
        old="if call.tensors and not all(t in self.public for t in call.tensors):",
        new="if call.tensors and not call.tensors:",
        tests=(_LABELS,),
    ),
    Fault(
        name="a pass continues after a rejected call",
        path="dpmi/privacy/isolation/follow.py",
        old="        if self.problem is not None:\n            raise Coupled(self.problem)\n",
        new="",
        tests=(_LABELS,),
    ),
)

_PROGRAM_FAULTS = (
    Fault(
        name="a pass can call another function than the program",
        path="dpmi/privacy/isolation/follow.py",
        old="if step is None or step.func != func or step.arguments != arguments:",
        new="if step is None or step.arguments != arguments:",
        tests=(_CALLS,),
    ),
    Fault(
        name="a pass can pass other arguments than the program",
        path="dpmi/privacy/isolation/follow.py",
        old="if step is None or step.func != func or step.arguments != arguments:",
        new="if step is None or step.func != func:",
        tests=(_CALLS,),
    ),
    Fault(
        name="a pass can use another tensor than the program",
        path="dpmi/privacy/isolation/follow.py",
        old='return ("made by", mark[4])',
        new='return ("made by", None)',
        tests=(_CALLS,),
    ),
    Fault(
        name="a pass can end before the program does",
        path="dpmi/privacy/isolation/follow.py",
        old="if self._program is not None and self._expected != step:",
        new="if step.func and self._program is not None and self._expected != step:",
        tests=(_CALLS,),
    ),
    Fault(
        name="a pass can be made without gradients",
        path="dpmi/privacy/isolation/follow.py",
        old="            torch.is_grad_enabled(),\n",
        new="            True,\n",
        tests=(_CALLS,),
    ),
    Fault(
        name="a pass can return other shapes than the program",
        path="dpmi/privacy/isolation/follow.py",
        old="if self._program is not None and self._expected != step:",
        new="if self._program is not None and (self._expected is None or self._expected[:2] != step[:2]):",
        tests=(_CALLS,),
    ),
    Fault(
        name="any argument can follow the number of records",
        path="dpmi/privacy/isolation/program.py",
        old="        positions[0] <= key < positions[1] if isinstance(key, int) else named and key in _SIZE_NAMES\n",
        new="        True\n",
        tests=(_CALLS,),
    ),
    Fault(
        name="a size that is not a multiple of the number of records is treated as one",
        path="dpmi/privacy/isolation/program.py",
        old="if (a, b) != (times * RECORDS[0], times * RECORDS[1]):",
        new="if a > b:",
        tests=(_CALLS,),
    ),
    Fault(
        name="1 and True count as the same argument",
        path="dpmi/privacy/isolation/arguments.py",
        old="return (kind, value) if kind in _NUMBERS else value",
        new="return value",
        tests=(_CALLS,),
    ),
    Fault(
        name="an argument of any type counts as a constant",
        path="dpmi/privacy/isolation/arguments.py",
        old="    if isinstance(value, torch.Generator):\n        return torch.Generator\n",
        new="    if isinstance(value, object):\n        return kind\n",
        tests=(_CALLS,),
    ),
)

_RULE_FAULTS = (
    Fault(
        name="a mean over the records is accepted",
        path="dpmi/privacy/isolation/operands.py",
        old="        if label.dim in mixed:\n            refuse(",
        new='        if label.dim in mixed and call.name != "mean":\n            refuse(',
        tests=(f"{_RULES}/test_along.py", f"{_FUNCTIONS}::test_refused[home-made batch norm]"),
    ),
    Fault(
        name="a public sum over a dimension that follows the number of records is accepted",
        path="dpmi/privacy/isolation/operands.py",
        old="if any(dim in mixed for dim in label.following):",
        new="if any(dim in mixed for dim in label.following - label.constant):",
        tests=(f"{_FUNCTIONS}::test_public_tensors_as_long_as_the_batch_keep_the_rules_of_records",),
    ),
    Fault(
        name="records at different places are aligned",
        path="dpmi/privacy/isolation/operands.py",
        old="            elif got != here:\n                refuse(",
        new="            elif got.dim != here.dim:\n                refuse(",
        tests=(_SUBTRACTED,),
    ),
    Fault(
        name="records in different dimensions are aligned",
        path="dpmi/privacy/isolation/operands.py",
        old="            elif got != here:\n                refuse(",
        new="            elif got[1:] != here[1:]:\n                refuse(",
        tests=(f"{_FUNCTIONS}::test_refused[outer]", _SUBTRACTED),
    ),
    Fault(
        name="public values that repeat meet records of other parts",
        path="dpmi/privacy/isolation/operands.py",
        old=" and place.within % label.repeats[1] == 0",
        new="",
        tests=("tests/privacy/isolation/test_repeats.py::test_other_records_see_different_values",),
    ),
    Fault(
        name="public values that repeat elsewhere meet records",
        path="dpmi/privacy/isolation/operands.py",
        old=" and label.repeats[0] == dim and",
        new=" and",
        tests=(
            "tests/privacy/isolation/test_repeats.py::test_a_copy_in_another_dimension_says_nothing_of_the_records",
        ),
    ),
    Fault(
        name="public values repeat although they were mixed",
        path="dpmi/privacy/isolation/operands.py",
        old="keeps = label.repeats is not None and label.repeats[0] not in mixed",
        new="keeps = label.repeats is not None",
        tests=("tests/privacy/isolation/test_repeats.py::test_what_may_not_repeat_is_not",),
    ),
    Fault(
        name="public values repeat although others do not",
        path="dpmi/privacy/isolation/operands.py",
        old="        repeating = {(i, p) for i, p in repeating if i in level or label.repeats == (i - off, p)}\n",
        new="",
        tests=("tests/privacy/isolation/test_repeats.py::test_what_may_not_repeat_is_not",),
    ),
    Fault(
        name="draws repeat",
        path="dpmi/privacy/isolation/operands.py",
        old="min(repeating) if repeating and same else None",
        new="min(repeating) if repeating else None",
        tests=("tests/privacy/isolation/test_repeats.py::test_what_may_not_repeat_is_not",),
    ),
    Fault(
        name="public values can differ between records",
        path="dpmi/privacy/isolation/operands.py",
        old="if length == size and (label.is_constant(dim) or tensor.stride(dim) == 0 or repeats(label, dim, place)):",
        new="if length == size:",
        tests=(f"{_FUNCTIONS}::test_refused[arange]", f"{_FUNCTIONS}::test_refused[positions of tokens]"),
    ),
    Fault(
        name="a weight can depend on records",
        path="dpmi/privacy/isolation/operands.py",
        old='        if isinstance(label, Records):\n            refuse(call, "an operand',
        new='        if isinstance(label, Records) and label.dim:\n            refuse(call, "an operand',
        tests=(f"{_FUNCTIONS}::test_refused[weights by batch]", f"{_RULES}/test_layer_functions.py"),
    ),
    Fault(
        name="a keyword argument that no rule knows is accepted",
        path="dpmi/privacy/isolation/operands.py",
        old="if value is not None and name not in allowed:",
        new="if value is not None and not allowed:",
        tests=(f"{_FUNCTIONS}::test_refused", f"{_RULES}/test_along.py"),
    ),
    Fault(
        name="records can be written into a tensor that holds none",
        path="dpmi/privacy/isolation/elementwise.py",
        old="if writes_in_place(call.func, call.name, call.kwargs) and labels[0] != got:",
        new="if not call.tensors:",
        tests=(f"{_FUNCTIONS}::test_refused[written into public]",),
    ),
    Fault(
        name="attention between the records is accepted",
        path="dpmi/privacy/isolation/products.py",
        old="if got.dim >= ndim - (3 if grouped else 2):",
        new="if got.dim >= ndim - (2 if grouped else 1):",
        tests=(f"{_FUNCTIONS}::test_refused[records as a sequence]", f"{_RULES}/test_products.py"),
    ),
    Fault(
        name="a product can sum over the records",
        path="dpmi/privacy/isolation/products.py",
        old="        if of_b.dim == max(ndim_b - 2, 0):\n",
        new="        if of_b.dim == max(ndim_b, 0):\n",
        tests=(f"{_FUNCTIONS}::test_refused[lower triangle]",),
    ),
    Fault(
        name="a product of every record with every other is accepted",
        path="dpmi/privacy/isolation/products.py",
        old="if got is not None and (got != here or here.dim >= ndim - 2):",
        new="if got is not None and got.before != here.before:",
        tests=(f"{_FUNCTIONS}::test_refused[gram matrix]", f"{_RULES}/test_products.py"),
    ),
    Fault(
        name="batch normalisation in training mode is accepted",
        path="dpmi/privacy/isolation/layer_functions.py",
        old='if argument(call, 5, "training", default=False):',
        new='if argument(call, 5, "training", default=False) is None:',
        tests=(f"{_FUNCTIONS}::test_refused[batch norm]", f"{_RULES}/test_layer_functions.py"),
    ),
    Fault(
        name="a convolution can run over the records",
        path="dpmi/privacy/isolation/layer_functions.py",
        old="if isinstance(label, Records) and label.dim == 0 and have == ndim:",
        new="if isinstance(label, Records):",
        tests=(f"{_FUNCTIONS}::test_refused[convolution over N]",),
    ),
    Fault(
        name="an embedding can rescale its table depending on the records",
        path="dpmi/privacy/isolation/layer_functions.py",
        old='if argument(call, 3, "max_norm") is not None:',
        new='if argument(call, 3, "max_norm") is True:',
        tests=(f"{_FUNCTIONS}::test_refused[max_norm]",),
    ),
    Fault(
        name="one_hot can depend on the classes of all records",
        path="dpmi/privacy/isolation/layer_functions.py",
        old="if type(number) is not int or number < 1:",
        new="if type(number) is not int:",
        tests=(f"{_FUNCTIONS}::test_refused[classes of the batch]",),
    ),
    Fault(
        name="an index can select some of the records",
        path="dpmi/privacy/isolation/indexing.py",
        old="        if label.dim in parsed.picked:\n"
        '            refuse(call, "the index selects some of the records")\n',
        new="",
        tests=(f"{_FUNCTIONS}::test_refused", f"{_RULES}/test_indexing.py"),
    ),
    Fault(
        name="a mask can select records",
        path="dpmi/privacy/isolation/indexing.py",
        old="if isinstance(part, Tensor) and part.dtype not in _INTEGERS:",
        new="if isinstance(part, Tensor) and part.is_complex():",
        tests=(f"{_FUNCTIONS}::test_refused[mask of a table]",),
    ),
    Fault(
        name="a loss can be the mean over all records",
        path="dpmi/privacy/isolation/losses.py",
        old='if call.kwargs.get("reduction") != "none" or any(',
        new='if call.kwargs.get("reduction") == "sum" or any(',
        tests=(f"{_FUNCTIONS}::test_refused[mean loss]", f"{_RULES}/test_losses.py"),
    ),
)

_SHAPE_FAULTS = (
    Fault(
        name="a reshape can merge records",
        path="dpmi/privacy/isolation/shapes.py",
        old="    if got is None:\n        refuse(",
        new="    if got is None and call.records:\n        return label\n    if got is None:\n        refuse(",
        tests=(f"{_FUNCTIONS}::test_refused[reshape of the transposed]", f"{_RULES}/test_shapes.py"),
    ),
    Fault(
        name="a transposed tensor keeps its label",
        path="dpmi/privacy/isolation/shapes.py",
        old='    return renumber(call.labels[0], order)\n\n\n@rule("expand"',
        new='    return call.labels[0]\n\n\n@rule("expand"',
        tests=(f"{_FUNCTIONS}::test_refused[gram matrix]", f"{_RULES}/test_shapes.py"),
    ),
)

_KNOWN_FAULTS = (
    Fault(
        name="a known call can use a tensor of another pass",
        path="dpmi/privacy/isolation/known.py",
        old="            and mark[0] is following.token\n",
        new="",
        tests=(f"{_KNOWN}::test_a_tensor_of_an_earlier_pass_is_unknown",),
    ),
    Fault(
        name="a known call can use a tensor that was modified unobserved",
        path="dpmi/privacy/isolation/known.py",
        old="            and mark[2] == value._version\n",
        new="",
        tests=(f"{_KNOWN}::test_a_tensor_that_was_modified_unobserved_is_refused",),
    ),
    Fault(
        name="a known call can use another tensor of the pass",
        path="dpmi/privacy/isolation/known.py",
        old="            and mark[4] == self.reference\n",
        new="",
        tests=(f"{_KNOWN}::test_another_tensor_of_the_pass_is_refused",),
    ),
    Fault(
        name="a known call ignores that a public tensor is trained now",
        path="dpmi/privacy/isolation/known.py",
        old="            and value.requires_grad == self.grad\n",
        new="",
        tests=(
            "tests/privacy/gradients/test_capture.py::test_a_weight_that_is_trained_later_is_no_known_one",
        ),
    ),
    Fault(
        name="a known call ignores that a computed weight is trained now",
        path="dpmi/privacy/isolation/known.py",
        old="            and (self.grad is None or value.requires_grad == self.grad)\n",
        new="",
        tests=(
            "tests/privacy/gradients/test_capture.py::test_a_weight_that_is_trained_later_is_no_known_one",
        ),
    ),
    Fault(
        name="a known call can use an attribute that was modified",
        path="dpmi/privacy/isolation/known.py",
        old="            and following.public.reference(value) == self.name\n",
        new="",
        tests=(f"{_KNOWN}::test_a_modified_attribute_is_no_longer_public",),
    ),
    Fault(
        name="a known call can use a parameter of another layout",
        path="dpmi/privacy/isolation/known.py",
        old="            and value.stride() == self.stride\n",
        new="",
        tests=(f"{_KNOWN}::test_a_parameter_whose_memory_was_replaced_is_followed",),
    ),
    Fault(
        name="a known call can use a value of another type",
        path="dpmi/privacy/isolation/known.py",
        old="type(value) is self.kind and bool(value == self.value)",
        new="bool(value == self.value)",
        tests=(f"{_KNOWN}::test_another_call_is_refused",),
    ),
    Fault(
        name="a known call can be made without gradients",
        path="dpmi/privacy/isolation/known.py",
        old="        if torch.is_grad_enabled() != self.step.arguments[2]:\n            return False\n",
        new="",
        tests=(f"{_KNOWN}::test_a_pass_without_gradients_is_another_one",),
    ),
    Fault(
        name="a known call can have other names",
        path="dpmi/privacy/isolation/known.py",
        old="if name != own or not expected.fits(value, following):",
        new="if not expected.fits(value, following):",
        tests=(f"{_KNOWN}::test_another_name_is_refused",),
    ),
    Fault(
        name="a known call can return other shapes",
        path="dpmi/privacy/isolation/follow.py",
        old="                fits = False\n",
        new="                pass\n",
        tests=(f"{_KNOWN}::test_shapes_are_compared_although_the_call_is_the_same",),
    ),
    Fault(
        name="a pass that is refused at its end is known",
        path="dpmi/privacy/isolation/follow.py",
        old="        self.check_outputs(outputs)\n        if self._program",
        new="        if self._program:\n            self._program.learn(self._of_pass, self._learned)\n"
        "        self.check_outputs(outputs)\n        if self._program",
        tests=(f"{_KNOWN}::test_a_pass_that_is_refused_at_its_end_is_not_known",),
    ),
    Fault(
        name="a pass over inputs of another layout is known",
        path="dpmi/privacy/isolation/follow.py",
        old="of_inputs.append((label, t.shape, t.stride(), t.dtype))",
        new="of_inputs.append((label, t.shape, t.dtype))",
        tests=(f"{_KNOWN}::test_other_inputs_are_followed",),
    ),
    Fault(
        name="a call with a tap is repeated without it",
        path="dpmi/privacy/gradients/capture.py",
        old="        self.is_plain = False\n        self._check_not_recomputed(names)\n",
        new="        self._check_not_recomputed(names)\n",
        tests=("tests/privacy/gradients/test_layers.py::test_a_known_pass_gives_the_same_gradients",),
    ),
)

FAULTS: tuple[Fault, ...] = (*_LABEL_FAULTS, *_PROGRAM_FAULTS, *_KNOWN_FAULTS, *_RULE_FAULTS, *_SHAPE_FAULTS)
