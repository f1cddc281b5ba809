"""Studies on public features: one extractor for all models, whole networks as results, and what is refused before.

Modules: dpmi/study/features.py, dpmi/study/spec.py.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from accountants import BucketMechanism, Ledger
from dpmi import data, models
from dpmi.data import Split
from dpmi.models.features import Extractor, FeatureClassifier, Provenance, PublicStatistics
from dpmi.privacy import Account, Partition, PrivacyEngine
from dpmi.study import Failure, Machines, SpecError, Store, features, parse, prepare, run, work
from dpmi.study.spec import FeaturesSpec

from ..models.graphs import projection, write_faceres
from .conftest import count_calls, gather, jobs_of, run_study

HEAD = """
name = "head"
seeds = [0, 1]
model = "linear"
features = { name = "scatter", dimensions = 24 }

[data]
name = "digits"

[training]
steps = 60
learning_rate = 1.0
momentum = 0.0

[[defenses]]
name = "none"

[[attacks]]
name = "wiener"
"""

PRIVATE = (
    HEAD.replace("seeds = [0, 1]", "seeds = [0]").replace(
        '[data]\nname = "digits"', '[data]\nname = "digits"\nusers = { size = 6 }'
    )
    + """
[[defenses]]
name = "user-dp"
noise_multiplier = 1.0
sampling_rate = 0.9
max_grad_norm = 0.1
clipping = "automatic"
"""
)


def with_features(text: str, table: str) -> str:
    return text.replace('features = { name = "scatter", dimensions = 24 }', f"features = {table}")


def test_the_result_is_a_whole_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = count_calls(monkeypatch, features, "_make")
    store, results = run_study(HEAD, tmp_path)
    assert counts == {"make": 1}, "one extractor for all models"
    assert (results.trials["test_accuracy"] > 0.9).all()
    assert results.trials["advantage"].notna().all(), "attacks go through the extractor"
    job = jobs_of(HEAD)[0]
    split = data.load("digits")
    model = work.stored_model(job, store, split)
    assert isinstance(model, FeatureClassifier)
    with torch.no_grad():
        accuracy = float((model(split.test.images).argmax(1) == split.test.labels).float().mean())
    assert results.trials["test_accuracy"][0] == pytest.approx(accuracy, abs=1e-6)
    pages = " ".join(results.statements.values())
    assert "No privacy guarantee" in pages


def test_the_statement_says_where_the_features_come_from(tmp_path: Path) -> None:
    _, results = run_study(PRIVATE, tmp_path)
    private = results.trials[results.trials["unit"] == "user"].iloc[0]
    assert private["buckets"] == 200  # 1,197 images
    assert 0.5 < private["test_accuracy"] < 1
    assert "The features are a fixed function of the image" in results.statements[private["trial"]]


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of labelled images, larger and coloured."""
    folder, generator = tmp_path_factory.mktemp("letters"), np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir()
        for i in range(6):
            pixels = generator.integers(0, 256, (9, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def test_a_folder_trains_an_extractor_once(
    tmp_path: Path, letters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = count_calls(monkeypatch, features, "train_public_cnn")
    text = with_features(HEAD, f'{{ name = "folder:{letters}", steps = 40, size = 16 }}')
    run_study(text.replace("seeds = [0, 1]", "seeds = [0]"), tmp_path)
    store, results = run_study(text, tmp_path)
    assert counts == {"train_public_cnn": 1}
    assert len(results.trials) == 2
    record = store.model_record(features.trunk_key(jobs_of(text)[0]))
    assert record is not None
    assert "12 public images of 2 classes (folder); no private image is among them" in record["provenance"]
    run_study(text.replace("size = 16", "size = 16, trainings = 2"), tmp_path)
    assert counts == {"train_public_cnn": 2}, (
        "the model of seed 1 has an extractor of its own, that of seed 0 has not"
    )


def test_the_training_of_the_extractor_is_a_stage(tmp_path: Path, letters: Path) -> None:
    text = with_features(HEAD, f'{{ name = "folder:{letters}", steps = 5, size = 16 }}')
    spec, store = parse(text), Store.create(tmp_path, text)
    seen: dict[str, set[tuple[str, bool]]] = {}

    def report(label: str, what: str, done: int, total: int) -> None:
        seen.setdefault(label, set()).add((what, done >= total))

    assert run(spec, store, machines=Machines(workers=1), report=report) == []
    for job in spec.jobs:
        finished = {what for what, ended in seen[job.label] if ended}
        assert features.TRAINING in finished
        assert len(finished) == job.stages, "together they are 100 %"


def test_the_key_of_a_model_depends_on_everything_of_its_extractor(tmp_path: Path, letters: Path) -> None:
    file = tmp_path / "weights.pt"
    keys = set()
    tables = [
        '{ name = "scatter" }',
        f'"folder:{letters}"',
        '{ name = "scatter", dimensions = 24 }',
        '{ name = "scatter", dimensions = 24, scales = 1 }',
        '{ name = "scatter", dimensions = 24, mirrored = true }',
        f'{{ name = "folder:{letters}", seed = 1 }}',
        f'{{ name = "folder:{letters}", kind = "characters" }}',
        f'{{ name = "folder:{letters}", maps = true }}',
        f'{{ name = "torchvision:resnet18", weights = "{file}", side = 32 }}',
    ]
    for table in tables:
        if "resnet18" in table:
            write_resnet(file, seed=0)
        keys.add(jobs_of(with_features(HEAD, table))[0].key)
    write_resnet(file, seed=1)
    keys.add(jobs_of(with_features(HEAD, tables[-1]))[0].key)
    keys.add(jobs_of(HEAD.replace('features = { name = "scatter", dimensions = 24 }\n', ""))[0].key)
    assert len(keys) == len(tables) + 2
    moved = file.rename(tmp_path / "moved.pt")
    same = with_features(HEAD, f'{{ name = "torchvision:resnet18", weights = "{moved}", side = 32 }}')
    assert jobs_of(same)[0].key in keys, "not on paths"


def test_a_face_recogniser_of_others_is_an_extractor(tmp_path: Path) -> None:
    path = write_faceres(tmp_path / "faceres.json", projection(features=40))
    text = with_features(HEAD, f'{{ name = "faceres", weights = "{path}", dimensions = 24 }}')
    store, results = run_study(text.replace("seeds = [0, 1]", "seeds = [0]"), tmp_path / "study")
    assert results.trials["test_accuracy"][0] > 0.8
    record = store.model_record(features.trunk_key(jobs_of(text)[0]))
    assert record is not None
    assert "VGGFace2 (faceres); its training images are not at hand" in record["provenance"]
    beside = text.replace("[training]", '[strangers]\nsface = "sface.onnx"\n\n[training]', 1)
    assert parse(beside).strangers is not None, "another stranger may judge"


def write_resnet(path: Path, *, seed: int) -> None:
    torch.save(
        models.build(
            "torchvision/resnet18", image_shape=(3, 32, 32), num_classes=1000, seed=seed
        ).state_dict(),
        path,
    )


def own_extractor(image_shape: tuple[int, int, int]) -> Extractor:
    return Extractor(nn.Flatten(), image_shape=image_shape, provenance=Provenance("nothing"))


@cache
def trained_on_users(size: int) -> tuple[nn.Module, Account]:
    """A layer that digits of users with ``size`` digits each have trained, private for a user."""
    split = data.with_users(data.load("digits"), size=size)
    assert split.train.units is not None
    torch.manual_seed(0)
    engine, layer = PrivacyEngine(), nn.Linear(64, 10)
    module, optimizer, loader = engine.make_private(
        module=nn.Sequential(nn.Flatten(), layer),
        optimizer=torch.optim.SGD(layer.parameters(), lr=0.5),
        data_loader=DataLoader(TensorDataset(split.train.images, split.train.labels)),
        partition=Partition.by_column(split.train.units.tolist(), unit="user"),
        sampling_rate=0.5,
        noise_multiplier=2.0,
        max_grad_norm=1.0,
        steps_per_epoch=3,
        seed=0,  # several processes of a study must make the same
    )
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    return nn.Sequential(nn.Flatten(), layer), engine.account


def private_extractor(image_shape: tuple[int, int, int]) -> Extractor:
    layer, account = trained_on_users(6)
    return Extractor(layer, image_shape=image_shape, provenance=Provenance("digits", account=account))


def of_other_users(image_shape: tuple[int, int, int]) -> Extractor:
    layer, account = trained_on_users(7)
    return Extractor(layer, image_shape=image_shape, provenance=Provenance("digits", account=account))


def own_module(image_shape: tuple[int, int, int]) -> nn.Module:
    del image_shape
    return nn.Flatten()


def no_module(image_shape: tuple[int, int, int]) -> int:
    return len(image_shape)


@pytest.mark.parametrize("function", ["own_extractor", "own_module"])
def test_an_extractor_of_ones_own(tmp_path: Path, function: str) -> None:
    text = with_features(HEAD, f'"{__name__}:{function}"').replace("seeds = [0, 1]", "seeds = [0]")
    _, results = run_study(text, tmp_path)
    assert results.trials["test_accuracy"][0] > 0.9


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            '"omnigloth"',
            r"features\.name: unknown name 'omnigloth'; did you mean 'omniglot'.*module:function",
        ),
        ('{ name = "scatter", seed = 1 }', r"features\.seed has no meaning for features 'scatter'"),
        ('{ name = "public", scales = 2 }', r"features\.scales has no meaning for features 'public'"),
        ('"torchvision:resnet18"', r"features\.weights is missing: torchvision:resnet18 needs"),
        ('"faceres"', r"features\.weights is missing: faceres needs"),
        (
            '{ name = "faceres", weights = "faceres-deep.json", side = 64 }',
            r"features\.side has no meaning for features 'faceres'",
        ),
        (
            '{ name = "faceres", weights = "f.json" }\nstrangers = { faceres = "f.json" }',
            r"strangers\.faceres would judge models that are built on it",
        ),
        (
            '{ name = "scatter", dimension = 3 }',
            r"features: unknown key 'dimension'; did you mean 'dimensions'",
        ),
        ('{ name = "scatter", dimensions = 0 }', r"features\.dimensions is 0: .*greater than or equal to 1"),
        (
            '{ name = "scatter", directions = "classes" }',
            r"features\.dimensions is missing: .*directions = 'classes'",
        ),
        (
            '{ name = "scatter", directions = "people" }',
            r"features\.directions is 'people': .*'variance' or 'classes'",
        ),
        ("3", r"features is 3"),
    ],
)
def test_a_wrong_table_is_one_error(table: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(with_features(HEAD, table))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('{ name = "scatter", scales = 5 }', r"scales must be from 1 to 2.*got 5"),
        ('{ name = "scatter", dimensions = 400 }', r"features\.dimensions must be at most 324.*got 400"),
        ('{ name = "scatter", dimensions = 310 }', r"dimensions must be from 1 to 299.*300 public images"),
        ('"folder:/nowhere"', r"features folder /nowhere does not exist"),
        ('{ name = "faceres", weights = "/nowhere.json" }', r"/nowhere\.json cannot be read"),
        ('"no_such_module:f"', r"features 'no_such_module:f': no_such_module cannot be imported"),
        (f'"{__name__}:missing"', r"has no function or class 'missing'"),
        (f'"{__name__}:no_module"', r"must return an Extractor or an nn\.Module .* got int"),
    ],
)
def test_what_cannot_be_is_refused_before_training(table: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare(parse(with_features(HEAD, table)))


def test_the_account_of_a_private_extractor_is_a_part_of_every_model_s_account(tmp_path: Path) -> None:
    text = with_features(PRIVATE, f'"{__name__}:private_extractor"')
    _, results = run_study(text, tmp_path)
    table = results.trials.set_index("defense")
    assert np.isinf(table.loc["none", "epsilon"])
    found = table.loc["user-dp"]
    of_extractor = trained_on_users(6)[1]
    assert found["steps"] == 60 + 3
    head = Ledger().record(BucketMechanism(sampling_rate=0.9, noise_multiplier=1.0), steps=60)
    expected = (
        dataclasses.replace(of_extractor, ledger=of_extractor.ledger + head).guarantee(found["delta"]).epsilon
    )
    alone = dataclasses.replace(of_extractor, ledger=head).guarantee(found["delta"]).epsilon
    assert found["epsilon"] == pytest.approx(expected, rel=1e-9)
    assert found["epsilon"] > alone


def test_an_extractor_private_for_other_units_is_refused(tmp_path: Path) -> None:
    of_classes = with_features(PRIVATE, f'"{__name__}:private_extractor"').replace("user-dp", "class-dp")
    with pytest.raises(ValueError, match=r"class-dp: the extractor's own account is for one user of 200 "):
        prepare(parse(of_classes))
    failures: list[Failure] = []
    run_study(with_features(PRIVATE, f'"{__name__}:of_other_users"'), tmp_path, failures=failures)
    [failure] = failures
    assert "protects one user of another partition" in failure.message


def test_private_images_among_those_of_the_extractor_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1497 of the private images trained the extractor"):
        prepare(parse(with_features(HEAD, '"digits"')))


def test_features_and_initial_weights_of_the_whole_exclude_each_other() -> None:
    with pytest.raises(SpecError, match=r"with features, give features\.weights"):
        parse(HEAD.replace('model = "linear"', 'model = "linear"\nweights = "w.pt"'))


def test_public_images_are_needed() -> None:
    split = data.load("digits")
    without = dataclasses.replace(split, public=split.public[:0], public_labels=None, public_class_names=None)
    with pytest.raises(ValueError, match="features need public images, for their mean and scale"):
        features.prepare(FeaturesSpec(name="scatter"), without, None)
    unlabelled = dataclasses.replace(split, public_labels=None, public_class_names=None)
    with pytest.raises(ValueError, match="'public' are trained on labelled public images"):
        features.prepare(FeaturesSpec(name="public"), unlabelled, None)
    with pytest.raises(ValueError, match=r"features\.directions = 'classes' needs labelled public images"):
        features.prepare(FeaturesSpec(name="scatter", dimensions=4, directions="classes"), unlabelled, None)


def labelled_digits() -> Split:
    split = data.load("digits")
    labels = torch.arange(len(split.public)) % 5
    return dataclasses.replace(split, public_labels=labels, public_class_names=tuple("abcde"))


def test_directions_depend_on_the_classes_of_public_images() -> None:
    split = labelled_digits()
    assert split.public_labels is not None
    by_classes, by_variance = (
        FeaturesSpec(name="scatter", dimensions=4, directions=directions)
        for directions in ("classes", "variance")
    )
    others = dataclasses.replace(split, public_labels=split.public_labels.flip(0))
    keys = [
        features.prepare(spec, each, None) for spec in (by_classes, by_variance) for each in (split, others)
    ]
    assert len(set(keys)) == 3, "those of variance do not depend on them"
    with pytest.raises(ValueError, match=r"dimensions must be from 1 to 4.*300 public images of 5 classes"):
        features.prepare(by_classes.model_copy(update={"dimensions": 5}), split, None)


def test_a_trunk_is_mirrored_with_the_directions_of_classes() -> None:
    split = labelled_digits()
    spec = FeaturesSpec(name="public", steps=2, size=12, dimensions=4, directions="classes", mirrored=True)
    made = features._make(spec, split, None, lambda _done, _total: None)
    images = split.test.images[:5]
    features_ = made.extractor(images)
    torch.testing.assert_close(features_, made.extractor(images.flip(-1)))
    assert made.extractor.provenance.images is not None
    assert len(made.extractor.provenance.images) == len(split.public)
    expected = PublicStatistics(
        made.extractor.extract(split.public), dimensions=4, labels=split.public_labels
    )
    torch.testing.assert_close(made.statistics(features_), expected(features_))
    again = features.blank(spec, split.image_shape)
    again.load_state_dict(made.state_dict())
    torch.testing.assert_close(
        again.statistics(again.extractor(images)), expected(features_), rtol=1e-4, atol=1e-4
    )


def test_defences_that_would_have_no_effect_are_refused(letters: Path) -> None:
    frozen = HEAD + '\n[[defenses]]\nname = "bido-hsic"\n'
    with pytest.raises(ValueError, match=r"bido-hsic: .*(has no effect here|no hidden layers)"):
        prepare(parse(frozen))
    convolutions = with_features(frozen, f'{{ name = "folder:{letters}", steps = 5 }}')
    layers = convolutions.replace(
        'name = "bido-hsic"', 'name = "bido-hsic"\nlatent_layers = [["extractor.body.0"]]'
    )
    with pytest.raises(
        ValueError, match=r"has no effect here: the frozen extractor computes 'extractor\.body\.0'"
    ):
        prepare(parse(layers))
    deep = convolutions.replace('model = "linear"', 'model = "mlp"').replace(
        'name = "bido-hsic"', 'name = "bido-hsic"\nlatent_layers = [["top.2"]]'
    )
    prepare(parse(deep))
    with pytest.raises(ValueError, match="transfer trains the first layers on public images"):
        prepare(parse(HEAD + '\n[[defenses]]\nname = "transfer"\nfrozen_fraction = 0.5\n'))


def test_a_loss_of_ones_own_trains_the_whole_network(tmp_path: Path) -> None:
    """Label smoothing needs more than the plain loss of the head on known features; the result is a head as well."""
    text = HEAD.replace("seeds = [0, 1]", "seeds = [0]") + (
        '\n[[defenses]]\nname = "label-smoothing"\nalpha = 0.1\n\n[[defenses]]\nname = "calor"\nrank = 6\n'
        '\n[[defenses]]\nname = "random-erasing"\nmax_area = 0.3\n'
    )
    spec, store = parse(text), Store.create(tmp_path, text)
    assert run(spec, store, machines=Machines(workers=1)) == []
    table = gather(spec, store).trials.set_index("defense")
    assert (table["test_accuracy"] > 0.8).all()


def test_linkage_and_the_unit_game_are_played_on_heads(tmp_path: Path) -> None:
    few = HEAD.replace('name = "wiener"', 'name = "label-mean"')
    linked = run_study(few.replace("[training]", "[linkage]\n\n[training]"), tmp_path / "linkage")[1].trials
    assert linked["linkage_chance"].to_list() == pytest.approx([1 / 6, 1 / 6])
    assert (linked["linkage_top1"] > 0.8).all(), "a head gives away which digits trained it"
    played = few.replace("[training]", '[units]\nunit = "record"\n\n[training]').replace(
        "seeds = [0, 1]", "seeds = [0, 1, 2, 3]"
    )
    found = run_study(played, tmp_path / "units")[1].trials
    assert found["unit_auc"].between(0.4, 1.0).all()


def test_an_audit_of_a_head(tmp_path: Path) -> None:
    text = PRIVATE.replace('model = "linear"', 'model = "linear"\naudit = { canaries = 12 }')
    _, results = run_study(text, tmp_path)
    private = results.trials[results.trials["unit"] == "user"].iloc[0]
    assert private["audit_verdict"] == "consistent"
    assert 0 < private["audit_lower_bound"] < private["epsilon"]
