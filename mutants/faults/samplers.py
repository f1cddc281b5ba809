"""Faults in what covers other draws than Poisson sampling: a sampler, its charge or its epsilon is another one's."""

from __future__ import annotations

from ..fault import Fault

_ALLOCATION = "tests/accountants/test_allocation.py"
_FIXED = "tests/accountants/test_fixed_number.py"
_JSON = "tests/accountants/test_ledger_json.py"
_MECHANISM = "tests/accountants/test_mechanism.py"
_PAIRS = "tests/accountants/test_pairs.py"
_REGISTRY = "tests/accountants/test_registry.py"
_SAMPLERS = "tests/privacy/test_samplers.py"
_TARGET = "tests/privacy/test_target_epsilon.py"
_TEXT = "tests/privacy/test_sampling_text.py"
_TRUNCATED = "tests/accountants/test_truncated.py"

_ACCOUNTING_FAULTS = (
    Fault(
        name="every accountant answers for every sampler",
        path="accountants/registry.py",
        old="if type(mechanism) not in chosen.mechanisms:",
        new="if False:",
        tests=(_REGISTRY,),
    ),
    Fault(
        name="a fixed number of buckets has an epsilon under add_remove",
        path="accountants/mechanism.py",
        old='if adjacency == "replace" or not fixed)',
        new="if True)",
        tests=(f"{_FIXED}::test_one_bucket_more_or_less_is_refused_everywhere",),
    ),
    Fault(
        name="what covers Poisson sampling only takes others",
        path="accountants/mechanism.py",
        old="    if type(mechanism) is not BucketMechanism:\n        raise ValueError(f",
        new="    if False:\n        raise ValueError(f",
        tests=(f"{_MECHANISM}::test_what_covers_poisson_sampling_only_refuses_the_others",),
    ),
    Fault(
        name="a fixed number of buckets is Poisson sampling, one bucket replaced",
        path="accountants/fixed_number.py",
        old="rate, distance = self.sampling_rate, 2 / self.sigma",
        new="rate, distance = self.sampling_rate, 1 / self.sigma",
        tests=(f"{_FIXED}::test_with_all_buckets_it_is_the_gaussian_mechanism_at_distance_2",),
    ),
    Fault(
        name="below order 1 a fixed number of buckets costs what it costs above",
        path="accountants/fixed_number.py",
        old="found = np.where(epsilons >= 0, above, below)",
        new="found = above",
        tests=(f"{_FIXED}::test_a_profile_is_its_own_mirror_image",),
    ),
    Fault(
        name="a truncated draw counts as Poisson sampling",
        path="accountants/truncated.py",
        old="    if full == 0:",
        new="    if full < 1:",
        tests=(f"{_TRUNCATED}::test_no_two_data_sets_are_told_apart_better",),
    ),
    Fault(
        name="the bucket itself counts among those that fill a step",
        path="accountants/truncated.py",
        old="binom.sf(most - 1, units - 1, sampling_rate)",
        new="binom.sf(most, units - 1, sampling_rate)",
        tests=(f"{_TRUNCATED}::test_the_probabilities_are_those_of_an_enumeration",),
    ),
    Fault(
        name="a neighbour with one bucket more is not truncated",
        path="accountants/truncated.py",
        old="sizes = (mechanism.units, mechanism.units + 1)",
        new="sizes = (mechanism.units,)",
        tests=(f"{_TRUNCATED}::test_no_two_data_sets_are_told_apart_better",),
    ),
    Fault(
        name="a data set that may grow beyond the limit counts as never truncated",
        path="accountants/pairs.py",
        old='mechanism.units + (\n        adjacency == "add_remove"\n    ):',
        new="mechanism.units:",
        tests=(f"{_PAIRS}::test_others_are_poisson_sampling_at_their_ends",),
    ),
    Fault(
        name="a replacement in a pass costs what a removal costs",
        path="accountants/pairs.py",
        old='adjacency == "replace" or mechanism.steps_per_pass == 1',
        new="mechanism.steps_per_pass == 1",
        tests=(f"{_PAIRS}::test_others_are_poisson_sampling_at_their_ends",),
    ),
    Fault(
        name="probabilities move to the lower point of the grid",
        path="accountants/allocation.py",
        old="for weights, to in ((1 - share[those], each), (share[those], each + 1)):",
        new="for weights, to in ((np.ones(len(those)), each),):",
        tests=(f"{_ALLOCATION}::test_the_mean_is_kept_and_the_variance_is_hardly_raised",),
    ),
    Fault(
        name="what is left out of a pass is free",
        path="accountants/allocation.py",
        old="found + self.neglected",
        new="found",
        tests=(f"{_ALLOCATION}::test_what_was_left_out_is_paid_for",),
    ),
    Fault(
        name="a pass has twice its steps",
        path="accountants/allocation.py",
        old="logs = total.logarithms(distance) - math.log(steps)",
        new="logs = total.logarithms(distance) - math.log(2 * steps)",
        tests=(f"{_ALLOCATION}::test_two_steps_are_an_integral_over_the_plane",),
    ),
    Fault(
        name="the addition after a removal has the same delta",
        path="accountants/pld.py",
        old="left = (delta - removal) * np.exp(-each)",
        new="left = delta - removal",
        tests=(f"{_ALLOCATION}::test_known_values",),
    ),
    Fault(
        name="a saved ledger forgets its samplers",
        path="accountants/ledger.py",
        old='{"sampler": sampler(mechanism), **vars(mechanism), "times": steps}',
        new='{"sampler": "poisson", **vars(mechanism), "times": steps}',
        tests=(f"{_JSON}::TestOtherSamplers",),
    ),
    Fault(
        name="a pass counts as one step",
        path="accountants/mechanism.py",
        old="return mechanism.steps_per_pass if isinstance(mechanism, BallsInBins) else 1",
        new="return 1",
        tests=(f"{_MECHANISM}::test_one_charge_of_a_pass_covers_its_steps",),
    ),
)

_ENGINE_FAULTS = (
    Fault(
        name="the same buckets are drawn in a fixed number",
        path="dpmi/privacy/samplers.py",
        old="found: IntArray = ids[np.sort(np.argpartition(places, number)[:number])]",
        new="found: IntArray = ids[:number]",
        tests=(f"{_SAMPLERS}::test_every_subset_of_the_fixed_number_is_equally_likely",),
    ),
    Fault(
        name="the order of the buckets decides between equal numbers",
        path="dpmi/privacy/samplers.py",
        old="if len(np.unique(places)) == len(ids):",
        new="if len(places) == len(ids):",
        tests=(f"{_SAMPLERS}::test_equal_numbers_do_not_decide",),
    ),
    Fault(
        name="the first of too many drawn buckets are used",
        path="dpmi/privacy/samplers.py",
        old="return [drawn if len(drawn) <= self.most else _subset(drawn, self.most, uniform)]",
        new="return [drawn[: self.most]]",
        tests=(f"{_SAMPLERS}::test_a_truncated_draw_uses_every_subset_equally_often",),
    ),
    Fault(
        name="a largest number of buckets is charged and not kept",
        path="dpmi/privacy/samplers.py",
        old="return [drawn if len(drawn) <= self.most else",
        new="return [drawn if len(drawn) >= 0 else",
        tests=(f"{_SAMPLERS}::test_no_step_has_more_than_the_largest_number",),
    ),
    Fault(
        name="integers beyond the largest multiple are used",
        path="dpmi/privacy/samplers.py",
        old="largest = _RESOLUTION - _RESOLUTION % limit",
        new="largest = _RESOLUTION",
        tests=(f"{_SAMPLERS}::test_integers_are_equally_likely_because_the_last_ones_are_drawn_again",),
    ),
    Fault(
        name="a loop that is left gets a new pass",
        path="dpmi/privacy/sampling.py",
        old="pending = pending or deque(self._draw_all())",
        new="pending = deque(self._draw_all())",
        tests=(f"{_SAMPLERS}::test_every_pass_has_every_bucket_once_and_one_charge",),
    ),
    Fault(
        name="a pass is free from the start",
        path="dpmi/privacy/sampling.py",
        old="charge = Charge(made=len(draws) < self.steps)",
        new="charge = Charge(made=True)",
        tests=(f"{_SAMPLERS}::test_a_pass_is_charged_whole_with_its_first_released_step_and_not_before",),
    ),
    Fault(
        name="a charge is made for a step that is not released",
        path="dpmi/privacy/optimizer.py",
        old="        if not draw.charge.made:\n            self._bill()\n            draw.charge.made = True\n",
        new="        made, draw.charge.made = draw.charge.made, True\n        if not made and self.released_steps:\n"
        "            self._bill()\n",
        tests=(f"{_SAMPLERS}::test_a_crash_while_the_first_step_is_released_is_charged_once",),
    ),
    Fault(
        name="a checkpoint of another sampler is resumed",
        path="dpmi/privacy/checkpoint.py",
        old='{"sampling": None, **training.facts()}',
        new="training.facts()",
        tests=(f"{_SAMPLERS}::test_a_checkpoint_of_another_sampler_is_refused",),
    ),
    Fault(
        name="other draws are audited as Poisson draws",
        path="dpmi/privacy/plan.py",
        old="if self.canaries and not isinstance(self.sampling, PoissonSampling):",
        new="if False:",
        tests=(_SAMPLERS,),
    ),
    Fault(
        name="a sampling rate that does not apply is ignored",
        path="dpmi/privacy/samplers.py",
        old="if not self.has_rate and sampling_rate is not None:",
        new="if False:",
        tests=(f"{_SAMPLERS}::test_contradictions_are_refused_by_name",),
    ),
    Fault(
        name="another number of steps than that of its assignment makes a pass",
        path="dpmi/privacy/samplers.py",
        old="if whole is not None and steps_per_epoch not in (None, whole):",
        new="if False:",
        tests=(f"{_SAMPLERS}::test_a_pass_has_the_steps_of_its_assignment",),
    ),
    Fault(
        name="the noise for other draws is that of Poisson draws",
        path="dpmi/privacy/target.py",
        old="if isinstance(sampling, PoissonSampling):",
        new="if sampling.has_rate:",
        tests=(f"{_TARGET}::test_a_target_of_other_draws_is_met_and_enforced",),
    ),
    Fault(
        name="a statement names one of its samplers",
        path="dpmi/privacy/sampling_text.py",
        old="for kind in kinds or (BucketMechanism,))",
        new="for kind in (list(kinds) or [BucketMechanism])[:1])",
        tests=(_TEXT,),
    ),
)

_OWNERS_FAULTS = (
    Fault(
        name="owners of several buckets are drawn in a way that is not accounted for them",
        path="dpmi/privacy/plan.py",
        old="if self.partition.buckets_per_unit > 1 and self.sampling != POISSON:",
        new="if False:",
        tests=("tests/privacy/test_limits.py",),
    ),
    Fault(
        name="a filter or a search takes other draws than Poisson's",
        path="dpmi/privacy/limits.py",
        old="(self.privacy_filter is not None or self.one_run is not None) and settings.sampling != POISSON",
        new="False",
        tests=("tests/privacy/test_limits.py",),
    ),
)

FAULTS: tuple[Fault, ...] = (*_OWNERS_FAULTS, *_ACCOUNTING_FAULTS, *_ENGINE_FAULTS)
