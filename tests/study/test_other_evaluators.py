"""Evaluators as the papers use them: on larger images, and trained by somebody else.

Modules: dpmi/study/evaluator.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dpmi import data, metrics, models, versions
from dpmi.defenses import NoDefense, Recipe, train
from dpmi.study import Machines, SpecError, Store, gather, measure, parse, prepare, run
from dpmi.study.evaluator import evaluator_key
from dpmi.study.evaluator import prepare as prepare_evaluator
from dpmi.study.grid import hashed
from dpmi.study.spec import EvaluatorSpec

from .conftest import JUDGED, jobs_of, run_study, trials_of

OWN = 'model = "cnn-small"\nclasses = "private"\ntraining = { steps = 150, learning_rate = 0.05 }'
ONE = JUDGED.partition('[[attacks]]\nname = "gmi"')[0].replace("seeds = [0, 1]", "seeds = [0]")
assert OWN in ONE


def judged_by(evaluator: str, *, text: str = ONE) -> str:
    return text.replace(OWN, evaluator)


@pytest.fixture(scope="module")
def digits() -> data.Split:
    return data.load("digits")


@pytest.fixture(scope="module")
def trained(digits: data.Split) -> nn.Module:
    """Of images from -1 to 1."""
    shape = digits.image_shape
    fresh = models.build("cnn-small", image_shape=shape, num_classes=10, seed=5)
    wrapped = models.Preprocessed(fresh, mean=(0.5,), std=(0.5,))
    recipe = Recipe(steps=200, learning_rate=0.05)
    found = train(NoDefense(), wrapped, digits.train, recipe, seed=5).model
    assert isinstance(found, models.Preprocessed)
    return found.module.eval()


@pytest.fixture
def weights(trained: nn.Module, tmp_path: Path) -> Path:
    """As a parallel training writes it."""
    state = {f"module.{name}": value for name, value in trained.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "evaluator.tar")
    return tmp_path / "evaluator.tar"


def given(weights: Path, more: str = 'normalize = "0.5"') -> str:
    return f'model = "cnn-small"\nweights = "{weights}"\n{more}'


def test_an_evaluator_without_the_new_settings_has_the_key_of_earlier_versions() -> None:
    job = jobs_of(JUDGED)[0]
    training = {
        "steps": 150,
        "learning_rate": 0.05,
        "batch_size": 128,
        "momentum": 0.9,
        "schedule": "constant",
        "optimizer": "sgd",
    }
    settings = {"model": "cnn-small", "training": training, "classes": "private", "seed": 1000}
    assert evaluator_key(job) == hashed(
        evaluator=versions.EVALUATOR,
        training=versions.TRAINING,
        data=data.load("digits").digest,
        settings=settings,
    )


def test_each_new_setting_is_part_of_the_key(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def net(image_shape, num_classes, bias=True):\n"
        "    size = image_shape[0] * image_shape[1] * image_shape[2]\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(size, num_classes, bias=bias))\n"
    )
    own = OWN.replace("cnn-small", f"{tmp_path}/net.py:net")
    texts = [
        OWN,
        f"{OWN}\nsize = 9",
        f'{OWN}\nnormalize = "0.5"',
        own,
        f"{own}\nmodel_options = {{ bias = false }}",
    ]
    keys = [evaluator_key(jobs_of(judged_by(text))[0]) for text in texts]
    assert len(set(keys)) == len(texts)
    (tmp_path / "net.py").write_text((tmp_path / "net.py").read_text() + "# changed\n")
    assert evaluator_key(jobs_of(judged_by(own))[0]) not in keys, "another file is another model"


def test_one_of_another_size_is_trained_and_judges_on_resized_images(
    tmp_path: Path, digits: data.Split
) -> None:
    """Resized by Pillow here."""
    text = judged_by(OWN.replace("cnn-small", "cnn") + "\nsize = 16")
    store, results = run_study(text, tmp_path)
    job, (trial,) = jobs_of(text)[0], trials_of(text)
    evaluator = models.build("cnn", image_shape=(1, 16, 16), num_classes=10, seed=0)
    state = torch.load(store.root / "models" / evaluator_key(job) / "model.pt", weights_only=True)
    evaluator.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})

    def larger(images: torch.Tensor) -> torch.Tensor:
        pixels = [Image.fromarray(each[0].numpy(), mode="F") for each in images]
        resized = [np.array(each.resize((16, 16), Image.Resampling.BILINEAR)) for each in pixels]
        return torch.from_numpy(np.stack(resized))[:, None].clamp(0, 1)

    row = results.trials.iloc[0]
    test = metrics.accuracy(evaluator, larger(digits.test.images), digits.test.labels)
    assert row["evaluator_accuracy"] == pytest.approx(test)
    assert test > 0.8
    recons = store.reconstructions(trial.key)
    seen = metrics.evaluate(evaluator, larger(recons.images))
    private = metrics.evaluate(evaluator, larger(digits.train.images)).features, digits.train.labels
    knn = metrics.knn_distance(seen.features, recons.labels, *private).values
    assert row["knn_distance"] == pytest.approx(float(knn.mean()), rel=1e-4)


def test_a_given_one_judges_as_its_owner_uses_it(
    weights: Path, trained: nn.Module, tmp_path: Path, digits: data.Split
) -> None:
    text = judged_by(given(weights))
    store, results = run_study(text, tmp_path / "study")
    row, (trial,) = results.trials.iloc[0], trials_of(text)
    recons = store.reconstructions(trial.key)
    with torch.no_grad():
        of_recons, of_tests = (
            trained(2 * images - 1).argmax(dim=1) == labels
            for images, labels in ((recons.images, recons.labels), (digits.test.images, digits.test.labels))
        )
    assert row["attack_accuracy"] == pytest.approx(float(of_recons.double().mean()))
    assert row["evaluator_accuracy"] == pytest.approx(float(of_tests.double().mean()))
    assert row["evaluator_accuracy"] > 0.8


def test_the_key_has_the_content_of_the_file_and_not_its_path(
    weights: Path, trained: nn.Module, tmp_path: Path
) -> None:
    same, other = tmp_path / "same.pt", tmp_path / "other.pt"
    same.write_bytes(weights.read_bytes())
    torch.save({name: value * 1.01 for name, value in trained.state_dict().items()}, other)
    first, copied, changed = (jobs_of(judged_by(given(path)))[0] for path in (weights, same, other))
    assert evaluator_key(first) == evaluator_key(copied) != evaluator_key(changed)
    assert first.key == changed.key
    assert [trial.key for trial in first.trials] == [trial.key for trial in changed.trials]


def test_another_file_measures_anew_without_an_attack(
    weights: Path, trained: nn.Module, tmp_path: Path
) -> None:
    store, before = run_study(judged_by(given(weights)), tmp_path / "study")
    torch.save({name: value * 1.5 for name, value in trained.state_dict().items()}, weights)
    spec = parse(judged_by(given(weights)))
    assert measure(spec, store, machines=Machines(workers=1)) == []
    after = gather(spec, store)
    assert after.trials["knn_distance"].iloc[0] != before.trials["knn_distance"].iloc[0]
    assert after.trials["attack_seconds"].equals(before.trials["attack_seconds"])


def test_a_file_that_changes_after_the_start_is_refused(
    weights: Path, trained: nn.Module, tmp_path: Path
) -> None:
    text = judged_by(given(weights))
    spec = parse(text)
    on = prepare(spec)
    torch.save({name: value * 1.01 for name, value in trained.state_dict().items()}, weights)
    (failure,) = run(spec, Store.create(tmp_path / "study", text), on=on, machines=Machines(workers=1))
    assert "another content than at the start of the study" in failure.message


def refused(text: str, tmp_path: Path) -> str:
    """The error of a study that must not begin."""
    with pytest.raises(ValueError, match=r".+") as caught:
        run(parse(text), Store.create(tmp_path / "refused", text), machines=Machines(workers=1))
    assert not list((tmp_path / "refused" / "models").iterdir())
    return str(caught.value)


def test_weights_of_another_architecture_are_named(weights: Path, tmp_path: Path) -> None:
    found = refused(judged_by(given(weights).replace("cnn-small", "softmax")), tmp_path)
    assert found.startswith(
        f"evaluator: the weights in {weights} do not fit model 'softmax': missing: 1.weight"
    )


def test_weights_of_other_classes_are_named(tmp_path: Path) -> None:
    other = models.build("cnn-small", image_shape=(1, 8, 8), num_classes=11, seed=0)
    torch.save(other.state_dict(), tmp_path / "eleven.pt")
    found = refused(judged_by(given(tmp_path / "eleven.pt")), tmp_path)
    assert "has another number of classes than 10" in found
    assert "the 10 private ones in their order" in found


def test_one_that_gets_another_range_is_told_its_own(weights: Path, tmp_path: Path) -> None:
    found = refused(judged_by(given(weights, "")), tmp_path)
    assert found.startswith("the evaluator recognises ")
    assert "of the private test images, where guessing recognises 1" in found
    assert "under normalize '0.5' it recognises" in found


def test_one_that_recognises_nothing_is_refused(tmp_path: Path) -> None:
    fresh = models.build("cnn-small", image_shape=(1, 8, 8), num_classes=10, seed=0)
    torch.save(fresh.state_dict(), tmp_path / "fresh.pt")
    found = refused(judged_by(given(tmp_path / "fresh.pt", "")), tmp_path)
    assert "the classes may be in another order" in found


@pytest.mark.parametrize("role", ["weights", "checkpoint"])
def test_the_weights_of_the_target_are_refused(
    role: str, weights: Path, trained: nn.Module, tmp_path: Path
) -> None:
    """In a file of another content, too."""
    torch.save(trained.state_dict(), tmp_path / "target.pt")
    target = f'model = "cnn-small"\nnormalize = "0.5"\n{role} = "{tmp_path}/target.pt"'
    text = judged_by(given(weights)).replace('model = "softmax"', target)
    if role == "checkpoint":
        text = text.replace("[training]\nsteps = 100\nlearning_rate = 0.5\n", "")
        text = text.replace('[[defenses]]\nname = "none"\n', "")
    assert "evaluator must be trained apart from the target" in refused(text, tmp_path)


@pytest.fixture
def four(tmp_path: Path) -> str:
    """Two private and two public classes, each of its own brightness."""
    generator = np.random.default_rng(0)
    for place, classes in (("private", (0, 80)), ("public", (160, 240))):
        for brightness in classes:
            folder = tmp_path / place / str(brightness)
            folder.mkdir(parents=True)
            for number in range(10):
                pixels = generator.integers(brightness, brightness + 15, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return f'folder = "{tmp_path}/private"\npublic = "{tmp_path}/public"'


def brightness_net(classes: int) -> nn.Module:
    """Knows the first classes by their brightness."""
    found = models.build("softmax", image_shape=(1, 8, 8), num_classes=classes, seed=0)
    centres = torch.tensor([7.0, 87.0, 167.0, 247.0])[:classes] / 255
    weight = (2 * centres / 64)[:, None].expand(-1, 64) * 100
    found.load_state_dict({"1.weight": weight.clone(), "1.bias": -100 * centres**2})
    return found


@pytest.mark.parametrize(("classes", "more"), [(2, ""), (2, 'classes = "private"'), (4, 'classes = "all"')])
def test_a_given_one_may_know_the_public_classes_if_it_says_so(
    classes: int, more: str, four: str, tmp_path: Path
) -> None:
    torch.save(brightness_net(classes).state_dict(), tmp_path / "net.pt")
    evaluator = f'model = "softmax"\nweights = "{tmp_path}/net.pt"\n{more}'
    text = (
        judged_by(evaluator).replace('name = "digits"', four).replace('model = "softmax"', 'model = "mlp"', 1)
    )
    results = run_study(text, tmp_path / "study")[1]
    assert results.trials["evaluator_accuracy"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("classes", "more", "public", "message"),
    [
        (4, "", True, "another number of classes than 2: 1.weight"),
        (2, 'classes = "all"', True, "another number of classes than 4: 1.weight"),
        (4, 'classes = "all"', False, "the public images of .* have no classes; give 'private'"),
    ],
)
def test_other_numbers_of_classes_are_refused(
    classes: int, more: str, public: bool, message: str, four: str, tmp_path: Path
) -> None:
    torch.save(brightness_net(classes).state_dict(), tmp_path / "net.pt")
    options = dict(line.split(" = ") for line in four.splitlines())
    split = data.load(
        "folder", **{name: text.strip('"') for name, text in options.items() if public or name != "public"}
    )
    spec = {"model": "softmax", "weights": str(tmp_path / "net.pt")}
    if more:
        spec["classes"] = "all"
    target = models.build("mlp", image_shape=split.image_shape, num_classes=2, seed=0)
    with pytest.raises(ValueError, match=message):
        prepare_evaluator(EvaluatorSpec.model_validate(spec), split, target)


@pytest.mark.parametrize(
    ("evaluator", "message"),
    [
        ('model = "cnn-small"', "it must have training, or weights, the file .*; not both"),
        (f'{OWN}\nweights = "net.pt"', "it must have training, or weights, the file .*; not both"),
        ('model = "cnn-small"\nweights = ""', "evaluator.weights is ''"),
        ('model = "torchvision/resnet18"\nweights = "torchvision"', "evaluator is .*weights must be a file"),
        (given(Path("net.pt"), "seed = 3"), "evaluator is .*seed is the seed of a training"),
        (f"{OWN}\nsize = 0", "evaluator.size is 0"),
        (f"{OWN}\nsize = [8, 8]", r"evaluator.size is \[8, 8\]"),
        (f'{OWN}\nnormalize = "0.6"', "evaluator.normalize is '0.6': it must be one of none, imagenet, 0.5"),
        (f"{OWN}\nmodel_options = {{ width = 3 }}", "model 'cnn-small' takes no options, but got width"),
        (given(Path("net.pt"), 'outputs = "logits"'), "unknown key 'outputs'"),
    ],
)
def test_bad_input_is_named(evaluator: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(judged_by(evaluator))


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    assert "net.pt cannot be read" in refused(judged_by(given(tmp_path / "net.pt")), tmp_path)


def test_a_size_that_the_model_does_not_take_is_refused(tmp_path: Path) -> None:
    found = refused(judged_by(OWN.replace("cnn-small", "cnn") + "\nsize = 12"), tmp_path)
    assert "model 'cnn' needs images (C, H, W) with H and W at least 14" in found
