"""Faults in the training of modules of ``fully_shard``: shards of the sum, their noise, the exchange."""

from __future__ import annotations

from ..fault import Fault

_SHARD = "tests/privacy/test_fully_shard.py"
_NOISE = f"{_SHARD}::test_every_value_has_the_noise_of_one_process_and_two_shards_have_independent_noise"
_SAME = f"{_SHARD}::test_two_ranks_with_shards_train_the_model_that_one_process_does"
_BUCKET = f"{_SHARD}::test_without_one_bucket_the_sum_moves_by_its_clipped_gradient_and_no_further"
_REFUSED = f"{_SHARD}::test_other_sharding_is_refused_before_training"
_LATER = f"{_SHARD}::test_checkpoints_averages_and_changed_shards_are_refused"

FAULTS: tuple[Fault, ...] = (
    Fault(
        name="only the shards of one rank get noise",
        path="dpmi/privacy/optimizer.py",
        old="noisy = self.ranks.adds_noise or self.sharding is not None",
        new="noisy = self.ranks.adds_noise",
        tests=(_NOISE,),
    ),
    Fault(
        name="two shards have the same noise if there is a seed",
        path="dpmi/privacy/noise.py",
        old="generator=self._draws)) + stream)",
        new="generator=self._draws)) + 0 * stream)",
        tests=(_NOISE,),
    ),
    Fault(
        name="sharded ranks share one noise stream",
        path="dpmi/privacy/engine.py",
        old="stream=ranks.rank if sharded else 0",
        new="stream=0",
        tests=(_NOISE,),
    ),
    Fault(
        name="a rank that has nothing to add adds ones",
        path="dpmi/privacy/gradients/sharded_sum.py",
        old="whole = view.new_zeros(p.shape) if g is None else g.contiguous()",
        new="whole = view.new_ones(p.shape) if g is None else g.contiguous()",
        tests=(f"{_SAME}[transformer-options7]",),
    ),
    Fault(
        name="each exchange counts twice",
        path="dpmi/privacy/gradients/sharded_sum.py",
        old="                    view.add_(part.",
        new="                    view.add_(2 * part.",
        tests=(f"{_BUCKET}[1.0]",),
    ),
    Fault(
        name="a rank that has nothing to add does not take part",
        path="dpmi/privacy/gradients/sharded_sum.py",
        old="            self._exchange(repeat(None))",
        new="            return",
        tests=(f"{_SAME}[transformer-options7]",),
    ),
    Fault(
        name="a rank updates its shards before all have charged the step",
        path="dpmi/privacy/gradients/sharded_sum.py",
        old="ranks.sum_([*others, torch.zeros(1, device=self._views[0].device)])",
        new="ranks.sum_(others)",
        tests=(f"{_SHARD}::test_no_rank_updates_its_shards_before_all_have_charged_the_step",),
    ),
    Fault(
        name="a rank that failed within an exchange goes on sending",
        path="dpmi/privacy/distributed.py",
        old="        except BaseException:\n            self._lost = True\n            raise\n",
        new="        except BaseException:\n            raise\n",
        tests=(f"{_SHARD}::test_a_rank_that_fails_within_a_round_sends_nothing_else",),
    ),
    Fault(
        name="an update that failed on one rank goes unnoticed",
        path="dpmi/privacy/optimizer.py",
        old="nullcontext() if self.sharding is None else self.ranks.telling():",
        new="nullcontext():",
        tests=(f"{_SHARD}::test_an_update_that_fails_on_one_rank_is_charged_and_lost_on_all",),
    ),
    Fault(
        name="changed shards are overwritten silently",
        path="dpmi/privacy/optimizer.py",
        old="                self.sharding.check()\n",
        new="                pass\n",
        tests=(_LATER,),
    ),
    Fault(
        name="a module with tensor parallelism only is accepted",
        path="dpmi/privacy/sharded.py",
        old="    if not layers:\n",
        new="    if not layers and not module:\n",
        tests=(_REFUSED,),
    ),
    Fault(
        name="a module that is sharded among some ranks is accepted",
        path="dpmi/privacy/sharded.py",
        old="if kinds != [(Shard, 0)] or mesh.mesh.flatten().tolist() != world:",
        new="if kinds != [(Shard, 0)]:",
        tests=(_REFUSED,),
    ),
    Fault(
        name="replicas and other dimensions are accepted",
        path="dpmi/privacy/sharded.py",
        old="if kinds != [(Shard, 0)] or mesh.mesh.flatten().tolist() != world:",
        new="if mesh.mesh.flatten().tolist() != world:",
        tests=(_REFUSED,),
    ),
    Fault(
        name="a mixed-precision policy is ignored",
        path="dpmi/privacy/sharded.py",
        old="if policy.param_dtype or policy.output_dtype or policy.reduce_dtype:",
        new="if policy.reduce_dtype:",
        tests=(_REFUSED,),
    ),
    Fault(
        name="hooks of FSDP stay in the module",
        path="dpmi/privacy/sharded.py",
        old="                del value[key]\n",
        new="                assert key in value\n",
        tests=(f"{_SHARD}::test_the_module_is_plain_and_whole_from_make_private_on",),
    ),
    Fault(
        name="one rank's part of a sharded training is saved as a checkpoint",
        path="dpmi/privacy/engine.py",
        old="if self._trained().optimizer.sharding is not None:",
        new="if self._trained().optimizer.sharding is self:",
        tests=(_LATER,),
    ),
    Fault(
        name="a sharded module is audited by one rank",
        path="dpmi/privacy/settings.py",
        old="if self.audit is not None and is_sharded(self.module):",
        new="if self.audit is not None and is_sharded(self.module) and self.seed:",
        tests=(_REFUSED,),
    ),
)
