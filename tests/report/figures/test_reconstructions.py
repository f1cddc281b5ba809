from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from dpmi.report.figures import reconstructions
from dpmi.study.results import Results

from ..conftest import drawn, make_results, with_linkage


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_one_row_per_model_below_the_training_images(results: Results):
    figure = drawn(reconstructions, results)
    images = figure.axes[0].images
    assert len(images) == 8 * 10
    np.testing.assert_array_equal(images[0].get_array(), results.examples[0, 0])
    np.testing.assert_array_equal(images[10].get_array(), results.recons["none-nan-mi-face-0"][0, 0])
    np.testing.assert_array_equal(images[79].get_array(), results.recons["subclass-dp-3.65-mi-face-0"][9, 0])


def test_no_image_is_stretched_or_smoothed(results: Results):
    for image in drawn(reconstructions, results).axes[0].images:
        assert image.get_clim() == (0, 1)
        assert image.get_interpolation() == "nearest"


def test_labels_say_epsilon_with_its_unit_accuracy_and_distance_of_that_seed(results: Results):
    first = results.trials[results.trials["trial"] == "subclass-dp-3.0-mi-face-0"].iloc[0]
    shown = [text.replace("\N{NO-BREAK SPACE}", " ") for text in texts(drawn(reconstructions, results))]
    assert shown[0] == "Reconstructions on digits: all 10 classes, seed 0"
    assert "subclass-dp, noise 3" in shown
    accuracy = f"accuracy {100 * first['test_accuracy']:.1f} %, distance {first['distance']:.2f}"
    assert f"epsilon 5.44 for one subclass\n{accuracy}" in shown


def test_long_names_stay_beside_the_images(results: Results):
    trials = results.trials.assign(label="transfer, frozen fraction 0.5 + bido-hsic, dependence weight 1")
    figure = drawn(reconstructions, replace(results, trials=trials))
    figure.canvas.draw()
    first = min(image.get_window_extent().x0 for image in figure.axes[0].images)
    ends = [t.get_window_extent().x1 for t in figure.axes[0].texts if "transfer" in t.get_text()]
    assert ends
    assert max(ends) < first


def test_colour_images_stay_in_colour():
    coloured = make_results(channels=3, seeds=[2])
    image = drawn(reconstructions, coloured).axes[0].images[10]
    expected = np.moveaxis(coloured.recons["none-nan-mi-face-2"][0], 0, -1)
    np.testing.assert_array_equal(image.get_array(), expected)


def test_under_every_reconstruction_stands_its_distance_or_its_rank(results: Results):
    shown = texts(drawn(reconstructions, results))
    mine = results.per_class[results.per_class["trial"] == "subclass-dp-3.65-mi-face-0"]
    assert [f"{value:.2f}" for value in mine["distance"]] == shown[-10:]
    linked = with_linkage(results, {"subclass-dp, noise 3.65": 0.0})
    figure = drawn(reconstructions, linked)
    shown = texts(figure)
    assert shown[0].startswith("Reconstructions on digits: all 5 classes, seed 0")
    # The classes of the first seed are the even ones, with their own training images.
    assert shown[2:6] == ["2", "4", "6", "8"]
    np.testing.assert_array_equal(figure.axes[0].images[1].get_array(), results.examples[2, 0])
    assert shown[-5:] == ["rank 3 of 6"] * 5
    assert any("linkage 100.0" in text for text in shown)


def test_of_many_classes_twelve_are_shown_and_the_title_says_so(results: Results):
    many = replace(
        results,
        class_names=tuple(f"person number {k}" for k in range(40)),
        examples=np.tile(results.examples, (4, 1, 1, 1)),
        per_class=pd.concat(
            [
                results.per_class.assign(class_index=results.per_class["class_index"] + 10 * k)
                for k in range(4)
            ]
        ).sort_values(["trial", "class_index"]),
        recons={trial: np.tile(images, (4, 1, 1, 1)) for trial, images in results.recons.items()},
    )
    figure = drawn(reconstructions, many)
    assert len(figure.axes[0].images) == 8 * 12
    assert texts(figure)[0].startswith("Reconstructions on digits: 12 of 40 classes, evenly chosen")
    assert texts(figure)[1] == "perso…ber 0"
    assert texts(figure)[12] == "perso…er 39"


@pytest.mark.parametrize("count", [1, 2, 12, 13, 153])
def test_chosen_classes_are_distinct_and_reach_both_ends(count: int):
    chosen = reconstructions.chosen_classes(count)
    assert len(set(chosen)) == min(count, 12)
    assert chosen[0] == 0
    assert chosen[-1] == count - 1
