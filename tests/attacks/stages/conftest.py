"""A small style-based generator."""

from __future__ import annotations

import pytest
import torch

from dpmi.attacks.priors import StyleGenerator


@pytest.fixture
def generator() -> StyleGenerator:
    torch.default_generator.manual_seed(0)
    made = StyleGenerator((1, 16, 16), latent_size=4, style_size=5, mapping_layers=2, channels=[6, 5, 4])
    made.mapping.w_avg.normal_()
    return made.requires_grad_(False)
