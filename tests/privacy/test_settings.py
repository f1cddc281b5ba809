"""What the two ways to make a training private share."""

from __future__ import annotations

import dataclasses
import inspect
from typing import get_type_hints

from dpmi.privacy import PrivacyEngine
from dpmi.privacy.settings import Options, Settings

SIGNATURE = inspect.signature(PrivacyEngine.make_private).parameters


def test_defaults_are_those_of_the_signature() -> None:
    for each in dataclasses.fields(Settings):
        default = SIGNATURE[each.name].default
        assert each.default == (dataclasses.MISSING if default is inspect.Parameter.empty else default), (
            each.name
        )


def test_a_target_takes_every_argument_but_the_noise() -> None:
    own = inspect.signature(PrivacyEngine.make_private_with_epsilon).parameters
    assert set(SIGNATURE) - {"noise_multiplier"} == set(get_type_hints(Options)) | (set(own) & set(SIGNATURE))
    required = {name for name, each in SIGNATURE.items() if each.default is inspect.Parameter.empty}
    assert Options.__required_keys__ == required & set(get_type_hints(Options)) - {"self"}
