"""Faults in the inputs of a step: the noise, the partition and the plan."""

from __future__ import annotations

from ..fault import Fault

_ACCOUNT = "tests/privacy/test_account.py"
_OWNERS = "tests/privacy/test_owners.py"
_PARTITION = "tests/privacy/test_partition.py"
_PLAN = "tests/privacy/test_plan.py"
_SOURCE = "tests/privacy/test_noise.py"

_NOISE_FAULTS = (
    Fault(
        name="noise of torch's generator has half its size",
        path="dpmi/privacy/noise.py",
        old="flat.normal_(0.0, std, generator=self._noise)",
        new="flat.normal_(0.0, std / 2, generator=self._noise)",
        tests=(f"{_SOURCE}::TestNoise",),
        audited=True,
    ),
    Fault(
        name="secure noise has half its size",
        path="dpmi/privacy/noise.py",
        old="_gaussian(len(chunk), device).mul_(std)",
        new="_gaussian(len(chunk), device).mul_(std / 2)",
        tests=(f"{_SOURCE}::TestSecure",),
        audited=True,
    ),
    Fault(
        name="the sum of four secure samples is divided by 4, not by 2",
        path="dpmi/privacy/noise.py",
        old="div_(math.sqrt(SAMPLES))",
        new="div_(SAMPLES)",
        tests=(f"{_SOURCE}::TestSecure",),
        audited=True,
    ),
    Fault(
        name="secure noise is equal in two coordinates",
        path="dpmi/privacy/noise.py",
        old="angle.sin_().mul_(radius)",
        new="angle.cos_().mul_(radius)",
        tests=(f"{_SOURCE}::TestNoise::test_the_two_samples_of_a_pair_are_independent",),
        audited=True,
    ),
    Fault(
        name="secure noise is the same in every chunk",
        path="dpmi/privacy/noise.py",
        old="            chunk.copy_(",
        new="            chunk.copy_(flat[: len(chunk)]) if start else chunk.copy_(",
        tests=(f"{_SOURCE}::TestNoise::test_of_two_calls_and_of_neighbours_is_independent",),
        audited=True,
    ),
    Fault(
        name="the last, incomplete chunk has no secure noise",
        path="dpmi/privacy/noise.py",
        old="for start in range(0, len(flat), CHUNK):",
        new="for start in range(0, len(flat) - CHUNK + 1, CHUNK):",
        tests=(f"{_SOURCE}::TestNoise::test_of_any_length_is_all_there",),
        audited=True,
    ),
    Fault(
        name="every step has the same noise",
        path="dpmi/privacy/noise.py",
        old="        flat.normal_(0.0, std, generator=self._noise)",
        new="        flat.normal_(0.0, std, generator=torch.Generator().manual_seed(self._noise.initial_seed()))",
        tests=(f"{_SOURCE}::TestNoise::test_of_two_calls_and_of_neighbours_is_independent",),
        audited=True,
    ),
    Fault(
        name="noise and draws of a seeded run share one stream",
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
        name="shared secure draws are the same at every step",
        path="dpmi/privacy/noise.py",
        old="        self._draws += 1\n",
        new="",
        tests=(f"{_SOURCE}::TestDrawsInCommon",),
        audited=True,
    ),
    Fault(
        name="a seeded source is reported as secure",
        path="dpmi/privacy/noise.py",
        old="self.mode = NoiseMode.SEEDED",
        new="self.mode = NoiseMode.SECURE",
        tests=(f"{_SOURCE}::TestGenerators",),
    ),
    Fault(
        name="two composed runs have the stronger of their noise modes",
        path="dpmi/privacy/noise.py",
        old="return max(self, other",
        new="return min(self, other",
        tests=(f"{_ACCOUNT}::TestCombine",),
    ),
    Fault(
        name="secure bytes come from an ordinary generator",
        path="dpmi/privacy/noise.py",
        old="_random_bytes = ssl.RAND_bytes",
        new="_random_bytes = __import__('random').randbytes",
        tests=(f"{_SOURCE}::TestSecure",),
    ),
)

_PARTITION_FAULTS = (
    Fault(
        name="a partition's hash does not cover unit and provenance",
        path="dpmi/privacy/partition.py",
        old='hashlib.sha256(f"{self.unit}\\0{self.provenance.name}\\0".encode())',
        new="hashlib.sha256()",
        tests=(_PARTITION,),
    ),
    Fault(
        name="a partition's hash covers the buckets' sizes only",
        path="dpmi/privacy/partition.py",
        old='digest.update(self.bucket_of.astype("<i8").tobytes())',
        new="digest.update(self.sizes.tobytes())",
        tests=(_PARTITION,),
    ),
    Fault(
        name="clusters fitted on the records count as public",
        path="dpmi/privacy/partition.py",
        old='return cls(bucket_of, "subclass", Provenance.FITTED, names)',
        new='return cls(bucket_of, "subclass", Provenance.PUBLIC, names)',
        tests=(_PARTITION,),
    ),
    Fault(
        name="the ids can be changed after the hash is computed",
        path="dpmi/privacy/partition.py",
        old="ids.setflags(write=False)",
        new="ids.setflags(write=True)",
        tests=(_PARTITION,),
    ),
)

_OWNERS_FAULTS = (
    Fault(
        name="a bucket is kept if one of its owners has room",
        path="dpmi/privacy/owners.py",
        old="if all(left[owner] for owner in mine):",
        new="if any(left[owner] for owner in mine):",
        tests=(_OWNERS,),
    ),
    Fault(
        name="kept buckets do not count for their owners",
        path="dpmi/privacy/owners.py",
        old="left[owner] -= 1",
        new="left[owner] -= 0",
        tests=(_OWNERS,),
    ),
    Fault(
        name="records that share one owner share a bucket",
        path="dpmi/privacy/owners.py",
        old="(table[order[1:]] != table[order[:-1]]).any(axis=1)",
        new="(table[order[1:]] != table[order[:-1]]).all(axis=1)",
        tests=(_OWNERS,),
    ),
    Fault(
        name="an owner of several buckets counts as the owner of one",
        path="dpmi/privacy/owners.py",
        old="minlength=1).max(initial=1)",
        new="minlength=1).min(initial=1)",
        tests=(_OWNERS,),
    ),
    Fault(
        name="the promise to owners is not conditional on who owns which record",
        path="dpmi/privacy/partition.py",
        old="            Provenance.OWNERS,\n",
        new="            Provenance.RECORD,\n",
        tests=(_OWNERS,),
    ),
    Fault(
        name="a partition's hash does not cover the buckets of a unit",
        path="dpmi/privacy/partition.py",
        old='            digest.update(f"{self.buckets_per_unit} buckets per unit\\0".encode())\n',
        new="            pass\n",
        tests=(_OWNERS,),
    ),
    Fault(
        name="the first owner of a record is the only one",
        path="dpmi/privacy/ids.py",
        old="numbers = np.full(len(table), table.shape[1])",
        new="ids, numbers = table[:, 0], np.ones(len(table), dtype=np.int64)",
        tests=(_OWNERS,),
    ),
)

_PLAN_FAULTS = (
    Fault(
        name="half the sampling rate of the plan is charged",
        path="dpmi/privacy/samplers.py",
        old="BucketMechanism(sampling_rate=_given(sampling_rate),",
        new="BucketMechanism(sampling_rate=_given(sampling_rate) / 2,",
        tests=(_PLAN,),
        audited=True,
    ),
    Fault(
        name="twice the noise of the plan is charged",
        path="dpmi/privacy/plan.py",
        old="self.sampling.mechanism(self.sampling_rate, self.buckets, self.noise_multiplier)",
        new="self.sampling.mechanism(self.sampling_rate, self.buckets, 2 * self.noise_multiplier)",
        tests=(_PLAN,),
        audited=True,
    ),
    Fault(
        name="the sum is divided by the number of all buckets",
        path="dpmi/privacy/plan.py",
        old="return self.sampling.expected_buckets(self.sampling_rate, self.buckets)",
        new="return float(self.partition.num_buckets)",
        tests=(_PLAN,),
    ),
)

FAULTS: tuple[Fault, ...] = (
    *_NOISE_FAULTS,
    *_PARTITION_FAULTS,
    *_OWNERS_FAULTS,
    *_PLAN_FAULTS,
)
