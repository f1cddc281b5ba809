"""Collections and files of weights as their real writers make them, of 40 people, for the dry runs of studies."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.datasets import CIFAR10
from torchvision.models import get_model, vgg16_bn

from dpmi import attacks, models
from dpmi.data import Split
from dpmi.study.spec import DataSpec
from dpmi.study.work import load

from ..attacks.priors.style.official import official_generator, write

PEOPLE, PRIVATE, EACH = 40, 20, 3

#: Channels of the block of each side of the published generator for FFHQ.
FFHQ_CHANNELS = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}

Pixels = NDArray[np.uint8]


def photograph(person: int, number: int, size: tuple[int, int]) -> Pixels:
    """Height x width x 3: coarse squares in the colours of a person, and a little noise of the photograph."""
    coarse = np.random.default_rng(person).integers(40, 215, (4, 4, 3))
    noise = np.random.default_rng((person, number)).integers(-15, 16, (*size, 3))
    rows, columns = (np.arange(side) * 4 // side for side in size)
    return (coarse[rows][:, columns] + noise).astype(np.uint8)


def celeba(root: Path) -> None:
    """In torchvision's layout; the first people have one more photograph."""
    folder = root / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    lines = []
    for person in range(1, PEOPLE + 1):
        for number in range(EACH + (person <= PRIVATE)):
            name = f"{len(lines) + 1:06}.jpg"
            Image.fromarray(photograph(person, number, (218, 178))).save(folder / name)
            lines.append(f"{name} {person}\n")
    (root / "celeba" / "identity_CelebA.txt").write_text("".join(lines))


def facescrub(root: Path) -> None:
    """One folder of photographs of several sizes for each person."""
    for person in range(PEOPLE):
        folder = root / "facescrub" / f"Person_{person}"
        folder.mkdir(parents=True)
        for number in range(EACH):
            pixels = photograph(person, number, (240 + number, 230))
            Image.fromarray(pixels).save(folder / f"{number}.jpg")


def ffhq(root: Path) -> None:
    """A flat folder of photographs of other people."""
    (root / "ffhq").mkdir()
    for number in range(PEOPLE):
        pixels = photograph(1000 + number, 0, (128, 128))
        Image.fromarray(pixels).save(root / "ffhq" / f"{number:05}.png")


def mnist(root: Path) -> None:
    """Gzipped files in the format of its authors; train and test have the published names."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 200), ("t10k", 100)):
        labels = np.arange(count, dtype=np.uint8) % 10
        pixels = np.stack([photograph(label, n, (28, 28))[..., 0] for n, label in enumerate(labels, count)])
        for kind, values in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
            with gzip.open(folder / f"{part}-{kind}-ubyte.gz", "wb") as file:
                file.write(head + values.tobytes())


def cifar10(root: Path, patch: pytest.MonkeyPatch) -> None:
    """One training and one test batch, whose md5 torchvision is told."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()

    def save(name: str, content: dict[str, object]) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch(first: int) -> dict[str, object]:
        labels = list(range(10)) * 10
        pixels = [photograph(label, first + n, (32, 32)).transpose(2, 0, 1) for n, label in enumerate(labels)]
        return {"data": np.stack(pixels).reshape(len(labels), -1), "labels": labels}

    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    meta = save("batches.meta", {"label_names": names})
    patch.setattr(CIFAR10, "train_list", [save("data_batch_1", batch(0))])
    patch.setattr(CIFAR10, "test_list", [save("test_batch", batch(100))])
    patch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": meta[1]})


def pretrained(name: str, side: int, path: Path) -> None:
    """Initial weights of a target, of 1,000 other classes, as docs/studies.md says how to make them."""
    if name.startswith("torchvision/"):
        net = get_model(name.removeprefix("torchvision/"), weights=None)
    else:
        net = models.build(name, image_shape=(3, side, side), num_classes=1000, seed=3)
    if name == "vgg16":
        net.features.load_state_dict(vgg16_bn(weights=None).features.state_dict())
    calibrate(net, torch.rand(8, 3, side, side, generator=torch.Generator().manual_seed(0)))
    torch.save(net.state_dict(), path)


def evaluator(table: dict[str, Any], split: Split, path: Path) -> None:
    """A trained evaluator, as a parallel training writes it.

    Its layers are random, and its head assigns the class whose private images have the nearest mean in features.
    """
    channels, height, _ = split.image_shape
    side = table.get("size", height)
    public = split.labelled_public if table.get("classes") == "all" else None
    images, labels = split.train.images, split.train.labels
    if public is not None:
        images = torch.cat([images, public.images])
        labels = torch.cat([labels, public.labels + split.num_classes])
    net = models.build(
        table["model"], image_shape=(channels, side, side), num_classes=int(labels.max()) + 1, seed=4
    )
    mean = 0.5 if table.get("normalize") == "0.5" else 0.0
    whole = models.Resized(models.Preprocessed(net, mean=(mean,), std=(mean or 1.0,)), side=side)
    calibrate(whole, images[:: max(1, len(images) // 32)])
    head = models.layer(net, models.head(net))
    assert isinstance(head, nn.Linear)
    found = []
    with models.evaluating(whole), torch.no_grad():
        for batch in torch.split(images, 8):
            with models.observe(whole, (models.FEATURES,)) as seen:
                whole(batch)
            found.append(seen[models.FEATURES].flatten(1))
        features = torch.cat(found)
        scale = features.std()
        centre = features.mean(dim=0)
        means = torch.stack([features[labels == k].mean(dim=0) for k in range(head.out_features)])
        towards = means - centre
        if head.bias is None:  # directions on which the common centre has no part
            common = nn.functional.normalize(centre, dim=0)
            towards -= (towards @ common)[:, None] * common
            head.weight.copy_(nn.functional.normalize(towards))
        else:
            head.weight.copy_(2 * towards / scale**2)
            head.bias.copy_(-(towards**2).sum(dim=1) / scale**2 - head.weight @ centre)
    state = {f"module.{name}": value for name, value in net.state_dict().items()}
    torch.save({"state_dict": state}, path)


def calibrate(net: nn.Module, images: Tensor) -> None:
    """Set the statistics of BatchNorm, without which a deep random network has no finite outputs."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        net.train()(images)
    net.eval()


def stylegan(path: Path) -> None:
    """The generator for FFHQ at its published size, of random weights."""
    write(
        path,
        {"G_ema": official_generator(channels=FFHQ_CHANNELS, latent=512, style=512, layers=8, clamp=256.0)},
    )


COLLECTIONS: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {
    "celeba": lambda root, _: celeba(root),
    "facescrub": lambda root, _: facescrub(root),
    "mnist-half": lambda root, _: mnist(root),
    "cifar10": cifar10,
}


def dry(study: dict[str, Any], root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return a study with other counts and batch sizes and the same networks, and make its files below the root.

    Only counts change, of steps, iterations, images, classes and seeds, and batch sizes; and where its files are.
    """
    found = {**study, "seeds": study["seeds"][:1], "device": "cpu", "classes": 2}
    own = study["data"] if isinstance(study["data"], dict) else {"name": study["data"]}
    COLLECTIONS[own["name"]](root, patch)
    options = dict(own.get("options", {}))
    if own["name"] in ("celeba", "facescrub"):
        options["private"] = PRIVATE
    found["data"] = {**own, "options": options}
    if "public" in own:
        ffhq(root)
        found["data"]["public"] = {**own["public"], "folder": str(root / own["public"]["folder"])}
    split = load(DataSpec.model_validate(found["data"]), str(root))
    if "weights" in study:
        found["weights"] = str(root / "weights.pt")
        pretrained(study["model"], split.image_shape[1], root / "weights.pt")
    found["training"] = shorter(study["training"])
    judge = dict(study["evaluator"])
    if "training" in judge:
        judge["training"] = shorter(judge["training"])
    else:
        judge["weights"] = str(root / "evaluator.pt")
        evaluator(judge, split, root / "evaluator.pt")
    found["evaluator"] = judge
    return {**found, "attacks": [shorter_attack(table, root) for table in study["attacks"]]}


def shorter(training: dict[str, Any]) -> dict[str, Any]:
    later = {"milestones": [1]} if "milestones" in training else {}
    return {**training, "steps": 2, "batch_size": 4, **later}


_COUNTS = {
    "iterations": 1,
    "block_iterations": 1,
    "blocks": 1,
    "images_per_class": 1,
    "restarts": 1,
    "candidates": 2,
    "final_views": 1,
}


def shorter_attack(table: dict[str, Any], root: Path) -> dict[str, Any]:
    known = {field.name for field in dataclasses.fields(attacks.get(table["name"]))}
    found = {**table, **{name: least for name, least in _COUNTS.items() if name in known}}
    for part in ("prior", "surrogates"):
        if part not in table:
            continue
        if "weights" in table[part]:
            if not (root / "ffhq.pkl").exists():
                stylegan(root / "ffhq.pkl")
            found[part] = {**table[part], "weights": str(root / "ffhq.pkl")}
        else:
            found[part] = {**table[part], "steps": 1, "batch_size": 4}
    return found


def in_toml(value: object) -> str:
    """Write a value of a study file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value + '"'
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {in_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(in_toml, value)) + "]"
    return repr(value)
