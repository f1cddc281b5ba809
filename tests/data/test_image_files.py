from pathlib import Path

import numpy as np
from PIL import Image

from dpmi.data.celeba import TEST_SHARE
from dpmi.data.image_files import hold_out, read_files


def test_images_of_any_mode_and_shape_are_fitted(tmp_path):
    for name, mode in (("grey", "L"), ("palette", "P"), ("alpha", "RGBA")):
        Image.new("RGB", (60, 20), (153, 153, 153)).convert(mode).save(tmp_path / f"{name}.png")
    files = sorted(tmp_path.glob("*.png"))
    images = read_files(files, size=16, crop=None, dataset="squares")
    np.testing.assert_allclose(images, np.full((3, 3, 16, 16), 0.6), atol=1e-6)


def test_a_tenth_is_held_out_rounded_up():
    counts = {30: 3, 31: 4, 35: 4, 70: 7}
    files = {str(n): [Path(str(n))] * n for n in counts}
    train, test = hold_out("celeba", files, TEST_SHARE, np.random.default_rng(0))
    assert np.bincount([label for label, _ in test]).tolist() == list(counts.values())
    assert len(train) + len(test) == sum(counts)
