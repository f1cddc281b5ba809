"""Faults in the gradients of buckets: norms that are too small, and sums of more than was measured."""

from __future__ import annotations

from ..fault import Fault

_NORMS = "tests/privacy/gradients/test_row_norms.py"
_CAPTURE = "tests/privacy/gradients/test_capture.py"
_IMPLICIT = "tests/privacy/gradients/test_factors.py"
_LAYERS = "tests/privacy/gradients/test_layers.py"
_RECURRENT = "tests/privacy/gradients/test_recurrent.py"
_SEGMENTS = "tests/privacy/gradients/test_segments.py"
_SUM = "tests/privacy/gradients/test_running_sum.py"
_UPDATE = "tests/privacy/test_update.py"
_ROWS = f"{_LAYERS}::test_rows_equal_a_backward_pass_per_bucket"

_NORM_FAULTS = (
    Fault(
        name="a norm omits biases",
        path="dpmi/privacy/gradients/row_norms.py",
        old="flat = [row.reshape(k, -1) for row in rows]",
        new="flat = [row.reshape(k, -1) for row in rows if row.dim() != 2]",
        tests=(_NORMS,),
        audited=True,
    ),
    Fault(
        name="a norm omits the last parameter",
        path="dpmi/privacy/gradients/row_norms.py",
        old="flat = [row.reshape(k, -1) for row in rows]",
        new="flat = [row.reshape(k, -1) for row in rows[: max(1, len(rows) - 1)]]",
        tests=(_NORMS,),
        audited=True,
    ),
    Fault(
        name="a norm omits the elements after the last complete run",
        path="dpmi/privacy/gradients/row_norms.py",
        old="together = torch.cat([runs, flat[:, whole:]], dim=1)",
        new="together = runs",
        tests=(_NORMS,),
        audited=True,
    ),
    Fault(
        name="a large norm is summed in float32",
        path="dpmi/privacy/gradients/row_norms.py",
        old="runs = torch.linalg.vector_norm(flat[:, :whole].reshape(len(flat), -1, _FLOAT32_RUN), dim=2)",
        new="runs = torch.linalg.vector_norm(flat[:, :whole], dim=1, keepdim=True)",
        tests=(f"{_UPDATE}::test_clipped_norm_never_exceeds_the_bound_in_float64",),
    ),
    Fault(
        name="the norm of a tiny gradient underflows",
        path="dpmi/privacy/gradients/row_norms.py",
        old="_LOST = 2.0**-124",
        new="_LOST = 0.0",
        tests=(_NORMS,),
    ),
)

_SUM_FAULTS = (
    Fault(
        name="a single bucket is summed without its factor",
        path="dpmi/privacy/gradients/running_sum.py",
        old="alpha=factor",
        new="alpha=1.0",
        tests=(_SUM,),
        audited=True,
    ),
    Fault(
        name="several buckets are summed with their mean factor",
        path="dpmi/privacy/gradients/running_sum.py",
        old="weights, flat = factors.to(part),",
        new="weights, flat = factors.to(part).mean().expand(len(factors)),",
        tests=(_SUM,),
        audited=True,
    ),
    Fault(
        name="only parameters of the first type get noise",
        path="dpmi/privacy/gradients/running_sum.py",
        old="        for flat in self._flat.values():\n            fill(flat)",
        new="        for i, flat in enumerate(self._flat.values()):\n            _ = flat.zero_() if i else fill(flat)",
        tests=(_SUM,),
    ),
    Fault(
        name="the sum is shifted to the neighbouring parameter",
        path="dpmi/privacy/gradients/running_sum.py",
        old="kinds[kind] = kinds.get(kind, 0) + p.numel()",
        new="kinds[kind] = max(kinds.get(kind, 0), p.numel())",
        tests=(_SUM,),
        audited=True,
    ),
)

_SEGMENT_FAULTS = (
    Fault(
        name="a bucket's sum includes the buckets before it",
        path="dpmi/privacy/gradients/segments.py",
        old="(self.bucket_of_record(device) == bucket)",
        new="(self.bucket_of_record(device) <= bucket)",
        tests=(_ROWS,),
        audited=True,
    ),
    Fault(
        name="runs of buckets start one record too early",
        path="dpmi/privacy/gradients/segments.py",
        old="runs.append(Run(bucket, count, size, self.bounds[bucket]))",
        new="runs.append(Run(bucket, count, size, max(0, self.bounds[bucket] - 1)))",
        tests=(f"{_SEGMENTS}::test_segments_group_buckets_of_one_size", _ROWS),
        audited=True,
    ),
)

_LAYER_FAULTS = (
    Fault(
        name="a linear layer's rows use another bucket's inputs",
        path="dpmi/privacy/gradients/linear.py",
        old="write_outer_sums(x[run.records], g[run.records], rows[run.buckets])",
        new="write_outer_sums(x[run.records].flip(0), g[run.records], rows[run.buckets])",
        tests=(_ROWS,),
        audited=True,
    ),
    Fault(
        name="a bias's gradient is not summed over positions",
        path="dpmi/privacy/gradients/linear.py",
        old="return segments.sum(g, range(1, g.dim() - 1))",
        new="return segments.sum(g.flatten(1, -2)[:, 0] if g.dim() > 2 else g)",
        tests=(_ROWS,),
    ),
    Fault(
        name="a convolution's rows use the inputs of the first bucket",
        path="dpmi/privacy/gradients/conv.py",
        old="gs[i], xs[i], weight",
        new="gs[i], xs[0][:1].expand_as(xs[i]), weight",
        tests=(_ROWS,),
    ),
    Fault(
        name="a convolution's bias is summed over records only",
        path="dpmi/privacy/gradients/conv.py",
        old="return segments.sum(g, range(2, g.dim()))",
        new="return segments.sum(g.flatten(2)[:, :, 0])",
        tests=(_ROWS,),
    ),
    Fault(
        name="the gradient of a normalisation's weight uses inputs that are not normalised",
        path="dpmi/privacy/gradients/normalization.py",
        old="self._normalise(x).to(dtype) * g.to(dtype)",
        new="x.to(dtype) * g.to(dtype)",
        tests=(_ROWS,),
    ),
    Fault(
        name="an embedding's padding token gets a gradient",
        path="dpmi/privacy/gradients/embedding.py",
        old="kept = token != self._padding",
        new="kept = token == token",
        tests=(_ROWS,),
    ),
    Fault(
        name="an embedding that rescales its lines in the forward pass is accepted",
        path="dpmi/privacy/isolation/layer_functions.py",
        old='if argument(call, 3, "max_norm") is not None:',
        new='if argument(call, 3, "max_norm") == 0:',
        tests=(f"{_CAPTURE}::test_what_cannot_be_split_by_bucket_is_refused",),
    ),
    Fault(
        name="the first bucket gets all gradients of a layer that is run bucket by bucket",
        path="dpmi/privacy/gradients/other_layers.py",
        old='own = {f"leaf.{name}": copy[i]',
        new='own = {f"leaf.{name}": copy[0]',
        tests=(_ROWS,),
    ),
    Fault(
        name="a recurrent layer's states belong to no record",
        path="dpmi/privacy/gradients/leaves.py",
        old="            for state in states:\n",
        new="            for state in states[:0]:\n",
        tests=(f"{_RECURRENT}::test_states_that_do_not_fit",),
    ),
    Fault(
        name="a recurrent layer's state can change before the backward pass",
        path="dpmi/privacy/gradients/recurrent.py",
        old="s.clone().unbind(0)",
        new="s.unbind(0)",
        tests=(f"{_RECURRENT}::test_a_state_that_is_changed_later_is_what_it_was",),
    ),
    Fault(
        name="a recurrent layer that computes something else is written out",
        path="dpmi/privacy/gradients/recurrent.py",
        old="isinstance(leaf, kind) and computes_as(leaf, kind) for",
        new="isinstance(leaf, kind) for",
        tests=(f"{_RECURRENT}::test_a_layer_that_computes_something_else_runs_bucket_by_bucket",),
    ),
    Fault(
        name="a subclass that computes something else is treated as its base class",
        path="dpmi/privacy/gradients/other_layers.py",
        old="isinstance(m, known) and computes_as(m, known) for",
        new="isinstance(m, known) for",
        tests=(_ROWS,),
    ),
)

_GHOST_FAULTS = (
    Fault(
        name="a norm treats positions as orthogonal",
        path="dpmi/privacy/gradients/factors.py",
        old="pairs.sum((1, 2))",
        new="pairs.diagonal(dim1=1, dim2=2).sum(1)",
        tests=(_IMPLICIT,),
        audited=True,
    ),
    Fault(
        name="a bucket with a stored row is added twice",
        path="dpmi/privacy/gradients/factors.py",
        old="            factors[run.buckets] = 0.0\n",
        new="",
        tests=(_IMPLICIT,),
    ),
    Fault(
        name="a repeated token is measured as two tokens",
        path="dpmi/privacy/gradients/factors.py",
        old="squares = torch.linalg.vector_norm(self._values, dim=1, dtype=torch.float64).square()\n"
        "        self.squared_norms = squares.new_zeros(num_buckets).index_add_(0, self._bucket, squares)",
        new="squares = torch.linalg.vector_norm(values, dim=1, dtype=torch.float64).square()\n"
        "        self.squared_norms = squares.new_zeros(num_buckets).index_add_(0, bucket, squares)",
        tests=(_IMPLICIT,),
    ),
    Fault(
        name="the rounding error of cancelling terms is not added to the norm",
        path="dpmi/privacy/gradients/factors.py",
        old="found.append(norms + self._rounding(x, g, segments, positions))",
        new="found.append(norms)",
        tests=(f"{_CAPTURE}::test_no_clipped_gradient_is_too_long_when_records_nearly_cancel",),
    ),
    Fault(
        name="an input that changed after its norm was computed is used",
        path="dpmi/privacy/gradients/factors.py",
        old="if self._x._version != self._version:",
        new="if self._x._version < self._version:",
        tests=(f"{_CAPTURE}::test_modifying_an_input_that_ghost_needs_is_refused",),
    ),
)

FAULTS: tuple[Fault, ...] = (
    *_NORM_FAULTS,
    *_SUM_FAULTS,
    *_SEGMENT_FAULTS,
    *_LAYER_FAULTS,
    *_GHOST_FAULTS,
)
