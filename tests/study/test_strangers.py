"""Studies whose reconstructions are judged by networks from files, which these tests write."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dpmi import data, versions
from dpmi.metrics import confidence_interval
from dpmi.report.numbers.tables import summary
from dpmi.report.write import write
from dpmi.study import Machines, Results, SpecError, Store, gather, measure, parse, prepare, run, schema, work
from dpmi.study.content import Content
from dpmi.study.grid import hashed
from dpmi.study.strangers import panel
from dpmi.study.work import load, roles_of, trial_numbers

from ..models.graphs import projection, write_faceres, write_sface
from .conftest import JUDGED, TINY, comparable, count_calls, jobs_of, run_study, trials_of

#: One undefended model, one attack, one image of each class.
ONE = TINY[: TINY.index('[[defenses]]\nname = "class-dp"')] + TINY[TINY.index("[[attacks]]") :]
ONE = ONE.replace("seeds = [0, 1]", "seeds = [0]")
LINKED = ONE.replace("seeds = [0]", "seeds = [0, 1]").replace(
    "[training]", "[linkage]\nprivate = 3\n\n[training]", 1
)
KERNELS = {"faceres": projection(seed=0), "sface": projection(seed=1)}


def table(folder: Path, *names: str) -> str:
    """The table of a study file, for files in this folder that are written now."""
    folder.mkdir(exist_ok=True)
    for name in names:
        if name == "sface":
            for package in ("onnx", "onnxruntime"):
                pytest.importorskip(package, reason="the extra `strangers` is not installed")
        {"faceres": write_faceres, "sface": write_sface}[name](folder / name, KERNELS[name])
    files = "\n".join(f'{name} = "{folder / name}"' for name in names)
    return f"\n[strangers]\n{files}\n"


def features(name: str, images: Tensor) -> Tensor:
    """What the network of a file computes: products with its kernel, in float64, and then scaled to length 1."""
    kernel = torch.from_numpy(KERNELS[name]).double()
    found = torch.einsum("nchw,hwcf->nf", 255 * images.double().expand(-1, 3, -1, -1), kernel)
    return F.normalize(found, dim=1)


def cosines(name: str, images: Tensor, private: data.ImageSet, candidates: list[int]) -> Tensor:
    """The largest with a private image of each candidate (R, K)."""
    every = features(name, images) @ features(name, private.images).T
    return torch.stack([every[:, private.labels == each].amax(dim=1) for each in candidates], dim=1)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Results]:
    """Both strangers beside an evaluator."""
    folder = tmp_path_factory.mktemp("judged")
    return run_study(JUDGED + table(folder / "files", "faceres", "sface"), folder / "study")


def test_the_columns_are_those_of_a_loop_over_the_stored_images(judged: tuple[Store, Results]) -> None:
    store, results = judged
    split = data.load("digits")
    for _, row in results.trials.iterrows():
        recons = store.reconstructions(row["trial"])
        assert row["strangers_chance"] == 0.1
        accepted = {}
        for name in KERNELS:
            ranked = cosines(name, recons.images, split.train, list(range(10))).argsort(
                dim=1, descending=True
            )
            accepted[name] = ranked[:, 0] == recons.labels
            assert row[f"attack_accuracy_{name}"] == pytest.approx(accepted[name].double().mean())
            five = (ranked[:, :5] == recons.labels[:, None]).any(dim=1)
            assert row[f"attack_accuracy_top5_{name}"] == pytest.approx(five.double().mean())
            found, private = features(name, recons.images), features(name, split.train.images)
            nearest = [
                float((private[split.train.labels == label] - one).square().sum(dim=1).min())
                for one, label in zip(found, recons.labels, strict=True)
            ]
            assert row[f"delta_face_{name}"] == pytest.approx(np.mean(nearest), abs=1e-5)
            centres = torch.stack(
                [private[split.train.labels == label].mean(dim=0) for label in recons.labels]
            )
            expected = (found - centres).square().sum(dim=1).mean()
            assert row[f"feature_distance_{name}"] == pytest.approx(float(expected), abs=1e-5)
            held_out = cosines(name, split.test.images, split.train, list(range(10))).argmax(dim=1)
            share = (held_out == split.test.labels).double().mean()
            assert row[f"evaluator_accuracy_{name}"] == pytest.approx(share)
            assert row[f"evaluator_accuracy_{name}"] > 0.8
        differ = accepted["faceres"] != accepted["sface"]
        assert row["strangers_disagreement"] == pytest.approx(differ.double().mean())
    assert results.trials["strangers_disagreement"].max() > 0


def test_type_one_errors_are_what_the_own_evaluator_accepts_alone(judged: tuple[Store, Results]) -> None:
    store, results = judged
    split = data.load("digits")
    for job in parse(store.spec_text).jobs_on(store.content()):
        judge = work.evaluator.judge(job, split, store, lambda *_: None)
        assert judge is not None
        for trial in job.trials:
            recons = store.reconstructions(trial.key)
            with torch.no_grad():
                own = judge.evaluator(recons.images).argmax(dim=1) == recons.labels
            for name in KERNELS:
                own &= (
                    cosines(name, recons.images, split.train, list(range(10))).argmax(dim=1) != recons.labels
                )
            row = results.trials.set_index("trial").loc[trial.key]
            assert row["type_one_errors"] == pytest.approx(own.double().mean())
    assert results.trials["type_one_errors"].max() > 0


def test_the_tables_follow_their_schema(judged: tuple[Store, Results]) -> None:
    results = judged[1]
    assert not [*schema.problems(results.trials, schema.TRIALS)]
    assert not [*schema.problems(results.per_class, schema.PER_CLASS)]
    shared = {"strangers_disagreement", "type_one_errors"}
    known = {
        each.name
        for each in schema.PER_CLASS
        if each.name in shared
        or (each.name.endswith(tuple(KERNELS)) and not each.name.startswith("identified_"))
    }
    assert known == shared | {
        f"{measure}_{name}"
        for measure in ("attack_accuracy", "delta_face", "feature_distance")
        for name in KERNELS
    }
    assert known <= {*results.per_class}


def test_the_report_shows_them_with_intervals(judged: tuple[Store, Results], tmp_path: Path) -> None:
    results = judged[1]
    page = write(results, tmp_path).read_text(encoding="utf-8")
    for text in (page, (tmp_path / "summary.md").read_text(encoding="utf-8")):
        assert "Judged by strangers: face recognisers that others trained" in text
        assert "Type-I errors" in text
    row = summary(results).set_index("attack").loc["gmi"]
    rows = results.trials.loc[results.trials["attack"] == "gmi", "trial"]
    values = results.per_class.pivot(index="trial", columns="class_index", values="attack_accuracy_sface")
    low, high = confidence_interval(values.loc[sorted(rows)].to_numpy())[1:]
    assert (row["attack_accuracy_sface_low"], row["attack_accuracy_sface_high"]) == (low, high)
    assert row["strangers_chance"] == 0.1


def test_one_stranger_alone_neither_disagrees_nor_accuses(tmp_path: Path) -> None:
    _, results = run_study(ONE + table(tmp_path / "files", "faceres"), tmp_path / "study")
    (row,) = results.trials.to_dict("records")
    assert 0 <= row["attack_accuracy_faceres"] <= 1
    assert math.isnan(row["strangers_disagreement"])
    assert math.isnan(row["type_one_errors"])
    assert "attack_accuracy_sface" not in row
    page = write(results, tmp_path / "report").read_text(encoding="utf-8")
    assert "Attack accuracy, faceres" in page
    assert "Attack accuracy, sface" not in page


def test_with_linkage_the_candidates_are_private_classes_and_decoys(tmp_path: Path) -> None:
    text = LINKED.replace("private = 3", "private = 3\ndecoys = 4") + table(tmp_path / "files", "faceres")
    store, results = run_study(text, tmp_path / "study")
    split = data.load("digits")
    trials = results.trials.set_index("trial")
    for job in parse(text).jobs_on(store.content()):
        roles = roles_of(job, split)
        assert roles is not None
        candidates = sorted((*roles.private, *roles.decoys))
        (trial,) = job.trials
        row = trials.loc[trial.key]
        recons = store.reconstructions(trial.key)
        said = cosines("faceres", recons.images, split.train, candidates).argmax(dim=1)
        said = torch.tensor(candidates)[said]
        own = float((said == torch.tensor(roles.private)[recons.labels]).double().mean())
        decoy = float(torch.isin(said, torch.tensor(roles.decoys)).double().mean()) / 4
        assert row["strangers_chance"] == 1 / 7
        assert row["attack_accuracy_faceres"] == pytest.approx(own)
        assert row["identified_decoy_faceres"] == pytest.approx(decoy)
        assert row["identified_gain_faceres"] == pytest.approx(own - decoy)
        assert row["identified_bound"] == 1
    page = write(results, tmp_path / "report").read_text(encoding="utf-8")
    assert "Gain over a decoy, faceres" in page


class TestKeys:
    def test_without_the_table_nothing_changes(self) -> None:
        (job,) = jobs_of(ONE)
        found = hashed(measurement=versions.MEASUREMENT, evaluator="")
        assert work._measurement_of_trials(job) == found
        assert prepare(parse(ONE)) == Content.from_json({"data": data.load("digits").digest}), (
            "an older store"
        )

    def test_models_and_reconstructions_do_not_depend_on_them(self, tmp_path: Path) -> None:
        keys = [trial.key for trial in trials_of(ONE)]
        assert [trial.key for trial in trials_of(ONE + table(tmp_path, "faceres"))] == keys

    def test_other_content_is_measured_again_and_another_path_is_not(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = ONE + table(tmp_path / "a", "faceres")
        store, before = run_study(text, tmp_path / "study")
        done = count_calls(monkeypatch, work, "train", "_attack", "_numbers")
        moved = ONE + table(tmp_path / "b", "faceres")
        store = Store.create(store.root, moved, replace=True)
        assert run(parse(moved), store, machines=Machines(workers=1)) == []
        assert done == {"train": 0, "attack": 0, "numbers": 0}
        write_faceres(tmp_path / "b" / "faceres", projection(seed=7))
        assert run(parse(moved), store, machines=Machines(workers=1)) == []
        assert done == {"train": 0, "attack": 0, "numbers": 1}
        after = gather(parse(moved), store)
        assert not comparable(after.trials).equals(comparable(before.trials))
        write_faceres(tmp_path / "b" / "faceres", KERNELS["faceres"])
        assert measure(parse(moved), store, machines=Machines(workers=1)) == []
        assert done == {"train": 0, "attack": 0, "numbers": 2}
        again = gather(parse(moved), store)
        pd.testing.assert_frame_equal(comparable(again.trials), comparable(before.trials))

    def test_a_finished_study_is_judged_without_a_new_attack(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store, _ = run_study(ONE, tmp_path / "study")
        done = count_calls(monkeypatch, work, "train", "_attack", "_numbers")
        text = ONE + table(tmp_path / "files", "faceres")
        (trial,) = trials_of(text)
        assert trial_numbers(trial, store) is None
        store = Store.create(store.root, text, replace=True)
        assert run(parse(text), store, machines=Machines(workers=1)) == []
        assert done == {"train": 0, "attack": 0, "numbers": 1}
        assert gather(parse(text), store).trials["attack_accuracy_faceres"].notna().all()

    def test_files_that_change_after_the_start_are_refused(self, tmp_path: Path) -> None:
        text = ONE + table(tmp_path, "faceres")
        (job,) = jobs_of(text)
        write_faceres(tmp_path / "faceres", projection(seed=7))
        with pytest.raises(ValueError, match="faceres have another content than at the start of the study"):
            panel(job, load(job.data, None))


class TestRefused:
    @pytest.mark.parametrize(
        ("strangers", "message"),
        [
            ("[strangers]", r"strangers is \{\}: it must name the file of faceres or sface, or both"),
            ('[strangers]\nfacenet = "x"', "strangers: unknown key 'facenet'"),
            ('[strangers]\nsface = ""', "strangers.sface is '': "),
        ],
    )
    def test_a_wrong_table(self, strangers: str, message: str) -> None:
        with pytest.raises(SpecError, match=message):
            parse(f"{ONE}\n{strangers}\n")

    def test_a_missing_or_damaged_file_before_anything_is_trained(self, tmp_path: Path) -> None:
        text = ONE + table(tmp_path / "files", "faceres")
        (tmp_path / "files" / "faceres").write_text("{}")
        with pytest.raises(ValueError, match=r"strangers: .*faceres is no TensorFlow.js graph model"):
            run_study(text, tmp_path / "study")
        (tmp_path / "files" / "faceres").unlink()
        with pytest.raises(
            ValueError, match=r"strangers: .*faceres cannot be read.*begin at the current folder"
        ):
            run_study(text, tmp_path / "study")
        assert not [*(tmp_path / "study" / "models").iterdir()]

    def test_a_missing_package_is_a_wrong_study(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "sface").write_bytes(b"")
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(ValueError, match=r"strangers: sface needs packages .*'dpmi\[strangers\]'"):
            prepare(parse(f'{ONE}\n[strangers]\nsface = "{tmp_path / "sface"}"\n'))

    def test_a_relative_path_begins_at_the_current_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = ONE + table(tmp_path, "faceres").replace(f"{tmp_path}/", "")
        with pytest.raises(ValueError, match="strangers: faceres cannot be read"):
            prepare(parse(text))
        monkeypatch.chdir(tmp_path)
        assert prepare(parse(text)).strangers

    @pytest.mark.parametrize(
        ("shape", "message"), [((2, 8, 8), "these have 2"), ((1, 1, 6), "a row of a table")]
    )
    def test_records_that_are_no_pictures(
        self, tmp_path: Path, shape: tuple[int, int, int], message: str
    ) -> None:
        found = parse(ONE + table(tmp_path, "faceres")).strangers
        assert found is not None
        images = torch.rand(4, *shape)
        part = data.ImageSet(images, torch.tensor([0, 0, 1, 1]))
        split = dataclasses.replace(
            data.load("digits"),
            train=part,
            test=data.ImageSet(images / 2, part.labels),
            public=images / 3,
            public_labels=None,
            class_names=("a", "b"),
        )
        with pytest.raises(ValueError, match=f"strangers: .*{message}"):
            work.strangers.prepare(found, split)
