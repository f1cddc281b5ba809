"""What the study and its data show to be impossible is said before anything is trained or written.

Modules: dpmi/study/run.py, dpmi/study/spec.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from dpmi.study import Machines, SpecError, Store, parse, prepare, run

from .conftest import TINY

DEFENSE = 'name = "class-dp"\nnoise_multiplier = [0.5, 1.0]\nsampling_rate = 0.3\nmax_grad_norm = 1.0\n'
ATTACK = 'name = "enhanced"\niterations = 5\n'
SUBCLASS = DEFENSE.replace("class-dp", "subclass-dp")
HEAD = 'model = "softmax"\n'


def changed(old: str, new: str) -> str:
    assert old in TINY
    return TINY.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (DEFENSE, SUBCLASS + "clusters_per_class = 500\n", "defenses subclass-dp: clusters_per_class must be at most"),
        (DEFENSE, 'name = "calor"\nrank = 100\n', "defenses calor: .*rank"),
        (DEFENSE, 'name = "skip-removal"\n', "defenses skip-removal: "),
        (DEFENSE, 'name = "transfer"\nfrozen_fraction = 0.5\n', "defenses transfer: "),
        (DEFENSE, 'name = "bido-hsic"\nlatent_layers = [["nowhere"]]\n', "defenses bido-hsic: .*nowhere"),
        (
            "steps = 20",
            'steps = 20\naugmentation = [{ name = "RandomCrop", size = 4 }]',
            r"defenses none: augmentation RandomCrop must return images .* of \(1, 8, 8\); it returns .*\(1, 4, 4\)",
        ),
        ("steps = 20", 'steps = 20\nprecision = "bf16"', "class-dp: precision 'bf16' is for trainings without"),
        (
            HEAD,
            HEAD + 'evaluator = { model = "mlp", training = { steps = 5, learning_rate = 0.1, '
            'augmentation = [{ name = "FiveCrop", size = 8 }] } }\n',
            "evaluator: augmentation FiveCrop",
        ),
        (HEAD, HEAD + "budget = { queries = 10 }\n", "budget.queries is 10, but enhanced needs more than 10"),
        (ATTACK, 'name = "gmi"\nimages_per_class = 9\n[budget]\nqueries = 90\n', "gmi needs more than 90"),
        (
            ATTACK,
            'name = "ppa"\nprior = { weights = "nowhere.pkl" }\n',
            "attacks ppa: .*nowhere",
        ),
    ],
)  # fmt: skip
def test_before_anything_is_trained(tmp_path: Path, old: str, new: str, message: str) -> None:
    spec = parse(changed(old, new))
    with pytest.raises(ValueError, match=message):
        prepare(spec)
    store = Store.create(tmp_path, TINY)
    with pytest.raises(ValueError, match=message):
        run(spec, store, machines=Machines(workers=1))
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "seeds = [0, 1]",
            f"seeds = [0, {2**63}]",
            "seeds.1 is 9223372036854775808: input should be less than",
        ),
        (
            "steps = 20",
            f"steps = 1{'0' * 18}",
            "training.steps is 1000000000000000000: input should be less than",
        ),
        (
            "max_grad_norm = 1.0",
            "max_grad_norm = 1.0\ndelta = 1e-11",
            "class-dp: delta must be at least 1e-10",
        ),
    ],
)
def test_before_the_data_are_loaded(old: str, new: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(changed(old, new))


def test_looking_ahead_draws_no_random_number() -> None:
    import torch

    before = torch.get_rng_state()
    prepare(parse(changed(ATTACK, 'name = "gmi"\n')))
    assert torch.equal(torch.get_rng_state(), before)
