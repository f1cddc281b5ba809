"""Faults that only show in whole trainings, for the audits."""

from __future__ import annotations

from ..fault import Fault

_RECORDER = "tests/privacy/audit/test_recorder.py"
_UPDATE = "tests/privacy/test_update.py"

FAULTS: tuple[Fault, ...] = (
    Fault(
        name="ghost gradients are not clipped",
        path="dpmi/privacy/gradients/bucket_gradients.py",
        old="return self._capture.squared_norms(p for p in self._trained if p is not None).sqrt()",
        new="return self._capture.squared_norms(p for p in self._trained if p is not None).sqrt() * 1e-9",
        tests=(f"{_UPDATE}::test_update_equals_brute_force",),
        audited=True,
    ),
    Fault(
        name="canaries are drawn half as often as buckets",
        path="dpmi/privacy/sampling.py",
        old="self.source.uniform(n).numpy()",
        new="self.source.uniform(n).numpy() * np.where(np.arange(n) < self.plan.partition.num_buckets, 1, 2)",
        tests=(_RECORDER,),
        audited=True,
    ),
    Fault(
        name="drawn canaries are favoured",
        path="dpmi/privacy/sampling.py",
        old="self.source.uniform(n).numpy()",
        new="self.source.uniform(n).numpy() * np.where(np.arange(n) < self.plan.partition.num_buckets, 1, 0.5)",
        tests=(_RECORDER,),
        audited=True,
    ),
    Fault(
        name="the noisy sum is divided by the number of drawn buckets",
        path="dpmi/privacy/optimizer.py",
        old="            p.grad = gradient.to(p.dtype)\n",
        new="            p.grad = gradient.to(p.dtype) * (self.expected_batch_size / max(1, len(draw.buckets)))\n",
        tests=(f"{_UPDATE}::test_update_equals_brute_force",),
        audited=True,
    ),
    Fault(
        name="an empty draw has half the noise",
        path="dpmi/privacy/optimizer.py",
        old="            self._open_step()\n            self._add_canaries(draw)\n",
        new="            self._open_step()\n            self._add_canaries(draw)\n"
        "            if not batch.buckets:\n                [flat.mul_(0.5) for flat in self._sum.flat]\n",
        tests=("tests/privacy/test_billed_noise.py",),
        audited=True,
    ),
    Fault(
        name="every rank adds the noise",
        path="dpmi/privacy/distributed.py",
        old="return self.rank == 0",
        new="return True",
        tests=("tests/privacy/test_distributed.py",),
        audited=True,
    ),
    Fault(
        name="a canary is in the sum twice",
        path="dpmi/privacy/optimizer.py",
        old="            gradients.add_to(self._sum, torch.from_numpy(factors))\n\n    def _take",
        new="            gradients.add_to(self._sum, torch.from_numpy(2 * factors))\n\n    def _take",
        tests=(_RECORDER,),
        audited=True,
    ),
)
