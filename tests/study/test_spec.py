"""What a study file may say, what it expands to, and what the keys of its trials depend on."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from accountants.plugins import origin
from dpmi.attacks import Enhanced
from dpmi.defenses import ClassDP, NoDefense, Recipe
from dpmi.study import Content, SpecError, parse, read

from .conftest import TINY, jobs_of, trials_of


def replaced(old: str, new: str) -> str:
    assert TINY.count(old) == 1
    return TINY.replace(old, new)


def test_expands_to_every_defence_strength_seed_and_attack() -> None:
    text = replaced("iterations = 5", "iterations = [5, 6]")
    spec = parse(text)
    private = {"sampling_rate": 0.3, "max_grad_norm": 1.0}
    defenses = [
        NoDefense(),
        ClassDP(noise_multiplier=0.5, **private),
        ClassDP(noise_multiplier=1.0, **private),
    ]
    assert [(j.defense, j.seed) for j in spec.jobs] == [(d, seed) for d in defenses for seed in (0, 1)]
    assert {j.recipe for j in spec.jobs} == {Recipe(steps=20, learning_rate=0.5)}
    assert [t.attack for t in spec.trials] == [Enhanced(iterations=5), Enhanced(iterations=6)] * 6
    assert len({t.key for t in spec.trials_on(Content(data="d"))}) == 12


def test_several_lists_are_a_grid() -> None:
    spec = parse(replaced("sampling_rate = 0.3", "sampling_rate = [0.2, 0.3]").replace("[0, 1]", "[0]"))
    pairs = [(j.defense.noise_multiplier, j.defense.sampling_rate) for j in spec.jobs[1:]]  # type: ignore[attr-defined]
    assert pairs == [(0.5, 0.2), (0.5, 0.3), (1.0, 0.2), (1.0, 0.3)]


def test_training_of_a_defence_overrides_the_study() -> None:
    spec = parse(
        replaced("max_grad_norm = 1.0", 'max_grad_norm = 1.0\ntraining = { steps = 7, schedule = "cosine" }')
    )
    assert {(j.defense.name, j.recipe) for j in spec.jobs} == {
        ("none", Recipe(steps=20, learning_rate=0.5)),
        ("class-dp", Recipe(steps=7, learning_rate=0.5, schedule="cosine")),
    }


def test_labels_tell_settings_apart() -> None:
    """Trials of one label are taken for seeds of one setting, so no two settings may share one."""
    spec = parse(
        replaced("sampling_rate = 0.3", "sampling_rate = [0.2, 0.3]")
        .replace("[0.5, 1.0]", "0.5")
        .replace("iterations = 5", "iterations = 5\nweight = [0.05, 0.1]")
    )
    assert list(dict.fromkeys(j.setting for j in spec.jobs)) == [
        "none",
        "class-dp, noise multiplier 0.5, sampling rate 0.2",
        "class-dp, noise multiplier 0.5, sampling rate 0.3",
    ]
    assert spec.jobs[0].attack_labels == ("enhanced, weight 0.05", "enhanced, weight 0.1")
    assert spec.trials[1].label == "enhanced, weight 0.1 on none, seed 0"


def test_labels_are_short_where_nothing_is_to_be_told_apart() -> None:
    spec = parse(TINY)
    assert {j.setting for j in spec.jobs} == {
        "none",
        "class-dp, noise multiplier 0.5",
        "class-dp, noise multiplier 1",
    }
    assert {t.attack_label for t in spec.trials} == {"enhanced"}


def test_trainings_are_told_apart() -> None:
    text = TINY + '[[defenses]]\nname = "none"\ntraining = { steps = 30 }\n'
    assert {j.setting for j in parse(text).jobs if j.defense.name == "none"} == {
        "none, steps 20",
        "none, steps 30",
    }


class TestKeys:
    def test_do_not_depend_on_the_order_in_the_file(self) -> None:
        other = replaced(
            "noise_multiplier = [0.5, 1.0]\nsampling_rate = 0.3\nmax_grad_norm = 1.0\n",
            "max_grad_norm = 1.0\nsampling_rate = 0.3\nnoise_multiplier = [1.0, 0.5]\n",
        ).replace("steps = 20\nlearning_rate = 0.5\n", "learning_rate = 0.5\nsteps = 20\n")
        assert {t.key for t in trials_of(other)} == {t.key for t in trials_of(TINY)}

    def test_are_the_same_for_a_whole_number_and_its_float(self) -> None:
        other = replaced("[0.5, 1.0]", "[0.5, 1]").replace("max_grad_norm = 1.0", "max_grad_norm = 1")
        assert [t.key for t in trials_of(other)] == [t.key for t in trials_of(TINY)]

    def test_of_a_written_default_are_those_of_the_default(self) -> None:
        other = replaced("steps = 20", 'steps = 20\nmomentum = 0.9\nschedule = "constant"')
        assert [t.key for t in trials_of(other)] == [t.key for t in trials_of(TINY)]

    def test_of_an_edited_defence_change_alone(self) -> None:
        before, after = jobs_of(TINY), jobs_of(replaced("[0.5, 1.0]", "[0.5, 1.25]"))
        changed = [
            (a.defense.strength != b.defense.strength, a.key != b.key)
            for a, b in zip(before[2:], after[2:], strict=True)
        ]
        assert changed == [(False, False), (False, False), (True, True), (True, True)]
        assert [j.key for j in before[:2]] == [j.key for j in after[:2]]

    def test_of_models_do_not_depend_on_the_attack(self) -> None:
        other = replaced("iterations = 5", "iterations = 6")
        assert [j.key for j in jobs_of(TINY)] == [j.key for j in jobs_of(other)]
        assert not {t.key for t in trials_of(TINY)} & {t.key for t in trials_of(other)}

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("steps = 20", "steps = 21"),
            ("learning_rate = 0.5", "learning_rate = 0.25"),
            ('model = "softmax"', 'model = "mlp"'),
            ('[data]\nname = "digits"', '[data]\nname = "digits"\noptions = { seed = 1 }'),
            ("[0, 1]", "[2, 3]"),
        ],
    )
    def test_change_with_everything_that_a_model_depends_on(self, old: str, new: str) -> None:
        assert not {j.key for j in jobs_of(TINY)} & {j.key for j in jobs_of(replaced(old, new))}

    def test_are_none_before_the_data_are_known(self) -> None:
        with pytest.raises(ValueError, match="none, seed 0 has no key before its data are loaded"):
            _ = parse(TINY).jobs[0].key

    def test_name_the_package_of_a_plug_in_and_its_version(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert origin(pytest.MonkeyPatch) == f"pytest {version('pytest')}"
        assert origin(ClassDP) == ""
        found = []
        for release in ("1.0", "1.1"):
            foreign = {ClassDP: f"their-dp {release}"}
            monkeypatch.setattr("dpmi.study.grid.origin", lambda kind, foreign=foreign: foreign.get(kind, ""))
            found.append({job.defense.name: job.key for job in jobs_of(TINY)})
        assert found[0]["none"] == found[1]["none"]
        assert found[0]["class-dp"] != found[1]["class-dp"]


PRIVATE = '[[defenses]]\nname = "class-dp"\n'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # misspelt keys
        ("seeds = [0, 1]", "seed = [0, 1]", "seeds is missing"),
        ('name = "tiny"', 'name = "tiny"\nsed = 1', "study: unknown key 'sed'; did you mean 'seeds'? (known: name,"),
        ("steps = 20", "stepz = 20", "training.steps is missing"),
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
        ('"digits"', '"digit"', "data.name: unknown name 'digit'; did you mean 'digits'? (known: digits, mnist,"),
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
            "data.options.seed is [1]: input should be hashable",
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
            "training.schedule is 'linear': input should be 'constant' or 'cosine'",
        ),
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


def test_a_study_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    with pytest.raises(
        SpecError, match=r"missing\.toml cannot be read: No such file or directory; give a TOML"
    ):
        read(missing)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match=r"binary\.toml is not a TOML file"):
        read(binary)
    with pytest.raises(SpecError, match="cannot be read: Is a directory"):
        read(tmp_path)


def test_read_returns_the_text(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(TINY, encoding="utf-8")
    assert read(path) == TINY
