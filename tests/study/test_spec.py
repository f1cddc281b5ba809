"""What a study file may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpmi.study import SpecError, parse, read

from .conftest import TINY


def replaced(old: str, new: str) -> str:
    assert TINY.count(old) == 1
    return TINY.replace(old, new)


PRIVATE = '[[defenses]]\nname = "class-dp"\n'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # misspelt keys
        ("seeds = [0, 1]", "seed = [0, 1]", "study: unknown key 'seed'; did you mean 'seeds'?"),
        ('name = "tiny"', 'name = "tiny"\nsed = 1', "study: unknown key 'sed'; did you mean 'seeds'? (known: name,"),
        ("steps = 20", "stepz = 20", "training: unknown key 'stepz'; did you mean 'steps'?"),
        ("steps = 20\n", "", "training.steps is missing"),
        ("steps = 20", "steps = 20\nmomentun = 0.5", "training: unknown key 'momentun'; did you mean 'momentum'?"),
        ("iterations = 5", "iteration = 5", "attacks enhanced: unknown key 'iteration'; did you mean 'iterations'?"),
        (
            "sampling_rate = 0.3",
            "samplng_rate = 0.3",
            "defenses class-dp: unknown key 'samplng_rate'; did you mean 'sampling_rate'? (known: noise_multiplier,",
        ),
        (
            "max_grad_norm = 1.0",
            "max_grad_norm = 1.0\ntraining = { stpes = 3 }",
            "defenses.training: unknown key 'stpes'; did you mean 'steps'? (known: steps, learning_rate,",
        ),
        # unknown names
        ('"class-dp"', '"clas-dp"', "defenses.name: unknown defence 'clas-dp'; did you mean 'class-dp'? (known: none,"),
        ('"enhanced"', '"enhansed"', "attacks.name: unknown attack 'enhansed'; did you mean 'enhanced'? (known:"),
        ('"digits"', '"digit"', "data.name: unknown name 'digit'; did you mean 'digits'? (known: digits, folder,"),
        ('"softmax"', '"sofmax"', "model: unknown model 'sofmax'; did you mean 'softmax'? (known: cnn,"),
        # wrong types
        ("steps = 20", 'steps = "20"', "training.steps is '20': input should be a valid integer"),
        ("steps = 20", "steps = 20.0", "training.steps is 20.0: input should be a valid integer"),
        ("steps = 20", "steps = true", "training.steps is True: input should be a valid integer"),
        ("seeds = [0, 1]", "seeds = 3", "seeds is 3: input should be a valid list"),
        ("seeds = [0, 1]", 'seeds = [0, "1"]', "seeds.1 is '1': input should be a valid integer"),
        ('[data]\nname = "digits"', "[data]\nname = 3", "data.name is 3: input should be a valid string"),
        (
            'model = "softmax"\n\n[data]\nname = "digits"',
            'model = "softmax"\ndata = 3',
            "data is 3: input should be a valid table",
        ),
        ("iterations = 5", "iterations = 5.5", "attacks enhanced: iterations is 5.5: input should be a valid integer"),
        ("iterations = 5", 'iterations = "many"', "attacks enhanced: iterations is 'many': input should be a"),
        ("max_grad_norm = 1.0", "max_grad_norm = true", "defenses class-dp: max_grad_norm is True: input should be a"),
        (
            "iterations = 5",
            'reduction = "men"',
            "attacks enhanced: reduction is 'men': input should be 'mean' or 'sum'",
        ),
        (
            '[data]\nname = "digits"',
            '[data]\nname = "digits"\noptions = { seed = [1] }',
            "data.options.seed is [1]: input should be a valid integer",
        ),
        (
            "max_grad_norm = 1.0",
            "max_grad_norm = 1.0\ntraining = 3",
            "defenses.training is 3: it must be a table with keys of [training]",
        ),
        # out of range
        ("steps = 20", "steps = 0", "training.steps is 0: input should be greater than or equal to 1"),
        ("learning_rate = 0.5", "learning_rate = inf", "training.learning_rate is inf: input should be"),
        ("learning_rate = 0.5", "learning_rate = nan", "training.learning_rate is nan: input should be"),
        ("seeds = [0, 1]", "seeds = [-1]", "seeds.0 is -1: input should be greater than or equal to 0"),
        ("sampling_rate = 0.3", "sampling_rate = 1.3", "defenses class-dp: sampling_rate must be in (0, 1], got 1.3"),
        ("[0.5, 1.0]", "[0.5, -1.0]", "defenses class-dp: noise_multiplier must be at least 0, got -1.0"),
        ("iterations = 5", "iterations = 0", "attacks enhanced: iterations must be at least 1; got 0"),
        (
            "steps = 20",
            'steps = 20\nschedule = "linear"',
            "training.schedule is 'linear': input should be 'constant', 'cosine' or 'milestones'",
        ),
        (
            "steps = 20",
            'steps = 20\nschedule = "milestones"',
            "training is {'steps': 20, 'schedule': 'milestones', 'learning_rate': 0.5}: schedule 'milestones' needs",
        ),
        (
            "steps = 20",
            "steps = 20\nmilestones = [5]",
            "training is {'steps': 20, 'milestones': [5], 'learning_rate': 0.5}: schedule 'milestones' needs",
        ),
        (
            "steps = 20",
            "steps = 20\nwarm_up = 20",
            "training is {'steps': 20, 'warm_up': 20, 'learning_rate': 0.5}: warm_up must be below the 20 steps",
        ),
        (
            "steps = 20",
            'steps = 20\naugmentation = ["RandomHorizontalFlop"]',
            "training.augmentation.0 is 'RandomHorizontalFlop': augmentation must name transforms of torchvision",
        ),
        (
            "steps = 20",
            'steps = 20\naugmentation = "RandomHorizontalFlip"',
            "training.augmentation is 'RandomHorizontalFlip': input should be a valid list",
        ),
        (
            "steps = 20",
            'steps = 20\naugmentation = ["RandomHorizontalFlip", { size = 8 }]',
            "training.augmentation.1 is {'size': 8}: it must be the name of a transform, or a table with name",
        ),
        (
            "steps = 20",
            'steps = 20\naugmentation = [{ name = "RandomCrop", "pad ding" = 8 }]',
            "training.augmentation.0 is {'name': 'RandomCrop', 'pad ding': 8}: the arguments of RandomCrop must",
        ),
        (
            "steps = 20",
            'steps = 20\naugmentation = [{ name = "RandomRotation", degrees = -1 }]',
            "training.augmentation.0 is {'name': 'RandomRotation', 'degrees': -1}: augmentation RandomRotation: If",
        ),
        (
            "max_grad_norm = 1.0",
            'max_grad_norm = 1.0\ntraining = { augmentation = ["Nothing"] }',
            "defenses.training.augmentation.0 is 'Nothing': augmentation must name transforms of torchvision",
        ),
        (
            "steps = 20",
            'steps = 20\nprecision = "fp16"',
            "training.precision is 'fp16': input should be 'float32' or 'bf16'",
        ),
        ("steps = 20", "steps = 20\ngamma = 1.0", "training.gamma is 1.0: input should be less than 1"),
        ("steps = 20", "steps = 20\nweight_decay = -1.0", "training.weight_decay is -1.0: input should be"),
        # nothing to do, or twice the same
        ("seeds = [0, 1]", "seeds = []", "seeds is []: list should have at least 1 item"),
        ('name = "tiny"', 'name = ""', "name is '': string should have at least 1 character"),
        ("[0.5, 1.0]", "[]", "defenses class-dp: noise_multiplier is []: a sweep needs at least 1 value"),
        ("[0.5, 1.0]", "[0.5, 0.5]", "enhanced on class-dp, noise multiplier 0.5, seed 0 occurs twice"),
        ("seeds = [0, 1]", "seeds = [0, 0]", "enhanced on none, seed 0 occurs twice"),
        # something is missing
        ("max_grad_norm = 1.0", "", "defenses class-dp: max_grad_norm is missing"),
        ('name = "class-dp"', "", 'a table of defenses has no name; add name = "..."'),
        ('[[attacks]]\nname = "enhanced"\niterations = 5', "", "attacks is missing"),
        ('name = "tiny"', 'name = "tiny', "not a TOML file"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_it(old: str, new: str, message: str, tmp_path: Path) -> None:
    text = replaced(old, new)
    with pytest.raises(SpecError) as raised:
        parse(text)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)
    path = tmp_path / "study.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as raised:
        read(path)
    assert str(raised.value).startswith(f"{path}: {message}")
