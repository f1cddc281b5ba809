"""Faults in the accountants: they charge less than was released, or state less than is true."""

from __future__ import annotations

from ..fault import Fault

_CALIBRATION = "tests/accountants/test_calibration.py"
_CHECKS = "tests/accountants/test_checks.py"
_CURVE = "tests/accountants/test_curve.py"
_GUARANTEE = "tests/accountants/test_guarantee.py"
_JSON = "tests/accountants/test_ledger_json.py"
_LEDGER = "tests/accountants/test_ledger.py"
_LEMMA3 = "tests/accountants/test_lemma3.py"
_MECHANISM = "tests/accountants/test_mechanism.py"
_MIXTURES = "tests/accountants/test_mixtures.py"
_PLD = "tests/accountants/test_pld.py"
_PROFILE = "tests/accountants/test_profile.py"
_REGISTRY = "tests/accountants/test_registry.py"
_THEOREM1 = "tests/accountants/test_theorem1.py"
_TIGHT = "tests/accountants/test_tight.py"

_LEDGER_FAULTS = (
    Fault(
        name="equal steps are charged only once",
        path="accountants/ledger.py",
        old="self.runs[-1][1] + steps",
        new="steps",
        tests=(_LEDGER,),
    ),
    Fault(
        name="the sum of two ledgers drops all but the first run of the second",
        path="accountants/ledger.py",
        old="(*self.record(mechanism, steps).runs, *rest)",
        new="self.record(mechanism, steps).runs",
        tests=(f"{_JSON}::TestSum",),
    ),
    Fault(
        name="a repeated mechanism counts its last run only",
        path="accountants/ledger.py",
        old="totals.get(mechanism, 0) + steps",
        new="steps",
        tests=(f"{_TIGHT}::test_runs_compose_in_any_order",),
    ),
    Fault(
        name="a step without noise among other steps is ignored",
        path="accountants/mechanism.py",
        old="return any(mechanism.noise_multiplier == 0",
        new="return all(mechanism.noise_multiplier == 0",
        tests=(_REGISTRY,),
    ),
    Fault(
        name="a larger unit gets the epsilon of a bucket",
        path="accountants/mechanism.py",
        old="buckets_per_unit=buckets_per_unit,",
        new="buckets_per_unit=1,",
        tests=(f"{_MIXTURES}::test_values_of_dp_accounting",),
    ),
    Fault(
        name="the noise for a larger unit is that for a bucket",
        path="accountants/calibration.py",
        old="adjacency=adjacency, buckets_per_unit=buckets_per_unit\n",
        new="adjacency=adjacency\n",
        tests=(f"{_CALIBRATION}::test_units_of_several_buckets_get_their_own_target",),
    ),
    Fault(
        name="a larger unit has the profile of a bucket",
        path="accountants/profile.py",
        old="tuple(for_units(self.ledger.totals, self.buckets_per_unit).items())",
        new="tuple(self.ledger.totals.items())",
        tests=(f"{_PROFILE}::test_a_guarantee_is_a_point_of_the_profile",),
    ),
    Fault(
        name="a larger unit has the reconstruction bound of a bucket",
        path="accountants/profile.py",
        old="totals = for_units(ledger.totals, buckets_per_unit)",
        new="totals = ledger.totals",
        tests=(f"{_PROFILE}::test_the_bound_of_a_unit_of_several_buckets_is_that_of_the_best_test",),
    ),
    Fault(
        name="an accountant of buckets answers for larger units",
        path="accountants/registry.py",
        old="        if not chosen.several_buckets:\n",
        new="        if False:\n",
        tests=(_REGISTRY,),
    ),
    Fault(
        name="a ledger takes a step as a larger unit sees it",
        path="accountants/ledger.py",
        old="if type(mechanism) not in SAMPLERS.values():",
        new="if not isinstance(mechanism, tuple(SAMPLERS.values())):",
        tests=(_REGISTRY,),
    ),
    Fault(
        name="a replaced unit moves the sum to one side only",
        path="accountants/mixtures.py",
        old='lower=nothing if direction == "remove" else drawn,',
        new='lower=drawn if direction == "add" else nothing,',
        tests=(f"{_MIXTURES}::test_delta_is_that_of_a_quadrature",),
    ),
    Fault(
        name="the numbers of drawn buckets that were left out are free",
        path="accountants/mixtures.py",
        old="found + self.neglected",
        new="found",
        tests=(f"{_MIXTURES}::test_what_was_left_out_is_paid_for",),
    ),
    Fault(
        name="rare small numbers of drawn buckets count as none",
        path="accountants/mixtures.py",
        old="weights[0] = binom.cdf(first, owned, sampling_rate)",
        new="weights[0] = binom.pmf(first, owned, sampling_rate)",
        tests=(f"{_MIXTURES}::test_what_was_left_out_is_paid_for",),
    ),
    Fault(
        name="a saved ledger with a wrong number of steps is accepted",
        path="accountants/ledger.py",
        old="if steps != ledger.steps:",
        new="if steps > ledger.steps:",
        tests=(_JSON,),
    ),
    Fault(
        name="an edited document is accepted",
        path="accountants/sealed_json.py",
        old="if found != expected:",
        new="if not found:",
        tests=(f"{_JSON}::TestDamage",),
    ),
)

_ANSWER_FAULTS = (
    Fault(
        name="epsilon is rounded down",
        path="accountants/guarantee.py",
        old="math.ceil(epsilon * 1000)",
        new="math.floor(epsilon * 1000)",
        tests=(_GUARANTEE,),
    ),
    Fault(
        name="no noise costs nothing",
        path="accountants/registry.py",
        old="bound = Bound(math.inf)",
        new="bound = Bound(0.0)",
        tests=(_MECHANISM,),
    ),
    Fault(
        name="the closed form of the paper counts as a guarantee",
        path="accountants/registry.py",
        old="bound=theorem1.bound,\n            is_guarantee=False",
        new="bound=theorem1.bound,\n            is_guarantee=True",
        tests=(_THEOREM1,),
    ),
    Fault(
        name="a delta of 1/K or more causes no warning",
        path="accountants/registry.py",
        old="delta >= 1 / buckets",
        new="delta >= 2 / buckets",
        tests=(_REGISTRY,),
    ),
    Fault(
        name="a delta of 1 is accepted",
        path="accountants/checks.py",
        old="if not 0 < number < 1:",
        new="if not 0 < number <= 1:",
        tests=(_CHECKS,),
    ),
    Fault(
        name="a negative sampling rate is accepted",
        path="accountants/checks.py",
        old="if not 0 < number <= 1:",
        new="if not number <= 1:",
        tests=(_CHECKS,),
    ),
    Fault(
        name="a subclass-level epsilon is stated for the whole class",
        path="accountants/verdict.py",
        old="buckets_per_unit=subclasses",
        new="buckets_per_unit=1",
        tests=("tests/accountants/test_verdict.py::TestTenClasses",),
    ),
)

_TIGHT_FAULTS = (
    Fault(
        name="replacing a bucket is charged as adding one",
        path="accountants/pld.py",
        old='"replace": NeighboringRelation.REPLACE_ONE',
        new='"replace": NeighboringRelation.ADD_OR_REMOVE_ONE',
        tests=(f"{_TIGHT}::test_known_values",),
    ),
    Fault(
        name="half the sampling rate is charged",
        path="accountants/pld.py",
        old="sampling_prob=q,",
        new="sampling_prob=q / 2,",
        tests=(f"{_TIGHT}::test_known_values",),
    ),
    Fault(
        name="a sampling rate that is too small to compute is not rounded up",
        path="accountants/pld.py",
        old="max(mechanism.sampling_rate, SMALLEST_RATE)",
        new="mechanism.sampling_rate",
        tests=(
            f"{_TIGHT}::test_whatever_the_sampling_rate_it_is_an_upper_bound_and_no_more_than_at_a_larger_one",
        ),
    ),
    Fault(
        name="twice the noise is charged",
        path="accountants/pld.py",
        old="standard_deviation=sigma,",
        new="standard_deviation=2 * sigma,",
        tests=(f"{_TIGHT}::test_known_values",),
    ),
    Fault(
        name="privacy losses are rounded down",
        path="accountants/pld.py",
        old="neighboring_relation=relation,",
        new="neighboring_relation=relation, pessimistic_estimate=False,",
        tests=(f"{_PLD}::test_a_coarser_interval_never_lowers_epsilon",),
    ),
    Fault(
        name="one step too few is composed",
        path="accountants/pld.py",
        old="self_compose(steps)",
        new="self_compose(max(1, steps - 1))",
        tests=(f"{_TIGHT}::test_known_values",),
    ),
    Fault(
        name="only the last of several mechanisms is charged",
        path="accountants/pld.py",
        old="total = run if total is None else total.compose(run)",
        new="total = run",
        tests=(f"{_TIGHT}::test_runs_compose_in_any_order",),
    ),
    Fault(
        name="epsilon reserves no part of delta for floating-point error",
        path="accountants/pld.py",
        old="usable = delta - ROUNDING_PER_STEP * self.steps",
        new="usable = delta",
        tests=(f"{_PLD}::test_rounding_of_every_step_is_set_aside_in_both_directions",),
    ),
    Fault(
        name="delta has no margin for floating-point error",
        path="accountants/pld.py",
        old="found + ROUNDING_PER_STEP * self.steps",
        new="found",
        tests=(f"{_PLD}::test_rounding_of_every_step_is_set_aside_in_both_directions",),
    ),
    Fault(
        name="probabilities whose sum is too large are composed",
        path="accountants/pld.py",
        old="if steps * one.excess > _MOST_EXCESS:",
        new="if one.excess > _MOST_EXCESS:",
        tests=(f"{_PLD}::test_probabilities_that_sum_to_more_than_one_are_not_composed",),
    ),
    Fault(
        name="a delta below the truncated tails is accepted",
        path="accountants/pld.py",
        old="if delta < SMALLEST_DELTA:",
        new="if delta < SMALLEST_DELTA / 10:",
        tests=(f"{_TIGHT}::test_delta_down_to_its_limit_and_not_below",),
    ),
)

_MOMENTS_FAULTS = (
    Fault(
        name="the moments of a replacement are those of an addition",
        path="accountants/lemma3.py",
        old='rescale = 1.0 if adjacency == "replace" else 2.0',
        new="rescale = 2.0",
        tests=(f"{_LEMMA3}::test_known_values_of_the_papers_first_mnist_setting",),
    ),
    Fault(
        name="the moments of equal steps are counted once",
        path="accountants/lemma3.py",
        old="            steps\n            * log_moment(",
        new="            log_moment(",
        tests=(f"{_LEMMA3}::test_known_values_of_the_papers_first_mnist_setting",),
    ),
    Fault(
        name="moments are converted with the order one too large",
        path="accountants/lemma3.py",
        old="(total_log_moment - math.log(delta) - log_order) / kappa +",
        new="(total_log_moment - math.log(delta) - log_order) / (kappa + 1) +",
        tests=(f"{_LEMMA3}::test_known_values_of_the_papers_first_mnist_setting",),
    ),
    Fault(
        name="the exponent in the moment of an integer order is too small",
        path="accountants/lemma3.py",
        old="+ (k * k - k) *",
        new="+ (k * k - 2 * k) *",
        tests=(f"{_LEMMA3}::test_integer_and_real_orders_meet",),
    ),
    Fault(
        name="the closed form of a replacement is that of an addition",
        path="accountants/theorem1.py",
        old='(4, 64) if adjacency == "replace" else (2, 32)',
        new="(2, 32)",
        tests=(_THEOREM1,),
    ),
)

_SEARCH_FAULTS = (
    Fault(
        name="calibration ends above the target if its corrections do not converge",
        path="accountants/calibration.py",
        old="while exact(value) > target and value > lower:",
        new="while value < lower:",
        tests=(f"{_CALIBRATION}::test_an_epsilon_that_jumps_ends_below_the_target",),
    ),
    Fault(
        name="calibration accepts an epsilon slightly above the target",
        path="accountants/calibration.py",
        old="aim = target * (1 - SHORT_OF_TARGET / 2)",
        new="target *= 1 + SHORT_OF_TARGET; aim = target",
        tests=(f"{_CALIBRATION}::test_the_target_of_a_known_run_gives_the_run_back",),
    ),
    Fault(
        name="calibration returns one step more than the target allows",
        path="accountants/calibration.py",
        old="exact(steps + 1) <= target:",
        new="exact(steps) <= target:",
        tests=(f"{_CALIBRATION}::test_one_more_step_would_exceed_the_target",),
    ),
    Fault(
        name="calibration for a replacement computes an addition",
        path="accountants/calibration.py",
        old="            delta=delta, unit=unit, adjacency=adjacency, buckets_per_unit=buckets_per_unit\n",
        new='            delta=delta, unit=unit, adjacency="add_remove", buckets_per_unit=buckets_per_unit\n',
        tests=(f"{_CALIBRATION}::test_the_target_of_a_known_run_gives_the_run_back",),
    ),
    Fault(
        name="a curve uses the smaller of two neighbouring composed counts",
        path="accountants/curve.py",
        old="np.searchsorted(counts, asked)",
        new='np.searchsorted(counts, asked, side="right") - 1',
        tests=(_CURVE,),
    ),
    Fault(
        name="a curve always uses add_remove",
        path="accountants/curve.py",
        old="pld.one_step(mechanism, adjacency, interval, log_tail)",
        new='pld.one_step(mechanism, "add_remove", interval, log_tail)',
        tests=(_CURVE,),
    ),
    Fault(
        name="a bound on reconstruction omits delta",
        path="accountants/profile.py",
        old="np.exp(epsilons) * kappa.ravel()[:, np.newaxis] + deltas",
        new="np.exp(epsilons) * kappa.ravel()[:, np.newaxis]",
        tests=(f"{_PROFILE}::test_the_published_bounds",),
    ),
    Fault(
        name="a profile without noise has delta 0",
        path="accountants/profile.py",
        old="np.full(asked.shape, float(self.ledger.noiseless))",
        new="np.zeros(asked.shape)",
        tests=(f"{_PROFILE}::test_no_noise_tells_everything",),
    ),
    Fault(
        name="a trade-off is 1 everywhere",
        path="accountants/profile.py",
        old="lines.max(axis=1)",
        new="np.ones(len(a))",
        tests=(
            f"{_PROFILE}::test_without_sampling_everything_is_that_of_the_gaussian_mechanism",
            f"{_PROFILE}::test_no_noise_tells_everything",
        ),
    ),
)

FAULTS: tuple[Fault, ...] = (
    *_LEDGER_FAULTS,
    *_ANSWER_FAULTS,
    *_TIGHT_FAULTS,
    *_MOMENTS_FAULTS,
    *_SEARCH_FAULTS,
)
