"""Faults in the noise, the partition, the plan, the account, its statement, checkpoints and ranks."""

from __future__ import annotations

from ..fault import Fault

_ACCOUNT = "tests/privacy/test_account.py"
_CHECKPOINT = "tests/privacy/test_checkpoint.py"
_ENGINE = "tests/privacy/test_engine.py"
_NOISE = "tests/privacy/test_noise.py"
_PARTITION = "tests/privacy/test_partition.py"
_PLAN = "tests/privacy/test_plan.py"
_RANKS = "tests/privacy/test_distributed.py"
_SOURCE = "tests/privacy/test_noise_source.py"
_STATEMENT = "tests/privacy/test_statement.py"

_NOISE_FAULTS = (
    Fault(
        name="noise of torch's generator has half its size",
        path="dpmi/privacy/noise.py",
        old="flat.normal_(0.0, std, generator=self._noise)",
        new="flat.normal_(0.0, std / 2, generator=self._noise)",
        tests=(f"{_SOURCE}::TestNoise",),
    ),
    Fault(
        name="secure noise has half its size",
        path="dpmi/privacy/noise.py",
        old="_gaussian(len(chunk), device).mul_(std)",
        new="_gaussian(len(chunk), device).mul_(std / 2)",
        tests=(f"{_SOURCE}::TestSecure",),
    ),
    Fault(
        name="four secure samples are averaged, not added up",
        path="dpmi/privacy/noise.py",
        old="div_(math.sqrt(SAMPLES))",
        new="div_(SAMPLES)",
        tests=(f"{_SOURCE}::TestSecure",),
    ),
    Fault(
        name="secure noise is equal in two coordinates",
        path="dpmi/privacy/noise.py",
        old="angle.sin_().mul_(radius)",
        new="angle.cos_().mul_(radius)",
        tests=(f"{_SOURCE}::TestNoise::test_the_two_samples_of_a_pair_are_independent",),
    ),
    Fault(
        name="secure noise repeats from chunk to chunk",
        path="dpmi/privacy/noise.py",
        old="            chunk.copy_(",
        new="            chunk.copy_(flat[: len(chunk)]) if start else chunk.copy_(",
        tests=(f"{_SOURCE}::TestNoise::test_of_two_calls_and_of_neighbours_is_independent",),
    ),
    Fault(
        name="the last, incomplete chunk has no secure noise",
        path="dpmi/privacy/noise.py",
        old="for start in range(0, len(flat), CHUNK):",
        new="for start in range(0, len(flat) - CHUNK + 1, CHUNK):",
        tests=(f"{_SOURCE}::TestNoise::test_of_any_length_is_all_there",),
    ),
    Fault(
        name="every step has the same noise",
        path="dpmi/privacy/noise.py",
        old="        flat.normal_(0.0, std, generator=self._noise)",
        new="        flat.normal_(0.0, std, generator=torch.Generator().manual_seed(self._noise.initial_seed()))",
        tests=(f"{_SOURCE}::TestNoise::test_of_two_calls_and_of_neighbours_is_independent",),
    ),
    Fault(
        name="noise and draws are one stream of a seed",
        path="dpmi/privacy/noise.py",
        old="int(torch.randint(2**62, (), generator=self._draws))",
        new="seed",
        tests=(f"{_SOURCE}::TestGenerators",),
    ),
    Fault(
        name="the operating system seeds 32 bits of the generator",
        path="dpmi/privacy/noise.py",
        old='if generator.device.type == "cpu":',
        new='if generator.device.type == "meta":',
        tests=(f"{_SOURCE}::TestGenerators",),
    ),
    Fault(
        name="common secure draws are the same at every step",
        path="dpmi/privacy/noise.py",
        old="        self._draws += 1\n",
        new="",
        tests=(f"{_SOURCE}::TestDrawsInCommon",),
    ),
    Fault(
        name="a seeded source calls itself secure",
        path="dpmi/privacy/noise.py",
        old="self.mode = NoiseMode.SEEDED",
        new="self.mode = NoiseMode.SECURE",
        tests=(f"{_SOURCE}::TestGenerators",),
    ),
    Fault(
        name="two runs together have the stronger noise of the two",
        path="dpmi/privacy/noise.py",
        old="return max(self, other",
        new="return min(self, other",
        tests=(f"{_ACCOUNT}::TestCombine",),
    ),
    Fault(
        name="secure bytes are those of an ordinary generator",
        path="dpmi/privacy/noise.py",
        old="_random_bytes = ssl.RAND_bytes",
        new="_random_bytes = __import__('random').randbytes",
        tests=(f"{_SOURCE}::TestSecure",),
    ),
)

_PARTITION_FAULTS = (
    Fault(
        name="a partition's hash leaves out unit and provenance",
        path="dpmi/privacy/partition.py",
        old='hashlib.sha256(f"{self.unit}\\0{self.provenance.name}\\0".encode())',
        new="hashlib.sha256()",
        tests=(_PARTITION,),
    ),
    Fault(
        name="a partition's hash knows the buckets' sizes only",
        path="dpmi/privacy/partition.py",
        old='digest.update(self.bucket_of.astype("<i8").tobytes())',
        new="digest.update(self.sizes.tobytes())",
        tests=(_PARTITION,),
    ),
    Fault(
        name="clusters fitted on the records are called public",
        path="dpmi/privacy/partition.py",
        old='return cls(bucket_of, "subclass", Provenance.FITTED, names)',
        new='return cls(bucket_of, "subclass", Provenance.PUBLIC, names)',
        tests=(_PARTITION,),
    ),
    Fault(
        name="the ids can be changed after the hash",
        path="dpmi/privacy/partition.py",
        old="ids.setflags(write=False)",
        new="ids.setflags(write=True)",
        tests=(_PARTITION,),
    ),
)

_PLAN_FAULTS = (
    Fault(
        name="half the sampling rate of the plan is billed",
        path="dpmi/privacy/plan.py",
        old="BucketMechanism(sampling_rate=self.sampling_rate,",
        new="BucketMechanism(sampling_rate=self.sampling_rate / 2,",
        tests=(_PLAN,),
    ),
    Fault(
        name="twice the noise of the plan is billed",
        path="dpmi/privacy/plan.py",
        old="noise_multiplier=self.noise_multiplier)",
        new="noise_multiplier=2 * self.noise_multiplier)",
        tests=(_PLAN,),
    ),
    Fault(
        name="the sum is divided by the number of all buckets",
        path="dpmi/privacy/plan.py",
        old="return self.sampling_rate * self.partition.num_buckets",
        new="return float(self.partition.num_buckets)",
        tests=(_PLAN,),
    ),
)

_ACCOUNT_FAULTS = (
    Fault(
        name="two runs on one partition cost what the first one did",
        path="dpmi/privacy/account.py",
        old="ledger=one.ledger + other.ledger,",
        new="ledger=one.ledger,",
        tests=(f"{_ACCOUNT}::TestCombine",),
    ),
    Fault(
        name="a seeded run is a guarantee",
        path="dpmi/privacy/account.py",
        old="result.is_guarantee and not seeded",
        new="result.is_guarantee",
        tests=(f"{_ENGINE}::test_same_seed_same_run_and_no_seed_no_repeat",),
    ),
    Fault(
        name="a guarantee on fitted buckets does not say that it is conditional",
        path="dpmi/privacy/account.py",
        old="((CONDITIONAL,) if self.provenance.conditional else ())",
        new="()",
        tests=(f"{_ENGINE}::test_a_seeded_or_fitted_run_says_so",),
    ),
    Fault(
        name="an account always answers for an addition",
        path="dpmi/privacy/account.py",
        old="unit=self.unit, adjacency=adjacency,",
        new='unit=self.unit, adjacency="add_remove",',
        tests=(_STATEMENT,),
    ),
    Fault(
        name="an edited account is read",
        path="dpmi/privacy/account.py",
        old='            documents.check_hash(document["sha256"], documents.digest(_content(account)))\n',
        new="",
        tests=(_ACCOUNT,),
    ),
    Fault(
        name="a statement does not begin with the seed",
        path="dpmi/privacy/statement.py",
        old="seeded = any(account.noise is NoiseMode.SEEDED",
        new="seeded = all(account.noise is NoiseMode.SECURE",
        tests=(_STATEMENT,),
    ),
    Fault(
        name="a statement forgets all accounts but the first",
        path="dpmi/privacy/statement.py",
        old="accounts = combine(self.accounts)",
        new="accounts = combine(self.accounts)[:1]",
        tests=(_STATEMENT,),
    ),
    Fault(
        name="a statement has the smaller epsilon only",
        path="dpmi/privacy/statement.py",
        old="for adjacency in ADJACENCIES)",
        new="for adjacency in ADJACENCIES[1:])",
        tests=(_STATEMENT,),
    ),
)

_CHECKPOINT_FAULTS = (
    Fault(
        name="a checkpoint forgets the ledger",
        path="dpmi/privacy/checkpoint.py",
        old='    account = Account.from_json(facts["account"])\n',
        new='    account = Account.from_json(facts["account"])\n'
        '    object.__setattr__(account, "ledger", type(account.ledger)())\n',
        tests=(f"{_CHECKPOINT}::test_resumed_equals_uninterrupted_bit_for_bit",),
    ),
    Fault(
        name="a resumed run repeats the noise that it began with",
        path="dpmi/privacy/checkpoint.py",
        old='source.load(draws=content["draws"], noise=content["noise"])',
        new='source.load(draws=content["draws"], noise=source.noise_state())',
        tests=(f"{_CHECKPOINT}::test_resumed_equals_uninterrupted_bit_for_bit",),
    ),
    Fault(
        name="a resumed run repeats the draws that it began with",
        path="dpmi/privacy/checkpoint.py",
        old='source.load(draws=content["draws"], noise=content["noise"])',
        new='source.load(draws=source.draws_state(), noise=content["noise"])',
        tests=(f"{_CHECKPOINT}::test_resumed_equals_uninterrupted_bit_for_bit",),
    ),
    Fault(
        name="a resumed pass begins anew",
        path="dpmi/privacy/checkpoint.py",
        old='    training.loader.draws.go_on(facts["steps_of_pass"])\n',
        new="",
        tests=(f"{_CHECKPOINT}::test_resumed_equals_uninterrupted_bit_for_bit",),
    ),
    Fault(
        name="a checkpoint of another run is loaded",
        path="dpmi/privacy/checkpoint.py",
        old="if facts.get(name) != mine:",
        new="if name not in facts:",
        tests=(f"{_CHECKPOINT}::test_another_run_is_refused_and_nothing_is_changed",),
    ),
    Fault(
        name="a changed checkpoint is loaded",
        path="dpmi/privacy/checkpoint.py",
        old="if _digest(content) != stated:",
        new="if not stated:",
        tests=(f"{_CHECKPOINT}::test_a_changed_ledger_or_parameter_is_refused",),
    ),
    Fault(
        name="a checkpoint's hash leaves out the values of tensors",
        path="dpmi/privacy/checkpoint.py",
        old="        yield value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()\n",
        new="",
        tests=(f"{_CHECKPOINT}::test_a_changed_ledger_or_parameter_is_refused",),
    ),
    Fault(
        name="a step under way is saved as if it had not begun",
        path="dpmi/privacy/checkpoint.py",
        old="if not training.optimizer.is_between_steps:",
        new="if training.optimizer.batch_is_pending:",
        tests=(f"{_CHECKPOINT}::test_a_step_under_way_is_not_saved",),
    ),
    Fault(
        name="a resumed run has no target to keep to",
        path="dpmi/privacy/checkpoint.py",
        old='most_steps=facts["most_steps"])',
        new="most_steps=None)",
        tests=(f"{_CHECKPOINT}::test_a_target_is_kept_across_a_checkpoint",),
    ),
    Fault(
        name="a crash while saving leaves half a checkpoint",
        path="dpmi/privacy/checkpoint.py",
        old="            torch.save(content, file)\n",
        new="            torch.save(content, path)\n            torch.save(content, file)\n",
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
    ),
    Fault(
        name="a drawn bucket is taken by two ranks",
        path="dpmi/privacy/distributed.py",
        old="drawn[taken_by == self.rank]",
        new="drawn[taken_by >= self.rank]",
        tests=(f"{_RANKS}::test_shares_are_disjoint_complete_and_balanced",),
    ),
    Fault(
        name="ranks that drew other buckets are summed",
        path="dpmi/privacy/distributed.py",
        old="if any(a.draw != mine.draw for a in answers):",
        new="if any(a.draw is None for a in answers):",
        tests=(
            "tests/privacy/test_distributed_failures.py::test_ranks_that_drift_apart_release_nothing_more",
        ),
    ),
)

FAULTS: tuple[Fault, ...] = (
    *_NOISE_FAULTS,
    *_PARTITION_FAULTS,
    *_PLAN_FAULTS,
    *_ACCOUNT_FAULTS,
    *_CHECKPOINT_FAULTS,
    *_RANKS_FAULTS,
)
