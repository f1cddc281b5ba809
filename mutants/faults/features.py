"""Faults in public features: an extractor that private images train, or that is not frozen, and wrong settings."""

from __future__ import annotations

from ..fault import Fault

_EXTRACTOR = "tests/models/features/test_extractor.py"
_STUDY = "tests/study/test_features.py"
_RECOMMENDER = "tests/accountants/test_recommender.py"
_TARGET = "tests/privacy/test_target_epsilon.py"

FAULTS: tuple[Fault, ...] = (
    Fault(
        name="an extractor keeps its parameters",
        path="dpmi/models/features/extractor.py",
        old="            module.register_buffer(name, parameter.detach())",
        new="            module.register_parameter(name, parameter)",
        tests=(f"{_EXTRACTOR}::test_it_has_no_parameters_and_stays_in_evaluation_mode",),
    ),
    Fault(
        name="an extractor goes into training mode",
        path="dpmi/models/features/extractor.py",
        old="return super().train(False)",
        new="return super().train(mode)",
        tests=(f"{_EXTRACTOR}::test_it_has_no_parameters_and_stays_in_evaluation_mode",),
    ),
    Fault(
        name="the features of an image may depend on its batch",
        path="dpmi/models/features/extractor.py",
        old="found: Tensor = torch.func.vmap(self._of_one, chunk_size=BATCH)(images)",
        new="found: Tensor = self.body(images)",
        tests=(f"{_EXTRACTOR}::test_no_image_sees_another_whatever_the_body_does",),
    ),
    Fault(
        name="the features of an image that vmap cannot trace may depend on its batch",
        path="dpmi/models/features/extractor.py",
        old="return torch.stack([self._of_one(image) for image in images])",
        new="return self.body(images)  # all of them",
        tests=(f"{_EXTRACTOR}::test_no_image_sees_another_whatever_the_body_does",),
    ),
    Fault(
        name="a head trains on features that depend on the batch",
        path="dpmi/models/features/classifier.py",
        old="self.extractor.each(some.to(device))",
        new="self.extractor(some.to(device))",
        tests=(f"{_EXTRACTOR}::test_no_image_sees_another_whatever_the_body_does",),
    ),
    Fault(
        name="an extractor that looks at the batch is taken",
        path="dpmi/models/features/extractor.py",
        old="        if not _close(together, alone):\n",
        new="        if False:\n",
        tests=(f"{_EXTRACTOR}::test_features_that_tell_about_the_images_beside_are_refused",),
    ),
    Fault(
        name="private images may train an extractor",
        path="dpmi/models/features/extractor.py",
        old="shared = sum(digest in self.provenance.images for digest in digests)",
        new="shared = 0",
        tests=(f"{_EXTRACTOR}::test_a_private_image_among_its_own_is_refused_without_an_account",),
    ),
    Fault(
        name="a study forgets which images trained its extractor",
        path="dpmi/study/features.py",
        old="            images=frozenset(digests(trained_on.images)),\n",
        new="",
        tests=(f"{_STUDY}::test_private_images_among_those_of_the_extractor_are_refused",),
    ),
    Fault(
        name="a study forgets the account of a private extractor",
        path="dpmi/defenses/training.py",
        old="    earlier = [] if extractor is None or not accounts else [extractor]\n",
        new="    earlier: list[Account] = []\n",
        tests=(f"{_STUDY}::test_the_account_of_a_private_extractor_is_a_part_of_every_model_s_account",),
    ),
    Fault(
        name="a head on a private extractor protects other users",
        path="dpmi/defenses/training.py",
        old="        if own.partition_hash != extractor.partition_hash:\n",
        new="        if own.unit != extractor.unit:\n",
        tests=(f"{_STUDY}::test_an_extractor_private_for_other_units_is_refused",),
    ),
    Fault(
        name="a study takes an extractor whose account is for another unit until a model is trained",
        path="dpmi/defenses/training.py",
        old='    if extractor is not None and defense.unit not in ("none", extractor.unit):\n',
        new="    if False:\n",
        tests=(f"{_STUDY}::test_an_extractor_private_for_other_units_is_refused",),
    ),
    Fault(
        name="features are centred by the private mean",
        path="dpmi/models/features/classifier.py",
        old="        check_finite(found.flatten(1))",
        new="        found = found - found.mean(0)\n        check_finite(found.flatten(1))",
        tests=("tests/models/features/test_classifier.py::test_the_head_on_inputs_is_the_whole_on_images",),
    ),
    Fault(
        name="a recommendation has half the noise",
        path="accountants/recommender.py",
        old="        noise_multiplier=found.mechanism.noise_multiplier,\n        max_grad_norm=norm,\n",
        new="        noise_multiplier=found.mechanism.noise_multiplier / 2,\n        max_grad_norm=norm,\n",
        tests=(f"{_RECOMMENDER}::test_the_target_is_met_and_used_up",),
    ),
    Fault(
        name="a recommendation is taken for other units",
        path="accountants/recommender.py",
        old="        if units != self.units:",
        new="        if False:",
        tests=(f"{_TARGET}::TestRecommended::test_other_units_and_other_settings_are_refused",),
    ),
    Fault(
        name="recommended steps are not enforced",
        path="dpmi/privacy/engine.py",
        old="        self._limits.most_steps = plan.steps\n        return private",
        new="        self._limits.most_steps = None if recommended is not None else plan.steps\n        return private",
        tests=(f"{_TARGET}::TestRecommended::test_one_pass_is_the_whole_training_and_no_step_more",),
    ),
)
