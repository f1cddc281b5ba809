"""The trials of a study: their labels tell them apart, and what their keys depend on."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from accountants.plugins import origin
from dpmi.defenses import ClassDP
from dpmi.study import parse

from .conftest import TINY, jobs_of, trials_of
from .test_spec import replaced


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
