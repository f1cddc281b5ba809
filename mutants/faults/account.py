"""Faults beyond a single step: in the account, its statement, checkpoints, and distributed training."""

from __future__ import annotations

from ..fault import Fault

_ACCOUNT = "tests/privacy/test_account.py"
_CHECKPOINT = "tests/privacy/test_checkpoint.py"
_ENGINE = "tests/privacy/test_engine.py"
_NOISE = "tests/privacy/test_billed_noise.py"
_RANKS = "tests/privacy/test_distributed.py"
_STATEMENT = "tests/privacy/test_statement.py"

_ACCOUNT_FAULTS = (
    Fault(
        name="two composed runs on one partition cost only the first",
        path="dpmi/privacy/account.py",
        old="ledger=one.ledger + other.ledger,",
        new="ledger=one.ledger,",
        tests=(f"{_ACCOUNT}::TestCombine",),
    ),
    Fault(
        name="a seeded run counts as a guarantee",
        path="dpmi/privacy/account.py",
        old="result.is_guarantee and self.noise is not NoiseMode.SEEDED",
        new="result.is_guarantee",
        tests=(f"{_ENGINE}::test_same_seed_same_run_and_no_seed_no_repeat",),
    ),
    Fault(
        name="a guarantee on fitted buckets does not state that it is conditional",
        path="dpmi/privacy/account.py",
        old="((CONDITIONAL[self.provenance],) if self.provenance.conditional else ())",
        new="()",
        tests=(f"{_ENGINE}::test_a_seeded_or_fitted_run_says_so",),
    ),
    Fault(
        name="an account states the epsilon of a bucket for a unit that owns several",
        path="dpmi/privacy/account.py",
        old='            "buckets_per_unit": self.buckets_per_unit,\n',
        new="",
        tests=(f"{_ACCOUNT}::TestSeveralBuckets",),
    ),
    Fault(
        name="an engine's account forgets that a unit owns several buckets",
        path="dpmi/privacy/engine.py",
        old="            buckets_per_unit=partition.buckets_per_unit,\n            max_grad_norms",
        new="            max_grad_norms",
        tests=("tests/privacy/test_target_epsilon.py",),
    ),
    Fault(
        name="the noise for a target is that of a unit that owns one bucket",
        path="dpmi/privacy/target.py",
        old="            buckets_per_unit=partition.buckets_per_unit,\n        )\n        noise",
        new="        )\n        noise",
        tests=("tests/privacy/test_target_epsilon.py",),
    ),
    Fault(
        name="recommended settings for one bucket are taken for a unit that owns several",
        path="accountants/recommender.py",
        old="        if buckets_per_unit > 1:\n",
        new="        if False:\n",
        tests=("tests/privacy/test_target_epsilon.py",),
    ),
    Fault(
        name="a saved account forgets that a unit owns several buckets",
        path="dpmi/privacy/account.py",
        old='"adaptive": 4, "buckets_per_unit": 5,',
        new='"adaptive": 4, "buckets_per_unit": 99,',
        tests=(f"{_ACCOUNT}::TestSeveralBuckets",),
    ),
    Fault(
        name="accounts of units with different numbers of buckets are composed",
        path="dpmi/privacy/account.py",
        old='("unit", "buckets", "provenance", "buckets_per_unit")',
        new='("unit", "buckets", "provenance")',
        tests=(f"{_ACCOUNT}::TestCombine",),
    ),
    Fault(
        name="a statement's title does not say that ownership is public",
        path="dpmi/privacy/statement.py",
        old="if Provenance.OWNERS in origins",
        new="if not origins",
        tests=(_STATEMENT,),
    ),
    Fault(
        name="an account always uses add_remove",
        path="dpmi/privacy/account.py",
        old='            "adjacency": adjacency,\n',
        new='            "adjacency": "add_remove",\n',
        tests=(_STATEMENT,),
    ),
    Fault(
        name="an edited account is accepted",
        path="dpmi/privacy/account.py",
        old='            sealed_json.check_hash(document["sha256"], sealed_json.digest(_content(account)))\n',
        new="",
        tests=(_ACCOUNT,),
    ),
    Fault(
        name="a statement's title does not name the seed",
        path="dpmi/privacy/statement.py",
        old="seeded = any(account.noise is NoiseMode.SEEDED",
        new="seeded = all(account.noise is NoiseMode.SECURE",
        tests=(_STATEMENT,),
    ),
    Fault(
        name="a statement drops all accounts but the first",
        path="dpmi/privacy/statement.py",
        old="accounts = combine(self.accounts)",
        new="accounts = combine(self.accounts)[:1]",
        tests=(_STATEMENT,),
    ),
    Fault(
        name="a statement states the smaller epsilon only",
        path="dpmi/privacy/statement.py",
        old="account.guarantee(self.delta, adjacency=adjacency) for adjacency in account.ledger.adjacencies\n",
        new="account.guarantee(self.delta, adjacency=adjacency) for adjacency in account.ledger.adjacencies[1:]\n",
        tests=(_STATEMENT,),
    ),
)

_CHECKPOINT_FAULTS = (
    Fault(
        name="a checkpoint drops the ledger",
        path="dpmi/privacy/checkpoint.py",
        old='    account = Account.from_json(facts["account"])\n',
        new='    account = Account.from_json(facts["account"])\n'
        '    object.__setattr__(account, "ledger", type(account.ledger)())\n',
        tests=(f"{_CHECKPOINT}::test_resumed_equals_uninterrupted_bit_for_bit",),
        audited=True,
    ),
    Fault(
        name="a resumed run repeats the noise of its first steps",
        path="dpmi/privacy/checkpoint.py",
        old='source.load(draws=content["draws"], noise=content["noise"])',
        new='source.load(draws=content["draws"], noise=source.noise_state())',
        tests=(f"{_CHECKPOINT}::test_resumed_equals_uninterrupted_bit_for_bit",),
        audited=True,
    ),
    Fault(
        name="a resumed run repeats the draws of its first steps",
        path="dpmi/privacy/checkpoint.py",
        old='source.load(draws=content["draws"], noise=content["noise"])',
        new='source.load(draws=source.draws_state(), noise=content["noise"])',
        tests=(f"{_CHECKPOINT}::test_resumed_equals_uninterrupted_bit_for_bit",),
        audited=True,
    ),
    Fault(
        name="a resumed pass starts from its first step",
        path="dpmi/privacy/checkpoint.py",
        old='        facts["steps_of_pass"], [(',
        new="        0, [(",
        tests=(f"{_CHECKPOINT}::test_resumed_equals_uninterrupted_bit_for_bit",),
    ),
    Fault(
        name="a checkpoint of another run is accepted",
        path="dpmi/privacy/checkpoint.py",
        old="if facts.get(name) != mine:",
        new="if name not in facts:",
        tests=(f"{_CHECKPOINT}::test_another_run_is_refused_and_nothing_is_changed",),
    ),
    Fault(
        name="a changed checkpoint is accepted",
        path="dpmi/privacy/checkpoint.py",
        old="if _digest(content) != stated:",
        new="if not stated:",
        tests=(f"{_CHECKPOINT}::test_a_changed_ledger_or_parameter_is_refused",),
    ),
    Fault(
        name="a checkpoint's hash does not cover the values of tensors",
        path="dpmi/privacy/checkpoint.py",
        old="        yield value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()\n",
        new="",
        tests=(f"{_CHECKPOINT}::test_a_changed_ledger_or_parameter_is_refused",),
    ),
    Fault(
        name="an incomplete step is saved as if it had not started",
        path="dpmi/privacy/checkpoint.py",
        old="if not training.loader.is_between_steps:",
        new="if training.optimizer.batch_is_pending:",
        tests=(f"{_CHECKPOINT}::test_a_step_under_way_is_not_saved",),
    ),
    Fault(
        name="a resumed run does not enforce its target",
        path="dpmi/privacy/checkpoint.py",
        old='most_steps=facts["most_steps"])',
        new="most_steps=None)",
        tests=(f"{_CHECKPOINT}::test_a_target_is_kept_across_a_checkpoint",),
    ),
    Fault(
        name="a crash while saving leaves an incomplete checkpoint",
        path="dpmi/privacy/checkpoint.py",
        old="        torch.save(content, file)\n",
        new="        torch.save(content, path)\n        torch.save(content, file)\n",
        tests=(f"{_CHECKPOINT}::test_a_full_disk_leaves_the_last_checkpoint",),
    ),
)

_RANKS_FAULTS = (
    Fault(
        name="no rank adds the noise",
        path="dpmi/privacy/distributed.py",
        old="return self.rank == 0",
        new="return self.rank == self.size",
        tests=(_NOISE,),
        audited=True,
    ),
    Fault(
        name="two ranks process the same drawn bucket",
        path="dpmi/privacy/distributed.py",
        old="drawn[taken_by == self.rank]",
        new="drawn[taken_by >= self.rank]",
        tests=(f"{_RANKS}::test_shares_are_disjoint_complete_and_balanced",),
        audited=True,
    ),
    Fault(
        name="ranks with different draws are summed",
        path="dpmi/privacy/distributed.py",
        old="if any(a.draw != mine.draw for a in answers):",
        new="if any(a.draw is None for a in answers):",
        tests=(
            "tests/privacy/test_distributed_failures.py::test_ranks_that_drift_apart_release_nothing_more",
        ),
    ),
)

FAULTS: tuple[Fault, ...] = (
    *_ACCOUNT_FAULTS,
    *_CHECKPOINT_FAULTS,
    *_RANKS_FAULTS,
)
