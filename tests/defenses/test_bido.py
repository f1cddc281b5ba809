"""BiDO: that its loss is the published one, with the measure that was asked for, and what it is inside a bucket."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpmi import models
from dpmi.data import ImageSet, Split
from dpmi.defenses import BiDO, BiDOCOCO, BiDOHSIC, Defense, Recipe, SubclassDP, compose, get, train
from dpmi.study import SpecError, parse

from .conftest import softmax, weights
from .test_dependence import PUBLISHED, published_gaussian

LAYERS = ("1", "3", "7")
"""The activations of cnn-small."""


def cnn() -> nn.Module:
    return models.build("cnn-small", image_shape=(1, 8, 8), num_classes=10, seed=0)


def loss(defense: Defense, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return defense.objective(defense, model, (1, 8, 8), 10, 0)(model, images, labels, 0.5)


def published_penalty(defense: BiDO, model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Equations 8 and 10, layer by layer in float64."""
    measure = PUBLISHED[defense.measure]
    with torch.no_grad(), models.observe(model, defense.latent_layers) as latents:
        model(images)
    one_hot = np.eye(10)[labels.numpy()]
    x, y = published_gaussian(images.numpy()), one_hot @ one_hot.T
    total = 0.0
    for latent in latents.values():
        z = published_gaussian(latent.numpy())
        total += defense.lambda_x * measure(x, z) - defense.lambda_y * measure(z, y)
    return defense.dependence_weight * total


@pytest.mark.parametrize("measure", sorted(PUBLISHED))
@pytest.mark.parametrize("kind", [BiDOHSIC, BiDOCOCO])
def test_loss_is_the_published_one_with_the_measure_asked_for(
    kind: type[BiDO], measure: Any, split: Split
) -> None:
    """Trap 18: five measures, five values."""
    defense = kind(measure=measure, lambda_x=3.0, lambda_y=7.0, dependence_weight=0.5, latent_layers=LAYERS)
    model, images, labels = cnn(), split.train.images[:40], split.train.labels[:40]
    found = loss(defense, model, images, labels) - F.cross_entropy(model(images), labels)
    expected = published_penalty(defense, model, images, labels)
    # The loss is about 2.3 in float32.
    assert float(found.detach()) == pytest.approx(expected, rel=1e-3, abs=1e-6)
    others = [
        published_penalty(dataclasses.replace(defense, measure=other), model, images, labels)  # type: ignore[arg-type]
        for other in PUBLISHED
        if other != measure
    ]
    assert all(abs(other - expected) > 1e-5 for other in others)


def test_names_mean_what_the_published_lambdas_belong_to() -> None:
    hsic, coco = get("bido-hsic")(), get("bido-coco")()
    assert isinstance(hsic, BiDOHSIC)
    assert isinstance(coco, BiDOCOCO)
    assert (hsic.measure, hsic.lambda_x, hsic.lambda_y) == ("nocco", 2, 20)
    assert (coco.measure, coco.lambda_x, coco.lambda_y) == ("coco_fro", 1, 50)
    assert hsic.loss_scope == coco.loss_scope == "batch_coupled"


def test_layers_are_found_or_named(split: Split) -> None:
    model = cnn()
    assert BiDOHSIC().observed(model, (1, 8, 8)) == models.latents(model, (1, 8, 8)) != ()
    images, labels = split.train.images[:20], split.train.labels[:20]
    automatic = loss(BiDOHSIC(), model, images, labels)
    named = loss(BiDOHSIC(latent_layers=models.latents(model, (1, 8, 8))), model, images, labels)
    one = loss(BiDOHSIC(latent_layers=("3",)), model, images, labels)
    assert torch.equal(automatic, named)
    assert not torch.allclose(automatic, one)


@pytest.mark.parametrize("kind", [BiDOHSIC, BiDOCOCO])
def test_one_record_and_one_class(kind: type[BiDO], split: Split) -> None:
    """One record depends on nothing; one class has no labels to depend on."""
    model, images, labels = cnn(), split.train.images[:12], torch.full((12,), 3)
    alone = loss(kind(), model, images[:1], labels[:1])
    torch.testing.assert_close(alone, F.cross_entropy(model(images[:1]), labels[:1]))
    alone.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    torch.testing.assert_close(
        loss(kind(), model, images, labels), loss(kind(lambda_y=0.0), model, images, labels)
    )


@pytest.mark.parametrize(
    ("lambdas", "term", "sign"),
    [({"lambda_x": 5.0, "lambda_y": 0.0}, "nocco(x, 3)", -1), ({"lambda_x": 0.0}, "nocco(3, y)", 1)],
)
def test_each_term_moves_what_it_is_about(
    lambdas: dict[str, float], term: str, sign: int, split: Split
) -> None:
    recipe = Recipe(steps=30, learning_rate=1e-3, optimizer="adam", batch_size=64)

    def trained(weight: float) -> dict[str, float]:
        defense = BiDOHSIC(dependence_weight=weight, latent_layers=("3",), **lambdas)
        return train(defense, cnn(), split.train, recipe, seed=0).diagnostics

    without, found = trained(0.0), trained(1.0)
    assert sign * (found[term] - without[term]) > 0.1 * without[term]


def test_diagnostics_are_the_terms_for_real_and_for_shuffled_pairs(split: Split) -> None:
    """Trap 17, on 256 records; all of them, in another order, where there are fewer."""
    defense = BiDOHSIC(measure="cka", latent_layers=("1", "7"))
    few = ImageSet(split.train.images[:50], split.train.labels[:50])
    model = cnn().eval()
    found = defense.diagnose(model, few, seed=0)
    terms = ["cka(x, 1)", "cka(1, y)", "cka(x, 7)", "cka(7, y)"]
    assert list(found) == terms + [f"{term}, shuffled" for term in terms]
    with torch.no_grad():
        z = published_gaussian(model[:2](few.images).numpy())  # type: ignore[index]
    expected = PUBLISHED["cka"](published_gaussian(few.images.numpy()), z)
    assert found["cka(x, 1)"] == pytest.approx(expected, rel=1e-3)
    for term in terms:
        assert found[f"{term}, shuffled"] < 0.8 * found[term]
    many = defense.diagnose(model, split.train, seed=0)
    assert (
        many == defense.diagnose(model, split.train, seed=0) != defense.diagnose(model, split.train, seed=1)
    )
    assert many["cka(x, 1), shuffled"] < found["cka(x, 1), shuffled"], "its bias shrinks with the records"


def test_what_it_cannot_be_trained_on_is_refused_at_once(split: Split) -> None:
    recipe = Recipe(steps=1, learning_rate=0.1)
    with pytest.raises(ValueError, match="bido-hsic needs the outputs of hidden layers"):
        train(BiDOHSIC(), softmax(), split.train, recipe, seed=0)
    with pytest.raises(ValueError, match="no layer 'layer1'; the nearest are '0'"):
        train(BiDOHSIC(latent_layers=("layer1",)), cnn(), split.train, recipe, seed=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dependence_weight", float("nan")),
        ("lambda_x", -1.0),
        ("lambda_y", -0.5),
        ("sigma", 0.0),
        ("measure", "HSIC"),
        ("latent_layers", "3"),
        ("latent_layers", ("3", "3")),
    ],
)
def test_bad_settings(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{field} must be ") as refused:
        BiDOHSIC(**{field: value})  # type: ignore[arg-type]
    assert str(refused.value).endswith(f"got {value!r}")


def test_a_study_names_layers_in_a_list_of_its_own() -> None:
    """A list of a field's values is a sweep."""
    text = """
        name = "layers"
        seeds = [0]
        model = "cnn-small"
        data = { name = "digits" }
        training = { steps = 1, learning_rate = 0.1 }
        attacks = [{ name = "miface" }]
        defenses = [{ name = "bido-hsic", latent_layers = [["1", "3"], ["3"]] }]
    """
    assert [job.defense for job in parse(text).jobs] == [
        BiDOHSIC(latent_layers=("1", "3")),
        BiDOHSIC(latent_layers=("3",)),
    ]
    with pytest.raises(SpecError, match="latent_layers is '1': input should be a valid list"):
        parse(text.replace('[["1", "3"], ["3"]]', '["1", "3"]'))


class TestUnderDifferentialPrivacy:
    @pytest.mark.filterwarnings("ignore:noise_multiplier is 0")
    def test_each_bucket_has_the_gradient_of_the_loss_over_its_own_records(self, split: Split) -> None:
        """Bucket by bucket in float64: gradient of the loss of its records alone, clipped, added."""
        clip = 3.0
        private = SubclassDP(
            noise_multiplier=0.0, sampling_rate=1.0, max_grad_norm=clip, clusters_per_class=2
        )
        bido = BiDOHSIC(lambda_x=0.5, latent_layers=LAYERS)
        few = ImageSet(split.train.images[:150], split.train.labels[:150])
        recipe = Recipe(steps=1, learning_rate=1.0, momentum=0.0)
        trained = train(compose(private, bido), cnn(), few, recipe, seed=0).model

        exact = cnn().double()
        parameters = list(exact.parameters())
        partition = private.partition(few, 0)
        update = torch.zeros_like(weights(exact))
        norms = []
        for bucket in range(partition.num_buckets):
            mine = partition.records(bucket)
            own = loss(bido, exact, few.images[mine].double(), few.labels[mine])
            gradient = torch.cat([g.flatten() for g in torch.autograd.grad(own, parameters)])
            norms.append(float(gradient.norm()))
            update += gradient * min(1.0, clip / norms[-1]) / partition.num_buckets
        assert min(norms) < clip < max(norms)
        torch.testing.assert_close(weights(trained).double(), weights(exact) - update, rtol=0, atol=2e-5)

    def test_it_is_said_that_labels_have_no_effect(self) -> None:
        private = SubclassDP(noise_multiplier=1.0, sampling_rate=0.5, max_grad_norm=1.0)
        (remark,) = compose(private, BiDOHSIC()).remarks()
        assert "every bucket of subclass-dp holds records of one class" in remark
        assert "identically zero" in remark

    def test_records_one_by_one_are_refused(self) -> None:
        with pytest.raises(
            ValueError, match="bido-hsic couples the records of a batch, but the unit of record-dp"
        ):
            get("record-dp+bido-hsic")(noise_multiplier=1.0, sampling_rate=0.5, max_grad_norm=1.0)
