"""Hundreds of wrong folders, tables, functions, classes and weights: exit code 2, one line, nothing left behind.

They are generated from a study that works: a folder of images, a class and a file of weights are spoilt, one way at a
time. The work itself is replaced by an error that says that the study was accepted.

Modules: dpmi/by_name.py, dpmi/data/folder.py, dpmi/data/registry.py, dpmi/data/split.py, dpmi/models/registry.py,
dpmi/models/weights.py, dpmi/study/run.py, dpmi/data/table.py.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from dpmi.study import run, work

from .conftest import Dpmi, is_one_line
from .test_wrong import works

STUDY = """
name = "own"
seeds = [0]
data = {DATA}
model = {MODEL}
training = {{ steps = 2, learning_rate = 0.1 }}
defenses = [{DEFENSE}]
attacks = [{{ name = "enhanced", iterations = 1 }}]
"""
FOLDER, FUNCTION, CLASS = '{ folder = "faces" }', '"data.py:load"', '"net.py:Net"'
PLAIN = '{ name = "none" }'
PRIVATE = (
    '{ name = "class-dp", noise_multiplier = 1.0, sampling_rate = 0.5, max_grad_norm = 1.0, delta = 1e-3 }'
)

SPLIT = """
import torch
from dpmi.data import ImageSet, Split

def split(**changed):
    images = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12) % 2
    parts = {
        "name": "mine", "train": ImageSet(images[:8], labels[:8]), "test": ImageSet(images[8:], labels[8:]),
        "public": torch.empty(0, 3, 8, 8), "class_names": ("a", "b"), "distance": "euclidean", "citation": "me",
    }
    return Split(**{**parts, **changed})

def load():
    return split()
"""
NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(192, num_classes)

    def forward(self, x):
        return self.head(x.flatten(1))
"""
MADE = """
class x(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        """
RAISED = (
    *("ValueError('so')", "KeyError('so')", "RuntimeError('a\\nb')", "SystemExit(0)", "SystemExit(3)"),
    *("ImportError('so')", "MemoryError()", "RecursionError()", "AssertionError()", "StopIteration()"),
    *(
        "OSError(5, 'so')",
        "UnicodeDecodeError('utf-8', b'', 0, 1, 'so')",
        "ZeroDivisionError()",
        "NotImplementedError()",
    ),
)


class Case(NamedTuple):
    """What is spoilt, the study, what is done to the place before, and a word that the message must have."""

    what: str
    text: str
    spoil: Callable[[Path], object]
    word: str


def study(
    *, data: str = FOLDER, model: str = '"softmax"', weights: str | None = None, defense: str = PLAIN
) -> str:
    text = STUDY.format(DATA=data, MODEL=model, DEFENSE=defense)
    return text if weights is None else text + f"weights = {weights}\n"


def nothing(_: Path) -> None:
    pass


def picture(seed: int, *, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    picture(99, size=(32, 32)).save(file, kind)
    return file.getvalue()


def write(name: str, content: bytes | str) -> Callable[[Path], object]:
    code = content.encode() if isinstance(content, str) else content
    return lambda here: (here / name).write_bytes(code)


def png(width: int, height: int) -> bytes:
    """A picture that says it is so large, with no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
        )

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


# --- folders ----------------------------------------------------------------------------------------------------------

KINDS = {"jpg": "JPEG", "png": "PNG", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP", "ppm": "PPM"}


def emptied(name: str) -> Callable[[Path], object]:
    def spoil(here: Path) -> None:
        shutil.rmtree(here / name)
        (here / name).mkdir()

    return spoil


def removed(name: str) -> Callable[[Path], object]:
    return lambda here: shutil.rmtree(here / name)


def kept_only(name: str, number: int) -> Callable[[Path], object]:
    def spoil(here: Path) -> None:
        for file in sorted((here / name).iterdir())[number:]:
            file.unlink()

    return spoil


def linked(name: str, target: str) -> Callable[[Path], object]:
    return lambda here: (here / name).symlink_to(target)


def wrong_folders() -> Iterator[Case]:
    def of(folder: str, spoil: Callable[[Path], object] = nothing, word: str = "") -> Case:
        return Case(
            f"folder {folder}", study(data=f"{{ folder = {folder} }}"), spoil, word or folder.strip('"')
        )

    yield of('"nowhere"')
    yield of('"nowhere/faces"')
    yield of('"faces/a/0.png"')
    yield of('"net.py"')
    yield of('"loop"', linked("loop", "loop"))
    yield of('"dangling"', linked("dangling", "nowhere"))
    yield of('"hollow"', lambda here: (here / "hollow").mkdir())
    yield of('"faces/a"')
    yield of('""', word="folder")
    yield of('"  "', word="folder")
    yield of('"a\\u0000b"', word="folder")
    yield of('"~nobody_here/x"', word="folder")
    yield of(f'"{"x" * 5000}"', word="folder")
    for value in ("3", "1.5", "true", "[]", '["faces"]', "{}", "2020-01-01"):
        yield of(value, word="folder")

    def spoilt(what: str, spoil: Callable[[Path], object], word: str, *, options: str = "") -> Case:
        return Case(what, study(data=f'{{ folder = "faces"{options} }}'), spoil, word)

    yield spoilt("one class", removed("faces/b"), "at least two")
    yield spoilt("no class", emptied("faces"), "at least two")
    yield spoilt("a class without images", emptied("faces/b"), "faces/b")
    yield spoilt("a class with one image", kept_only("faces/b", 1), "b")
    yield spoilt("a class whose only images are hidden", lambda here: [
        file.rename(file.with_name(f".{file.name}")) for file in list((here / "faces/b").iterdir())
    ], "faces/b")  # fmt: skip
    yield spoilt("a class of texts", lambda here: [
        file.rename(file.with_suffix(".txt")) for file in list((here / "faces/b").iterdir())
    ], "faces/b")  # fmt: skip
    yield spoilt("a class that is a loop", linked("faces/c", "c"), "faces/c")
    yield spoilt("a class that leads nowhere", linked("faces/c", "nowhere"), "faces/c")
    yield spoilt("an image that is a folder", lambda here: (here / "faces/a/x.png").mkdir(), "x.png")
    yield spoilt("an image that is a pipe", lambda here: os.mkfifo(here / "faces/a/x.png"), "x.png")
    yield spoilt("an image that is a loop", linked("faces/a/x.png", "x.png"), "x.png")
    yield spoilt("an image that leads nowhere", linked("faces/a/x.png", "nowhere"), "x.png")
    yield spoilt(
        "an image of another size", lambda here: picture(9, size=(9, 8)).save(here / "faces/a/x.png"), "x.png"
    )
    yield spoilt("copies only", lambda here: [
        picture(0).save(file) for file in sorted((here / "faces").rglob("*.png"))
    ], "remove the copies")  # fmt: skip
    for suffix, kind in KINDS.items():
        whole, name = encoded(kind), f"x.{suffix}"
        contents = {
            "empty": b"",
            "text": b"not an image\n" * 9,
            "its first bytes": whole[:20],
            "half": whole[: len(whole) // 2],
            "zeros": bytes(200),
            "spoilt": whole[:8] + bytes(len(whole) - 8),
        }
        for what, content in contents.items():
            for options in ("", ", size = 8"):
                yield spoilt(
                    f"{what} {name}{options}", write(f"faces/a/{name}", content), name, options=options
                )
    for side in (15_000, 100_000, 2**31 - 1):
        for options in ("", ", size = 8"):
            what = f"an image of {side} pixels{options}"
            yield spoilt(what, write("faces/a/x.png", png(side, side)), "x.png", options=options)
    numbers = Image.fromarray(np.linspace(-3, 5, 64, dtype=np.float32).reshape(8, 8))
    yield spoilt("an image of numbers", lambda here: numbers.save(here / "faces/a/x.tif"), "x.tif")
    for name, values in {
        "size": ("0", "-1", "1.5", "nan", "inf", '"x"', '"8"', '""', "true", "{}", "[]", "[8]", "[8, 8, 8]",
                 "[0, 8]", "[8, -1]", "[8, 1.5]", '[8, "8"]', "[true, 8]", "[[8], 8]", "4097", "1000000000",
                 "[8, 100000000]", str(2**70)),
        "test": ("0", "1", "0.0", "1.0", "-1", "-0.2", "2", "1.5", "nan", "-inf", '"x"', '""', "true", "[]",
                 "[0.2]", "{}"),
        "public": ('"nowhere"', '""', '"faces/a/0.png"', '"hollow"', '"a\\u0000b"', "3", "true", "[]", "{}", "nan"),
        "distance": ('"x"', '""', "1", "true", "[]", "nan"),
        "seed": ("-1", "1.5", "nan", '"x"', "true", "[]", "{}"),
        "tests": ("0.2",), "path": ('"x"',), "root": ('"x"',), "name": ('"x"',), "users": ("{ size = 0 }", "3"),
    }.items():  # fmt: skip
        for value in values:
            make = (lambda here: (here / "hollow").mkdir()) if "hollow" in value else nothing
            yield spoilt(f"{name} = {value}", make, name, options=f", {name} = {value}")
    public = ', public = "others"'
    yield spoilt(
        "public without images",
        lambda here: (here / "others/a").mkdir(parents=True),
        "others/a",
        options=public,
    )

    def public_garbage(here: Path) -> None:
        (here / "others").mkdir()
        (here / "others/x.png").write_bytes(b"garbage")

    yield spoilt("public garbage", public_garbage, "x.png", options=public)


# --- code -------------------------------------------------------------------------------------------------------------


def wrong_names(kind: str) -> Iterator[tuple[str, str, Callable[[Path], object], str]]:
    """Names of code, and files with code, that give no function or class."""
    for name in (
        "",
        ":",
        "x:",
        ":x",
        "x:1",
        "a b:c",
        "no_such_module:x",
        "os.nothing:x",
        "net.py:",
        "net.py:Nothing",
    ):
        yield f"{kind} named {name!r}", name, nothing, kind
    yield f"{kind} of no file", "nowhere.py:x", nothing, "nowhere.py"
    yield f"{kind} of a folder", "place.py:x", lambda here: (here / "place.py").mkdir(), "place.py"
    yield f"{kind} of a loop", "loop.py:x", linked("loop.py", "loop.py"), "loop.py"
    yield f"{kind} of a name with a null", "a\\u0000.py:x", nothing, kind
    for what, code in {
        "nothing": "",
        "syntax": "def x(:\n",
        "indentation": "def x():\nreturn 3\n",
        "a null byte": b"x = 3\0\n",
        "Latin-1": "x = 'é'\n".encode("latin-1"),
        "garbage": bytes(range(128, 256)),
        "a number": "x = 3\n",
        "None": "x = None\n",
        "another name": "def y():\n    pass\n",
        "a missing import": "import no_such_module_of_mine\n\ndef x():\n    pass\n",
        "its own import": "from code_of_mine import nothing\n",
        "an end": "import sys\nsys.exit()\n",
        "quit": "quit()\n",
        **{f"raise {error}": f"raise {error}\n" for error in RAISED},
    }.items():
        yield f"{kind} of a file with {what}", "mine.py:x", write("mine.py", code), "mine"


def called(error: str) -> str:
    return f"\ndef x(**_):\n    raise {error}\n"


SPLITS = {
    "name": ("3", "None"),
    "train": ("None", "3", "torch.zeros(8, 3, 8, 8)"),
    "test": ("None", "ImageSet(torch.zeros(2, 1, 8, 8), torch.arange(2))",
             "ImageSet(torch.zeros(1, 3, 8, 8), torch.tensor([2]))"),
    "public": ("None", "torch.zeros(3, 1, 8, 8)", "torch.zeros(3, 3, 8)", "torch.full((1, 3, 8, 8), 2.0)",
               "torch.zeros(1, 3, 8, 8).double()"),
    "class_names": ("()", "('a',)", "None", "('a', 'b', 'c')", "3", "('a', 'a')", "(1, 2)"),
    "distance": ("None", "'x'", "3"),
    "public_labels": ("torch.zeros(0, dtype=torch.int64)",),
}  # fmt: skip
SETS = (
    *("torch.rand(8, 3, 8, 8) * torch.nan", "torch.rand(8, 3, 8, 8) * 2 + 1", "torch.rand(8, 3, 8, 8) - 1"),
    *("torch.rand(8, 3, 8, 8).double()", "torch.zeros(8, 3, 8, 8, dtype=torch.uint8)", "torch.rand(8, 3, 8)"),
    *("torch.rand(0, 3, 8, 8)", "torch.rand(8, 3, 0, 0)", "torch.rand(8, 0, 8, 8)", "None", "[]"),
    *("torch.rand(8, 3, 8, 8).numpy()", "torch.rand(8, 3, 8, 8).to_sparse()", "torch.rand(8, 3, 8, 8, device='meta')"),
)  # fmt: skip
LABELS = (
    *("torch.arange(8)", "torch.arange(8) - 1", "torch.zeros(8)", "torch.arange(7) % 2", "None", "[0, 1] * 4"),
    *("torch.zeros(8, 1, dtype=torch.int64)", "(torch.arange(8) % 2).int()", "torch.full((8,), 2**62)"),
    "torch.zeros(8, dtype=torch.int64)",
)  # fmt: skip


def wrong_functions() -> Iterator[Case]:
    for what, name, spoil, word in wrong_names("data"):
        yield Case(what, study(data=f'"{name}"'), spoil, word)

    def of(what: str, code: str, word: str = "mine", *, data: str = '"mine.py:x"') -> Case:
        return Case(f"data: {what}", study(data=data), write("mine.py", SPLIT + code), word)

    for value in ("None", "3", "()", "{}", "split", "iter([])", "split().train", "torch.zeros(3)"):
        yield of(f"returns {value}", f"\ndef x():\n    return {value}\n")
    for error in RAISED:
        yield of(f"raises {error}", called(error))
    yield of("needs an argument", "\ndef x(size):\n    return split()\n", "size")
    yield of(
        "has no option",
        "\ndef x():\n    return split()\n",
        "seed",
        data='{ name = "mine.py:x", options = { seed = 1 } }',
    )
    yield of("is asynchronous", "\nasync def x():\n    return split()\n")
    yield of("is a generator", "\ndef x():\n    yield split()\n")
    yield of("is a class", "\nclass x:\n    pass\n")
    for name, values in SPLITS.items():
        for value in values:
            yield of(f"{name} = {value}", f"\ndef x():\n    return split({name}={value})\n")
    for value in SETS:
        yield of(
            f"images {value}", f"\ndef x():\n    return split(train=ImageSet({value}, torch.arange(8) % 2))\n"
        )
    for value in LABELS:
        code = f"\ndef x():\n    return split(train=ImageSet(split().train.images, {value}))\n"
        yield of(f"labels {value}", code)
    yield of(
        "changed afterwards",
        "\ndef x():\n    y = split()\n    y.train.images.fill_(torch.nan)\n    return y\n",
    )
    yield of(
        "one image twice",
        "\ndef x():\n    return split(test=ImageSet(split().train.images, split().train.labels))\n",
    )
    parts = "train=ImageSet(y.train.images[:4], z), test=ImageSet(y.test.images, z)"
    yield of(
        "one class",
        "\ndef x():\n    y, z = split(), torch.zeros(4, dtype=torch.int64)\n"
        f"    return split({parts}, class_names=('a',))\n",
    )


NETS = {
    "needs an argument": "self, size, num_classes",
    "needs another": "self, num_classes, *, width",
}
OUTPUTS = (
    *("x", "x.flatten(1)", "None", "3", "()", "(h, h)", "{'logits': h}", "h[:, :1]", "h[:1]", "h.T", "h.sum()", "h[0]"),
    *("h.unsqueeze(2)", "torch.cat([h, h], 1)", "h * torch.nan", "h / 0", "h - torch.inf", "h.detach()", "h.bool()"),
    *("h.long()", "h.argmax(1)", "h.to(torch.complex64)", "h.to('meta')", "h.numpy()", "h.tolist()", "h.to_sparse()"),
    "torch.zeros(len(x), 2)",
)  # fmt: skip
BODIES = (
    *("self.missing(x)", "x.view(2, 192)", "x.view(2, -1)", "x.squeeze(0).flatten(1)", "torch.zeros(2, 5)", "x @ x"),
    *("x.cuda()" if not torch.cuda.is_available() else "x.to('mps')", "x.flatten(1).double()", "x.flatten(1).numpy()"),
)  # fmt: skip


def wrong_classes() -> Iterator[Case]:
    for what, name, spoil, word in wrong_names("model"):
        yield Case(what, study(model=f'"{name}"'), spoil, word)
    for name in (
        "softmax+",
        "torchvision/",
        "torchvision/no_such",
        "net.py:Net+",
        "net.py:Net +groupnorm",
        "+groupnorm",
    ):
        yield Case(f"model {name!r}", study(model=f'"{name}"'), nothing, name)

    def of(what: str, code: str, *, defense: str = PLAIN, word: str = "mine.py:x") -> Case:
        return Case(
            f"model: {what}", study(model='"mine.py:x"', defense=defense), write("mine.py", code), word
        )

    for value in (
        "None",
        "3",
        "Net",
        "nn.Linear",
        "[]",
        "lambda x: x",
        "torch.zeros(2, 2)",
        "nn.Parameter(torch.zeros(2))",
    ):
        yield of(f"returns {value}", f"{NET}\ndef x():\n    return {value}\n")
    for error in RAISED:
        yield of(f"raises {error}", NET + called(error))
        yield of(
            f"raises {error} later",
            f"{NET}\nclass x(Net):\n    def forward(self, _):\n        raise {error}\n",
        )
    for what, parameters in NETS.items():
        yield of(
            what,
            f"{NET}\nclass x(Net):\n    def __init__({parameters}):\n        super().__init__(num_classes)\n",
        )
    yield of("is no module", "class x:\n    def __call__(self, x):\n        return x\n")
    yield of(
        "forgets super",
        "from torch import nn\n\nclass x(nn.Module):\n    def __init__(self):\n        self.y = nn.Linear(2, 2)\n",
    )
    yield of("has no forward", "from torch import nn\n\nclass x(nn.Module):\n    pass\n")
    yield of("is abstract", "import abc\nfrom torch import nn\n\nclass x(nn.Module, abc.ABC):\n"
             "    @abc.abstractmethod\n    def y(self): ...\n")  # fmt: skip
    for value in OUTPUTS:
        code = f"\nclass x(Net):\n    def forward(self, x):\n        h = super().forward(x)\n        return {value}\n"
        yield of(f"its forward returns {value}", NET + code)
    for value in BODIES:
        yield of(
            f"computes {value}",
            f"{NET}\nclass x(Net):\n    def forward(self, x):\n        return self.head({value})\n",
        )
    for what, change in {
        "has no parameters": "self.head = lambda x: x[:, :num_classes]",
        "has frozen parameters": "self.requires_grad_(False)",
        "is of float64": "self.double()",
        "is of complex64": "self.head.weight = nn.Parameter(self.head.weight.to(torch.complex64))",
        "has no memory": "self.to('meta')",
        "has NaN": "nn.init.constant_(self.head.weight, torch.nan)",
        "has inf": "nn.init.constant_(self.head.bias, torch.inf)",
        "is lazy": "self.other = nn.LazyLinear(3)",
        "has another input": "self.head = nn.Linear(64, num_classes)",
        "has one class": "self.head = nn.Linear(192, 1)",
    }.items():
        yield of(what, f"{NET}{MADE}{change}\n")
    yield of("fails in training", f"{NET}\nclass x(Net):\n    def forward(self, x):\n        assert not self.training\n"
             "        return super().forward(x)\n")  # fmt: skip
    for what, layers in {
        "head.0": "nn.BatchNorm1d(192), self.head",
        "head.1": "nn.Unflatten(1, (3, 64)), nn.InstanceNorm1d(3, track_running_stats=True), nn.Flatten(), self.head",
    }.items():
        yield of(
            f"statistics in {what} with DP",
            f"{NET}{MADE}self.head = nn.Sequential({layers})\n",
            defense=PRIVATE,
            word=what,
        )


# --- weights ----------------------------------------------------------------------------------------------------------


class Executed:
    """Unpickled, it writes a file."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def saved(content: object, name: str = "x.pt") -> Callable[[Path], object]:
    return lambda here: torch.save(content, here / name)


def wrong_weights() -> Iterator[Case]:
    def of(
        what: str, spoil: Callable[[Path], object], name: str = "x.pt", *, model: str = CLASS, word: str = ""
    ) -> Case:
        return Case(f"weights: {what}", study(model=model, weights=f'"{name}"'), spoil, word or name)

    yield of("missing", nothing)
    yield of("unnamed", nothing, "", word="weights")
    yield of("a null", nothing, "a\\u0000b.pt", word="weights")
    yield of("torchvision", nothing, "torchvision", word="weights")
    yield of("a long name", nothing, "x" * 5000, word="weights")
    yield of("a folder", lambda here: (here / "x.pt").mkdir())
    yield of("a loop", linked("x.pt", "x.pt"))
    yield of("the class", nothing, "net.py")
    state = {"head.weight": torch.zeros(2, 192), "head.bias": torch.zeros(2)}
    whole = io.BytesIO()
    torch.save(state, whole)
    for what, content in {
        "empty": b"",
        "text": b"not weights\n",
        "garbage": bytes(range(256)) * 9,
        "half": whole.getvalue()[: len(whole.getvalue()) // 2],
        "all but the end": whole.getvalue()[:-9],
        "the beginning": whole.getvalue()[:100],
        "spoilt": whole.getvalue()[:200] + bytes(200) + whole.getvalue()[400:],
        "a pickle": pickle.dumps({"head.weight": 3}),
        "a pickle with code": pickle.dumps(Executed()),
    }.items():
        yield of(what, write("x.pt", content))
        yield of(f"{what}.safetensors", write("x.safetensors", content), "x.safetensors")
    yield of("a folder.safetensors", lambda here: (here / "x.safetensors").mkdir(), "x.safetensors")
    yield of("missing.safetensors", nothing, "x.safetensors")
    yield of("weights.safetensors of torch", saved(state, "x.safetensors"), "x.safetensors")
    for what, content in {
        "code": Executed(),
        "code inside": {**state, "x": Executed()},
        "a whole module": torch.nn.Linear(192, 2),
        "a number": 3,
        "None": None,
        "a tensor": torch.zeros(3),
        "a list": [torch.zeros(3)],
        "nothing": {},
        "a number inside": {**state, "head.bias": 3},
        "None inside": {**state, "head.bias": None},
        "an empty state": {"state_dict": {}},
        "numbers as keys": {0: torch.zeros(2, 192), 1: torch.zeros(2)},
        "no bias": {"head.weight": torch.zeros(2, 192)},
        "one more": {**state, "x": torch.zeros(1)},
        "another architecture": torch.nn.Conv2d(3, 4, 3).state_dict(),
        "another input": {**state, "head.weight": torch.zeros(2, 64)},
        "another bias": {**state, "head.bias": torch.zeros(3)},
        "transposed": {**state, "head.weight": torch.zeros(192, 2)},
        "a scalar": {**state, "head.bias": torch.zeros(())},
        "NaN": {**state, "head.weight": torch.full((2, 192), torch.nan)},
        "inf": {**state, "head.bias": torch.tensor([0.0, torch.inf])},
        "beyond float32": {**state, "head.bias": torch.tensor([0.0, 1e300], dtype=torch.float64)},
        "complex": {key: value.to(torch.complex64) for key, value in state.items()},
        "integers": {key: value.long() for key, value in state.items()},
        "booleans": {key: value.bool() for key, value in state.items()},
        "sparse": {**state, "head.weight": torch.eye(2, 192).to_sparse()},
        "no memory": {key: value.to("meta") for key, value in state.items()},
        "quantised": {
            **state,
            "head.weight": torch.quantize_per_tensor(torch.zeros(2, 192), 0.1, 0, torch.qint8),
        },
    }.items():
        yield of(what, saved(content))
    for value in ("3", "true", "[]", "{}", "nan"):
        yield Case(f"weights = {value}", study(model=CLASS, weights=value), nothing, "weights")


TABLE = "place,age,plan,owner\n" + "".join(
    f"{'ab'[row % 2]},{20 + row},{('basic', 'pro')[row % 3 % 2]},u{row % 7}\n" for row in range(40)
)


def wrong_tables() -> Iterator[Case]:
    """Files that are no table, columns that are not there, values that are missing, and options out of range."""

    def of(what: str, content: bytes | str, word: str, *, options: str = "", file: str = "t.csv") -> Case:
        data = f'{{ table = "{file}", label = "place"{options} }}'
        return Case(what, study(data=data), write(file, content), word)

    def cell(column: int, value: str, *, row: int = 5) -> str:
        lines = [line.split(",") for line in TABLE.splitlines()]
        lines[row][column] = value
        return "\n".join(map(",".join, lines)) + "\n"

    def column(number: int, value: str) -> str:
        lines = [line.split(",") for line in TABLE.splitlines()]
        for line in lines[1:]:
            line[number] = value
        return "\n".join(map(",".join, lines)) + "\n"

    for what, content in {
        "empty": b"",
        "blank lines": b"\n\n\n",
        "header only": b"place,age\n",
        "zeros": bytes(4096),
        "all bytes": bytes(range(256)) * 4,
        "utf-16": TABLE.encode("utf-16"),
        "a picture": encoded("png"),
        "ragged": TABLE + "a,1,basic,u1,more,and,more\n",
        "open quote": TABLE + '"a,1,basic\n',
    }.items():
        yield of(f"csv: {what}", content, "t.csv")
    for what, content in {
        "empty": b"",
        "magic": b"PAR1PAR1",
        "text": TABLE.encode(),
        "cut": b"PAR1" + bytes(99),
    }.items():
        yield of(f"parquet: {what}", content, "t.parquet", file="t.parquet")
    for file in ("t.txt", "t.xlsx", "t", "t.csv.zip"):
        yield of(f"suffix {file}", TABLE, "must end in .csv or .parquet", file=file)
    for what, content, word in (
        ("label missing in a row", cell(0, ""), "record 4 has no place"),
        ("number missing", cell(1, ""), "column 'age'"),
        ("number infinite", cell(1, "inf"), "column 'age'"),
        ("number nan", cell(1, "nan"), "column 'age'"),
        ("all numbers missing", column(1, ""), "column 'age'"),
        ("category missing", cell(2, ""), "column 'plan'"),
        ("one class", column(0, "a"), "at least two values"),
        ("no label", TABLE.replace("place", "spot"), "label is 'place'"),
        ("label only", "place\n" + "a\nb\n" * 20, "no column besides"),
        ("a class in one row", cell(0, "c"), "class 'c'"),
        ("two columns of one name", TABLE.replace("plan", "age"), ""),
        ("equal rows", "place,age\n" + "a,1\nb,1\n" * 20, "equals a row of the train part"),
        (
            "free text",
            "place,text\n" + "".join(f"{'ab'[r % 2]},word{r}\n" for r in range(240)),
            "different texts",
        ),
    ):
        if word:
            yield of(what, content, word)
    for option, value, word in (
        *(("unit", value, "unit") for value in ('"nobody"', '"place"', "3", "true", "[]")),
        *(("test", value, "test") for value in ("0.0", "1.0", "-0.2", "nan", "inf", '"x"', "true", "[0.2]")),
        *(("public", value, "public") for value in ('"none.csv"', '"."', '""', "3", '"study.toml"')),
        *(("seed", value, "seed") for value in ("-1", "1.5", '"x"')),
        *(("labels", value, "labels") for value in ("3", '"place"')),
        ("size", "[8, 8]", "size"),
    ):
        yield of(f"{option} = {value}", TABLE, word, options=f", {option} = {value}")
    for table in ('"none.csv"', '"."', '""', "3", "true", "[]", '"study.toml"'):
        yield Case(
            f"table = {table}", study(data=f'{{ table = {table}, label = "place" }}'), nothing, "table"
        )
    for label in ('"none"', '""', "3", "[]", '"Place"'):
        data = f'{{ table = "t.csv", label = {label} }}'
        yield Case(f"label = {label}", study(data=data), write("t.csv", TABLE), "label")
    yield Case("no label given", study(data='{ table = "t.csv" }'), write("t.csv", TABLE), "label")
    yield of("a model of pictures", TABLE, "cnn")._replace(
        text=study(data='{ table = "t.csv", label = "place" }', model='"cnn"')
    )


def wrong_checkpoints() -> Iterator[Case]:
    """The wrong weights, as those of a trained model, and what a study of one may not have."""
    head = {"head.weight": torch.zeros(2, 192), "head.bias": torch.zeros(2)}

    def given(text: str) -> str:
        lines = [line for line in text.splitlines() if not line.startswith(("training", "defenses"))]
        return "\n".join(line.replace("weights =", "checkpoint =") for line in lines) + "\n"

    for case in wrong_weights():
        if "weights = " in case.text and "checkpoint" not in case.what:
            word = "checkpoint" if case.what.startswith(("weights = ", "weights: unnamed")) else case.word
            yield case._replace(what=f"checkpoint: {case.what}", text=given(case.text), word=word)
    text = given(study(model=CLASS, weights='"x.pt"'))
    trained = saved(head)
    yield Case("it recognises nothing", text, trained, "recognises")
    yield Case(
        "it is trained too", text + "training = { steps = 2, learning_rate = 0.1 }\n", trained, "training"
    )
    for line, word in (
        *((f"normalize = {value}", "normalize") for value in ("3", '"x"', "{}", "[]", "{ mean = [0.5] }")),
        *(
            (f"normalize = {{ mean = [{m}], std = [{s}] }}", "normalize")
            for m, s in (("0", "0"), ("nan", "1"), ("0, 0", "1"))
        ),
        ("normalize = { mean = [0.0, 0.0], std = [1.0, 1.0] }", "normalize has 2 means"),
        *((f"outputs = {value}", "outputs") for value in ('"labels"', "3", '"probabilities"')),
        *((f"device = {value}", "device") for value in ('"cuda:99"', '"gpu"', "3")),
        *((f"classes = {value}", "classes") for value in ("0", "1", "3", "1.5", '"all"')),
        *(
            (f"linkage = {value}", "linkage")
            for value in ("{}", "{ drawn = false }", "{ drawn = false, private = 2 }")
        ),
    ):
        yield Case(
            f"given, {line}",
            f"{text}{line}\n" if "normalize" in line else f'{text}normalize = "none"\n{line}\n',
            trained,
            word,
        )


# --- the tests --------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, a class and a function that work, where no study comes as far as to be computed."""

    def accept(*_: object, **__: object) -> None:
        raise ValueError("ACCEPTED")

    monkeypatch.setitem(run.__globals__, "compute", accept)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    whole = tmp_path / "whole"
    for label in "ab":
        (whole / "faces" / label).mkdir(parents=True)
        for index in range(4):
            picture(ord(label) + 5 * index).save(whole / "faces" / label / f"{index}.png")
    (whole / "net.py").write_text(NET)
    (whole / "data.py").write_text(SPLIT)
    return whole


def outcome_of(case: Case, here: Path, dpmi: Dpmi, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[str]]:
    """Run the study in ``here``; also return what it left there."""
    case.spoil(here)
    (here / "study.toml").write_text(case.text, encoding="utf-8")
    monkeypatch.chdir(here)
    before = sorted(here.rglob("*"))
    work._load.cache_clear()  # a process of its own has no data yet
    outcome = dpmi("run", "study.toml", "--out", "out", "--workers", "1")
    return outcome, [str(path.relative_to(here)) for path in sorted(here.rglob("*")) if path not in before]


@pytest.mark.parametrize(
    "text",
    [
        study(),
        study(data=FUNCTION, model=CLASS),
        study(model=CLASS, weights='"x.pt"'),
        study(defense=PRIVATE),
    ],
)
def test_what_is_spoilt_works_before(
    place: Path, dpmi: Dpmi, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    weights = saved({"head.weight": torch.zeros(2, 192), "head.bias": torch.zeros(2)})
    outcome, _ = outcome_of(Case("", text, weights, ""), place, dpmi, monkeypatch)
    assert works(outcome), outcome


def test_the_pickle_with_code_would_do_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Executed()))
    assert [path.name for path in tmp_path.iterdir()] == ["executed"]


@pytest.mark.parametrize(
    "generate",
    [wrong_folders, wrong_functions, wrong_classes, wrong_weights, wrong_tables, wrong_checkpoints],
)
def test_what_is_wrong(
    place: Path, dpmi: Dpmi, monkeypatch: pytest.MonkeyPatch, generate: Callable[[], Iterator[Case]]
) -> None:
    wrong = []
    cases = list(generate())
    for number, case in enumerate(cases):
        here = place.parent / f"{generate.__name__}{number}"
        shutil.copytree(place, here)
        outcome, left = outcome_of(case, here, dpmi, monkeypatch)
        if outcome.code != 2 or not is_one_line(outcome) or "ACCEPTED" in outcome.err:
            wrong.append((case.what, outcome.code, outcome.err[-300:]))
        elif outcome.out or left:
            wrong.append((case.what, outcome.out, left))
        elif case.word not in outcome.err:
            wrong.append((case.what, case.word, outcome.err))
        shutil.rmtree(here)
    assert not wrong, "\n".join(map(str, wrong))
    assert len({case.what for case in cases}) == len(cases) > 60
