"""Faults in what covers other draws than Poisson sampling: a sampler, its charge or its epsilon is another one's."""

from __future__ import annotations

from ..fault import Fault

_ALLOCATION = "tests/accountants/test_allocation.py"
_FIXED = "tests/accountants/test_fixed_number.py"
_JSON = "tests/accountants/test_ledger_json.py"
_MECHANISM = "tests/accountants/test_mechanism.py"
_PAIRS = "tests/accountants/test_pairs.py"
_REGISTRY = "tests/accountants/test_registry.py"
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

FAULTS: tuple[Fault, ...] = (*_ACCOUNTING_FAULTS,)
