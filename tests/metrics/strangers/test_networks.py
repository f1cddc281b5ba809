"""The face recognisers: their files, what they see, and whom they recognise."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dpmi.data.images import to_images
from dpmi.data.read_faces import Photos, read_att_faces, read_gt_faces
from dpmi.metrics.strangers import STRANGERS, Stranger, load_stranger

from ...models.graphs import placeholder, projection, write_faceres, write_graph, write_sface
from .conftest import file_of

WRITERS = {"faceres": write_faceres, "sface": write_sface}


def written(name: str, path: Path, *, side: int = 8) -> Path:
    if name == "sface":
        pytest.importorskip("onnxruntime", reason="the extra `strangers` is not installed")
        pytest.importorskip("onnx", reason="the extra `strangers` is not installed")
    return WRITERS[name](path, projection(side))


@pytest.mark.parametrize("name", STRANGERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_products_of_what_the_network_sees(tmp_path: Path, name: str, channels: int) -> None:
    """RGB from 0 to 255, resized by an antialiased filter, in batches of any size; features of length 1."""
    stranger = load_stranger(name, written(name, tmp_path / "net"))
    assert (stranger.name, stranger.side) == (name, 8)
    images = torch.rand(70, channels, 8, 8)
    images[1] = images[0]
    kernel = torch.from_numpy(projection()).double()
    products = torch.einsum("nchw,hwcf->nf", 255 * images.double().expand(-1, 3, -1, -1), kernel)
    found = stranger.features(images)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), products / products.norm(dim=1, keepdim=True), atol=1e-5)
    assert not found.requires_grad
    halves = images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)  # twice as large: 16 x 16
    small = F.interpolate(halves, size=(8, 8), mode="bilinear", antialias=True)
    assert torch.allclose(stranger.features(halves), stranger.features(small), atol=1e-6)


def test_a_white_pixel_is_255() -> None:
    stranger = Stranger(
        "faceres", "", 2, lambda images: images.flatten(1)[:, :2] + torch.tensor([0.0, 100.0])
    )
    (found,) = stranger.features(torch.ones(1, 1, 2, 2))
    assert found.tolist() == pytest.approx([255 / math.hypot(255, 355), 355 / math.hypot(255, 355)])


@pytest.mark.parametrize("name", STRANGERS)
def test_the_digest_is_of_the_content_and_not_of_the_path(tmp_path: Path, name: str) -> None:
    paths = [tmp_path / folder / "net" for folder in ("a", "b", "c")]
    for path in paths:
        path.parent.mkdir()
    written(name, paths[0])
    written(name, paths[1])
    WRITERS[name](paths[2], projection(seed=1))
    first, same, other = (load_stranger(name, path).digest for path in paths)
    assert first == same != other


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(2, 2, 8, 8), "1 or 3 channels; these have 2"),
        (2 * torch.ones(2, 1, 8, 8), r"images must have pixels in \[0, 1\]"),
        (torch.zeros(0, 1, 8, 8), "images must be"),
    ],
)
def test_other_images_are_refused(tmp_path: Path, images: torch.Tensor, message: str) -> None:
    stranger = load_stranger("faceres", written("faceres", tmp_path / "net"))
    with pytest.raises(ValueError, match=message):
        stranger.features(images)


def test_a_name_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"name must be one of \('faceres', 'sface'\); got 'facenet'"):
        load_stranger("facenet", tmp_path)


def test_a_graph_of_other_inputs_is_not_faceres(tmp_path: Path) -> None:
    nodes = [
        placeholder(4, 6, 3),
        {"name": "global_pooling/Mean", "op": "Mean", "input": ["images", "axes"], "attr": {}},
    ]
    path = write_graph(tmp_path / "g.json", nodes, {"axes": np.array([1, 2], dtype=np.int32)})
    with pytest.raises(ValueError, match=r"not faceres: it takes images of shape \(4, 6, 3\)"):
        load_stranger("faceres", path)


class TestSface:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        for package in ("onnx", "onnxruntime"):
            pytest.importorskip(package, reason="the extra `strangers` is not installed")

    def test_other_files_are_refused(self, tmp_path: Path) -> None:
        path = write_sface(tmp_path / "net", projection())
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ValueError, match="net is not SFace, or is damaged: "):
            load_stranger("sface", path)
        with pytest.raises(
            ValueError, match="absent cannot be read: No such file or directory; paths begin at"
        ):
            load_stranger("sface", tmp_path / "absent")

    def test_a_network_without_features_is_refused(self, tmp_path: Path) -> None:
        import onnx
        from onnx import TensorProto, helper

        images, out = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("data", "out")
        )
        graph = helper.make_graph([helper.make_node("Relu", ["data"], ["out"])], "g", [images], [out])
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=6),
            str(tmp_path / "net"),
        )
        with pytest.raises(ValueError, match=r"not SFace: its output has shape .*, not \(n, features\)"):
            load_stranger("sface", tmp_path / "net")

    @pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
    def test_the_extra_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
        path = write_sface(tmp_path / "net", projection())
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ImportError, match=r"pip install 'dpmi\[strangers\]'"):
            load_stranger("sface", path)

    def test_the_real_file_is_computed_as_by_the_reference_of_onnx(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Its plain NumPy evaluator takes the file as it is: weights among the inputs, one image at a time."""
        import onnx
        from onnx.reference import ReferenceEvaluator

        path = file_of("sface")
        image = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
        (expected,) = ReferenceEvaluator(onnx.load(str(path))).run(["fc1"], {"data": 255 * image.numpy()})
        capfd.readouterr()
        found = load_stranger("sface", path).features(image)
        assert capfd.readouterr().err == "", "the constants that the graph does not use are no news"
        assert found.numpy() == pytest.approx(expected / np.linalg.norm(expected), abs=1e-4)


def identified(name: str, photos: Photos, *, people: int | None = None) -> float:
    """Share of photographs whose nearest other photograph by cosine shows the same person."""
    few = slice(None) if people is None else photos.people < photos.people.min() + people
    features = load_stranger(name, file_of(name)).features(to_images(photos.pixels[few])).double()
    cosines = features @ features.T
    cosines.fill_diagonal_(-2)
    shown = torch.from_numpy(photos.people[few])
    return float((shown[cosines.argmax(dim=1)] == shown).double().mean())


@pytest.mark.parametrize("name", STRANGERS)
def test_a_few_people_are_identified(name: str) -> None:
    root = file_of(name).parents[1]
    photos = read_att_faces(root, height=112, width=92, dataset="att-faces")
    assert identified(name, photos, people=5) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("name", "att", "gt"), [("faceres", 1.0, 0.999), ("sface", 0.995, 0.981)])
def test_people_are_identified_as_often_as_is_known(name: str, att: float, gt: float) -> None:
    """The figures that were measured with other code; pixels reach .980 and .792."""
    root = file_of(name).parents[1]
    photos = read_att_faces(root, height=112, width=92, dataset="att-faces")
    assert identified(name, photos) == pytest.approx(att, abs=0.005)
    photos = read_gt_faces(root, height=40, width=30, dataset="gt-faces")
    assert identified(name, photos) == pytest.approx(gt, abs=0.005)
