"""Faults in runs that were not planned as one: private search, privacy filters, and their accounts."""

from __future__ import annotations

from ..fault import Fault

_FILTERS = "tests/accountants/test_filters.py"
_LIMITS = "tests/privacy/test_limits.py"
_PROFILE = "tests/accountants/test_profile.py"
_RENYI = "tests/accountants/test_renyi.py"
_SEARCH = "tests/privacy/test_search.py"
_SELECTION = "tests/accountants/test_selection.py"

_ACCOUNTING_FAULTS = (
    Fault(
        name="moments: a step that rounds to nothing is free",
        path="accountants/renyi.py",
        old="(max(0.0, found) + _ROUNDING) / (order - 1)",
        new="max(0.0, found) / (order - 1)",
        tests=(_RENYI,),
    ),
    Fault(
        name="moments: adding a unit is not compared with removing it",
        path="accountants/renyi.py",
        old='"add_remove": ((-1, 0), (0, 1))',
        new='"add_remove": ((0, 1),)',
        tests=(_RENYI,),
    ),
    Fault(
        name="moments: the integral ends before its peak",
        path="accountants/renyi.py",
        old="low = buckets * (order * min(p, 0) - (order - 1) * max(q_, 0)) - _TAIL * sigma",
        new="low = buckets * (order * min(p, 0)) - _TAIL * sigma",
        tests=(_RENYI,),
    ),
    Fault(
        name="a selection costs as much as one run",
        path="accountants/selection.py",
        old="best: renyi.Numbers = each + (1 + self.shape) * part.min() + math.log(self.mean) / (renyi.ORDERS - 1)",
        new="best: renyi.Numbers = each",
        tests=(_SELECTION,),
    ),
    Fault(
        name="a selection by Poisson's distribution forgets its failure",
        path="accountants/selection.py",
        old="return each + self._gamma * delta + math.log(self.mean)",
        new="return each + math.log(self.mean)",
        tests=(_SELECTION,),
    ),
    Fault(
        name="a selection draws one try fewer",
        path="accountants/selection.py",
        old="        return number\n\n    def guarantee(",
        new="        return max(1, number - 1)\n\n    def guarantee(",
        tests=(_SELECTION,),
    ),
    Fault(
        name="a filter allows one step too many",
        path="accountants/filters.py",
        old="return self._spent(ledger.record(mechanism, steps)) <=",
        new="return self._spent(ledger) <=",
        tests=(_FILTERS,),
    ),
    Fault(
        name="a filter promises under replacement what it limited under removal",
        path="accountants/filters.py",
        old='elif (self.adjacency, adjacency) == ("add_remove", "replace"):',
        new="elif False:",
        tests=(_FILTERS,),
    ),
    Fault(
        name="a filter promises what its run has exceeded",
        path="accountants/filters.py",
        old="if not self._spent(ledger) <= self.budget:",
        new="if False:",
        tests=(_FILTERS,),
    ),
    Fault(
        name="mu is compared at the wrong end of each interval",
        path="accountants/profile.py",
        old="deltas, rights = composed.delta(epsilons[:-1]) - MU_SLACK, epsilons[1:]",
        new="deltas, rights = composed.delta(epsilons[1:]) - MU_SLACK, epsilons[:-1]",
        tests=(_PROFILE,),
    ),
    Fault(
        name="mu covers a failure that is as likely as float64 pleases",
        path="accountants/pld.py",
        old="        if usable <= 0:\n            return math.inf\n",
        new="",
        tests=(_PROFILE,),
    ),
)

_ENGINE_FAULTS = (
    Fault(
        name="an engine ignores its filter",
        path="dpmi/privacy/limits.py",
        old="if limit is not None and not limit.allows(ledger, step):",
        new="if False:",
        tests=(_LIMITS,),
    ),
    Fault(
        name="a filter for one bucket limits units of several",
        path="dpmi/privacy/limits.py",
        old="if limit is not None and limit.buckets_per_unit != owned:",
        new="if False:",
        tests=(_LIMITS,),
    ),
    Fault(
        name="mu of a statement is that of one bucket",
        path="dpmi/privacy/statement.py",
        old="                buckets_per_unit=account.buckets_per_unit,\n",
        new="",
        tests=("tests/privacy/test_statement.py",),
    ),
    Fault(
        name="a checkpoint is resumed under another filter",
        path="dpmi/privacy/checkpoint.py",
        old="    if account.rule != rule:\n",
        new="    if False:\n",
        tests=(_LIMITS,),
    ),
    Fault(
        name="a filtered account composes as if it was planned",
        path="dpmi/privacy/engine.py",
        old="            rule=self._limits.privacy_filter,\n",
        new="",
        tests=(_LIMITS,),
    ),
    Fault(
        name="accounts with a rule are composed",
        path="dpmi/privacy/account.py",
        old="    if one.rule is not None or other.rule is not None:\n",
        new="    if False:\n",
        tests=(_SEARCH,),
    ),
    Fault(
        name="a saved account loses its rule",
        path="dpmi/privacy/account.py",
        old='                    values["rule"] = rules.from_dict(values["rule"])',
        new='                    values["rule"] = None',
        tests=(_SEARCH,),
    ),
    Fault(
        name="an interrupted search charges its best run only",
        path="dpmi/privacy/search.py",
        old="rule=self._tries) if self._over else composed",
        new="rule=self._tries)",
        tests=(_SEARCH,),
    ),
    Fault(
        name="an interrupted search forgets the run that failed",
        path="dpmi/privacy/search.py",
        old="*self._accounts, *running]",
        new="*self._accounts]",
        tests=(_SEARCH,),
    ),
    Fault(
        name="a search charges what its runs took, not what they might have",
        path="dpmi/privacy/search.py",
        old="ledger=self._planned, rule=self._tries)",
        new="ledger=accounts[0].ledger, rule=self._tries)",
        tests=(_SEARCH,),
    ),
    Fault(
        name="a search tries every candidate once",
        path="dpmi/privacy/search.py",
        old="for _ in range(self._tries.draw(float(self._source.uniform(1)))):",
        new="for _ in candidates:",
        tests=(_SEARCH,),
    ),
    Fault(
        name="a search hides the seed of its draws",
        path="dpmi/privacy/search.py",
        old="noise=composed.noise.weaker(self._source.mode)",
        new="noise=composed.noise",
        tests=(_SEARCH,),
    ),
    Fault(
        name="a run of a search may have less noise",
        path="dpmi/privacy/limits.py",
        old="step.noise_multiplier < self.step.noise_multiplier",
        new="False",
        tests=(_SEARCH,),
    ),
    Fault(
        name="a run of a search may draw more",
        path="dpmi/privacy/limits.py",
        old="step.sampling_rate > self.step.sampling_rate",
        new="False",
        tests=(_SEARCH,),
    ),
    Fault(
        name="a run of a search may be longer",
        path="dpmi/privacy/limits.py",
        old="        if ledger.steps > self.steps:\n",
        new="        if False:\n",
        tests=(_SEARCH,),
    ),
    Fault(
        name="a run of a search goes on after it was judged",
        path="dpmi/privacy/limits.py",
        old="        if self.ended:\n",
        new="        if False:\n",
        tests=(_SEARCH,),
    ),
    Fault(
        name="a run of a search has other buckets",
        path="dpmi/privacy/limits.py",
        old="        if settings.partition.hash != self.one_run.partition.hash:\n",
        new="        if False:\n",
        tests=(_SEARCH,),
    ),
    Fault(
        name="a run of a search resumes a more expensive one",
        path="dpmi/privacy/search.py",
        old="            self._limit.check(self._running.account.ledger)",
        new="            pass",
        tests=(_SEARCH,),
    ),
    Fault(
        name="a run of a search trains elsewhere",
        path="dpmi/privacy/search.py",
        old="            if not self._running.is_private:\n",
        new="            if False:\n",
        tests=(_SEARCH,),
    ),
)

FAULTS: tuple[Fault, ...] = (*_ACCOUNTING_FAULTS, *_ENGINE_FAULTS)
