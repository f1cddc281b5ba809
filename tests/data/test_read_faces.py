import numpy as np
import pytest
import torch
from PIL import Image

from dpmi.data.read_faces import read_att_faces, read_faces94, read_gt_faces


def photographs(data_root, person: str) -> np.ndarray:
    """A person's 20 photographs by another way than the reader's: numpy's weights, no PIL greys."""
    colour = [
        np.asarray(Image.open(data_root / "faces94" / person / f"{person}.{i}.jpg")) for i in range(1, 21)
    ]
    grey = np.stack(colour) @ np.array([0.299, 0.587, 0.114]) / 255
    # 3 divides 180: the mean of three columns is the antialiased column.
    return grey.reshape(20, 200, 60, 3).mean(3)


def test_faces94_photographs_are_grey_and_whole(data_root):
    photos = read_faces94(data_root, height=70, width=60, people=2, dataset="faces94")
    ours = torch.from_numpy(photos.pixels[20:] / 255).unsqueeze(1)
    theirs = torch.from_numpy(photographs(data_root, photos.names[1])).unsqueeze(1)
    theirs = torch.nn.functional.interpolate(theirs, size=(70, 60), mode="bicubic", antialias=True)
    assert (ours - theirs).abs().mean() < 0.01
    assert photos.people.tolist() == [0] * 20 + [1] * 20


def test_a_person_without_20_photographs_is_named(tmp_path):
    for person in ("anna", "berta"):
        (tmp_path / "faces94" / person).mkdir(parents=True)
        Image.new("RGB", (180, 200)).save(tmp_path / "faces94" / person / f"{person}.1.jpg")
    with pytest.raises(ValueError, match="anna must contain 20 jpg files; got 1"):
        read_faces94(tmp_path, height=70, width=60, people=None, dataset="faces94")


def test_att_faces_are_the_files_as_they_are(data_root):
    photos = read_att_faces(data_root, height=112, width=92, dataset="att-faces")
    raw = (data_root / "att_faces" / "s3" / "10.pgm").read_bytes()
    np.testing.assert_array_equal(photos.pixels[29].ravel(), np.frombuffer(raw[-92 * 112 :], dtype=np.uint8))
    assert photos.names[2] == "s3"
    assert photos.people[29] == 2


def test_gt_faces_are_the_files_as_they_are(data_root):
    photos = read_gt_faces(data_root, height=40, width=30, dataset="gt-faces")
    with np.load(data_root / "gt_faces" / "gt_faces_40x30.npz") as arrays:
        np.testing.assert_array_equal(photos.pixels, arrays["images"])
        np.testing.assert_array_equal(photos.people, arrays["labels"].astype(int) - 1)


def test_fitting_a_face_keeps_its_proportions(data_root):
    # 92x112 has more height than 60x70 needs: fitting takes the middle 108 rows, and squeezes nothing.
    whole = read_att_faces(data_root, height=112, width=92, dataset="faces94").pixels[0]
    fitted = read_att_faces(data_root, height=70, width=60, dataset="faces94").pixels[0]
    middle = Image.fromarray(whole[2:110]).resize((60, 70), Image.Resampling.BICUBIC)
    stretched = Image.fromarray(whole).resize((60, 70), Image.Resampling.BICUBIC)
    to_middle, to_stretched = (
        np.abs(fitted - np.asarray(other, float)).mean() for other in (middle, stretched)
    )
    assert to_middle < 3 < to_stretched
