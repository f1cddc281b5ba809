"""Registry of the classifiers, and their construction by name with seeded weights.

>>> names()[:4], REGISTRY.get("cnn-small").smallest_side
(['cnn', 'cnn-tanh', 'cnn-small', 'cnn-compact'], 2)
"""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Callable, Collection, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import torch
from opacus.validators import ModuleValidator
from torch import nn
from torch.nn.parameter import is_lazy

from accountants.plugins import Registry, origin, told
from dpmi.by_name import code_of, imported, is_name

from .classifiers import ImageShape, cnn, cnn_compact, cnn_small, linear, mlp, softmax, softmax_normalized
from .faces import cnn_faces, improved_residual
from .papers import lenet3, mcnn, resnet34, scnn, vgg16
from .vision import PREFIX, check_torchvision, torchvision_classifier

GROUPNORM = "+groupnorm"
"""Suffix of a model's name that replaces BatchNorm by GroupNorm, which does not couple records."""


class Architecture(NamedTuple):
    """A classifier of the registry.

    Args:
        name: the name for :func:`build`.
        description: one line, for listings.
        smallest_side: smallest accepted side of images, in pixels.
        layers: maps (C, H, W) and the number of classes to the untrained module; the weights come from torch's default
            generator, which :func:`build` seeds.
    """

    name: str
    description: str
    smallest_side: int
    layers: Callable[[ImageShape, int], nn.Module]

    def fits(self, image_shape: tuple[int, ...]) -> bool:
        """Whether it accepts images (C, H, W)."""
        return _is_image_shape(image_shape) and min(image_shape[1:]) >= self.smallest_side


REGISTRY: Registry[Architecture] = Registry(
    "dpmi.models",
    "model",
    Architecture,
    (
        Architecture(
            "cnn",
            "two convolutions, two fully connected layers, ReLU (28x28: MNIST)",
            14,
            partial(cnn, activation=nn.ReLU),
        ),
        Architecture(
            "cnn-tanh",
            "cnn with Tanh, more accurate under DP-SGD (Papernot et al.)",
            14,
            partial(cnn, activation=nn.Tanh),
        ),
        Architecture("cnn-small", "two convolutions, two fully connected layers (8x8: digits)", 2, cnn_small),
        Architecture(
            "cnn-compact",
            "two convolutions, two fully connected layers, few parameters for noisy gradients",
            8,
            cnn_compact,
        ),
        Architecture("softmax", "softmax regression", 1, softmax),
        Architecture(
            "linear", "softmax regression without bias, from zero: a head on public features", 1, linear
        ),
        Architecture(
            "softmax-normalized",
            "softmax regression on images of mean 0 and variance 1",
            1,
            softmax_normalized,
        ),
        Architecture("mlp", "one hidden layer of 3,000 sigmoid units (Fredrikson et al.)", 1, mlp),
        Architecture(
            "cnn-faces", "four convolutions with GroupNorm (56x46, 70x60: grey faces)", 16, cnn_faces
        ),
        Architecture("lenet3", "two convolutions, two fully connected layers (28x28: GMI)", 4, lenet3),
        Architecture("mcnn", "three convolutions, BatchNorm (32x32: target of KED-MI and BiDO)", 32, mcnn),
        Architecture("scnn", "five convolutions, BatchNorm (32x32: evaluator of KED-MI and BiDO)", 32, scnn),
        Architecture("vgg16", "VGG16 with BatchNorm and one head (64x64: faces)", 32, vgg16),
        Architecture("resnet34", "ResNet-34 with an embedding (64x64: faces, VMI)", 16, resnet34),
        Architecture(
            "ir152",
            "improved residual network, 152 layers (64x64: faces)",
            16,
            partial(improved_residual, blocks=(3, 8, 36, 3)),
        ),
        Architecture(
            "facenet64",
            "improved residual network, 50 layers (64x64: faces)",
            16,
            partial(improved_residual, blocks=(3, 4, 14, 3)),
        ),
        Architecture(
            "facenet112",
            "improved residual network, 50 layers (112x112: faces, evaluator)",
            112,
            partial(improved_residual, blocks=(3, 4, 14, 3)),
        ),
    ),
)
"""The models by name: the built-in models and those of installed packages."""

names = REGISTRY.names
"""The names of dpmi's own models and those of installed packages; :func:`build` also accepts torchvision's."""


def check_name(name: str) -> None:
    """Raise an error for a name that :func:`build` does not accept.

    Raises:
        ValueError: the name is unknown; the message names the nearest ones.

    >>> check_name("torchvision/resnet18+groupnorm")  # nothing is built
    >>> try:
    ...     check_name("sofmax")
    ... except ValueError as error:
    ...     print(str(error).partition(" (")[0])
    unknown model 'sofmax'; did you mean 'softmax'?
    """
    own = name.removesuffix(GROUPNORM)
    if own.startswith(PREFIX):
        check_torchvision(own)
    elif is_name(own):
        imported(own)
    elif own not in names():
        near = difflib.get_close_matches(own, names(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"unknown model {name!r}{hint} (known: {', '.join(names())}; torchvision models as {PREFIX}resnet18; your "
            f"own as module:name or FILE.py:name; any name with the suffix {GROUPNORM})"
        )


def origins(name: str) -> list[str]:
    """Return the package of a model, as given by :func:`accountants.plugins.origin`; empty for dpmi's own models.

    A model of the user is identified by a hash of its file, too.

    Args:
        name: a name that :func:`build` accepts.

    >>> origins("cnn-small"), origins("torchvision/resnet18")
    ([], [])
    """
    own = name.removesuffix(GROUPNORM)
    if own.startswith(PREFIX):
        return []
    if is_name(own):
        return [code_of(own)]
    return sorted({origin(REGISTRY.get(own).layers)} - {""})


def build(
    name: str,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    seed: int,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> nn.Module:
    """Build a classifier that maps images ``(n, C, H, W)`` in [0, 1] to logits ``(n, num_classes)``.

    Args:
        name: one of :func:`names`, or ``torchvision/`` and the name of a torchvision classifier, such as
            ``torchvision/vit_b_16``; or a class or function of the user, ``module:name`` or ``FILE.py:name``, which is
            called with those of ``image_shape`` and ``num_classes`` that it takes, by these names. The suffix
            ``+groupnorm`` replaces every BatchNorm by GroupNorm.
        image_shape: (C, H, W).
        num_classes: K, at least 2.
        seed: seed of the initial weights; the global generators are neither read nor advanced.
        options: further arguments of a class or function of the user.

    Returns:
        A module on the CPU, in training mode; its last linear layer is the classification head.

    Raises:
        ValueError: the name is unknown, there are fewer than two classes, the model does not accept the image size or
            an option, or options are given for another model than one of the user.

    >>> model = build("softmax", image_shape=(1, 8, 8), num_classes=10, seed=0)
    >>> sum(p.numel() for p in model.parameters())
    650
    """
    check_name(name)
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2; got {num_classes}")
    own = name.removesuffix(GROUPNORM)
    check_options(name, options)
    if own.startswith(PREFIX):
        if not _is_image_shape(image_shape):
            raise ValueError(f"model {name!r} needs images (C, H, W); got image_shape={tuple(image_shape)}")
        layers: Callable[[ImageShape, int], nn.Module] = partial(torchvision_classifier, own)
    elif is_name(own):
        layers = partial(_of_user, own, options)
    else:
        layers = _fitting(own, image_shape).layers
    # torch.manual_seed would also seed the GPUs, which this fork does not restore.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        with REGISTRY.calling(own):
            model = layers(image_shape, num_classes)
        if name.endswith(GROUPNORM):
            model = ModuleValidator.fix(model)
        # In channels_last, convolutions with few channels train 1.6 to 2.6 times as fast on a CPU.
        return model.to(memory_format=torch.channels_last)


def check_options(name: str, options: Collection[str]) -> None:
    """Raise an error for options of a model that takes none.

    Raises:
        ValueError: there are options, and the model is not one of the user.

    >>> check_options("net.py:Net", {"width"})  # the file is read when it is built
    >>> try:
    ...     check_options("softmax", {"width"})
    ... except ValueError as error:
    ...     print(str(error).partition(";")[0])
    model 'softmax' takes no options, but got width
    """
    if options and not is_name(name.removesuffix(GROUPNORM)):
        raise ValueError(
            f"model {name!r} takes no options, but got {', '.join(options)}; only a model of your own takes some"
        )


def _of_user(name: str, options: Mapping[str, Any], image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Build a classifier of the user, and check that it maps such images to logits."""
    make = imported(name)
    known = {"image_shape": image_shape, "num_classes": num_classes}
    try:
        parameters = inspect.signature(make).parameters
        model = make(**{key: value for key, value in known.items() if key in parameters}, **options)
        if not isinstance(model, nn.Module):
            raise TypeError(f"it returned a {type(model).__name__}, and no nn.Module")
        with torch.no_grad():
            for images in (2, 1):
                _logits(model.eval(), images, image_shape, num_classes)
        for parameter, value in model.named_parameters():
            if is_lazy(value):
                raise ValueError(f"its parameter {parameter!r} has no shape, because no batch reaches it")
        trained = copy.deepcopy(model).train()  # a forward pass would change statistics of batches
        if not _logits(trained, 3, image_shape, num_classes).requires_grad:
            raise ValueError("its logits do not depend on a parameter that requires a gradient")
    except (Exception, SystemExit) as error:  # the code of the user may raise anything
        raise ValueError(
            f"model {name!r} cannot be built for images {tuple(image_shape)} and {num_classes} classes: {told(error)}"
        ) from error
    return model.train()


def _logits(model: nn.Module, images: int, image_shape: ImageShape, num_classes: int) -> torch.Tensor:
    """Return the logits of black images; raise a ValueError if they are none."""
    found = model(torch.zeros(images, *image_shape))
    shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
    if shape != (images, num_classes):
        raise ValueError(
            f"it must map {images} images to logits of shape ({images}, {num_classes}); got {shape}"
        )
    if found.dtype != torch.float32 or found.device.type != "cpu" or found.layout != torch.strided:
        raise ValueError(f"its logits must be float32 on the CPU; got {found.dtype} on {found.device}")
    if not found.isfinite().all():
        raise ValueError(f"its logits of black images must be finite; got {found[0].tolist()}")
    return cast("torch.Tensor", found)


def _fitting(name: str, image_shape: ImageShape) -> Architecture:
    """Return the model if it accepts such images; raise an error otherwise."""
    model = REGISTRY.get(name)
    if not model.fits(image_shape):
        fitting = [other.name for other in REGISTRY.builtins if other.fits(image_shape)]
        raise ValueError(
            f"model {name!r} needs images (C, H, W) with H and W at least {model.smallest_side}; "
            f"got image_shape={tuple(image_shape)}, which fits {', '.join(fitting) or 'no model'}"
        )
    return model


def _is_image_shape(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and min(shape) >= 1
