"""Adversarial robustness: the accuracy of a classifier on images with small adversarial perturbations.

Attacks and settings are those of [YQF25] appendix F.2. FGSM, PGD and BIM come from the Adversarial Robustness Toolbox
(``pip install 'dpmi[robustness]'``), which creates a folder ``.art`` in the user's home at its first import. The
one-pixel attack uses SciPy's differential evolution, because the toolbox has a fixed population of 400 and the appendix
uses 10.
"""

from __future__ import annotations

import logging.config
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import Bounds, differential_evolution
from torch import Tensor, nn

from dpmi.data import ImageSet, blocks
from dpmi.models import evaluating, seeded
from dpmi.progress import Progress

from .accuracy import accuracy
from .intervals import Interval, share_interval

#: Settings of each attack, [YQF25] appendix F.2; pixels are in [0, 1] and the ball is that of the maximum norm.
ATTACKS: dict[str, dict[str, float]] = {
    "fgsm": {"eps": 8 / 255},
    "pgd": {"eps": 8 / 255, "eps_step": 2 / 255, "max_iter": 10, "num_random_init": 1},
    "bim": {"eps": 8 / 255, "eps_step": 2 / 255, "max_iter": 10},
    "one_pixel": {"maxiter": 10, "popsize": 10},
}
BATCH_SIZE = 256
_IMPORTING = threading.Lock()
_Search = Callable[[Tensor, Tensor], Tensor]


class Robustness(NamedTuple):
    """The results of one attack, with 95 % Clopper-Pearson intervals over images."""

    accuracy: Interval
    """Share of images that keep their label under the untargeted attack, 1 - its success rate."""
    targeted: Interval
    """Share of images that get the attacker's label under the targeted attack; it is that of the next class."""


def robustness(
    attack: str, model: nn.Module, data: ImageSet, *, seed: int, progress: Progress | None = None
) -> Robustness:
    """Attack every image twice, untargeted and towards the next class, as in [YQF25] Table 16.

    Images that the model misclassifies anyway count as successes of the attack. The attack does not average over the
    noise of a model that draws noise. The robustness of such a model may be due to gradient masking. The same holds if
    the loss is so small that its gradient is 0.

    Args:
        attack: one of :data:`ATTACKS`.
        model: maps images (n, C, H, W) to logits (n, K); it is not changed.
        data: test images; every label is below K.
        seed: seed of the attack and of a model that draws noise; the global generators do not advance.
        progress: called with (images attacked, all images).

    Raises:
        ValueError: the attack is unknown, a label is not an output of the model, or the logits are not finite.
        RuntimeError: the extra is not installed.
    """
    count = len(data)
    accuracy(model, data.images, data.labels)  # checks the labels
    with evaluating(model), seeded(model, seed), torch.no_grad():
        classes = model(data.images[:1].to(_device(model, data))).shape[1]
    aims = {False: data.labels, True: (data.labels + 1) % classes}
    shares = {}
    for targeted, labels in aims.items():

        def tell(done: int, _: int, before: int = count * targeted) -> None:
            if progress is not None:
                progress(before + done, 2 * count)

        found = perturb(
            attack, model, ImageSet(data.images, labels), targeted=targeted, seed=seed, progress=tell
        )
        shares[targeted] = share_interval(accuracy(model, found, labels), count)
    return Robustness(accuracy=shares[False], targeted=shares[True])


def perturb(
    attack: str,
    model: nn.Module,
    data: ImageSet,
    *,
    targeted: bool = False,
    seed: int,
    progress: Progress | None = None,
) -> Tensor:
    """Return the adversarial images, float32 (N, C, H, W) in [0, 1].

    Args:
        attack: one of :data:`ATTACKS`.
        model: maps images (n, C, H, W) to logits (n, K); a copy in evaluation mode is attacked.
        data: images with their true labels, or with the attacker's labels if ``targeted``.
        targeted: whether the labels are the attacker's.
        seed: as for :func:`robustness`.
        progress: as for :func:`robustness`.

    Raises:
        ValueError: the attack is unknown.
        RuntimeError: the extra is not installed.
    """
    if attack not in ATTACKS:
        raise ValueError(f"attack must be one of {', '.join(ATTACKS)}, got {attack!r}")
    device = _device(model, data)
    victim = deepcopy(model).eval().requires_grad_(False)
    found: list[Tensor] = []
    # Not the seed 0 of accuracy(): the attack must not know the noise of its evaluation.
    with seeded(victim, seed + 1), _toolbox_seeded(seed):
        if attack == "one_pixel":
            search = _one_pixel(victim, targeted, seed)
        else:
            search = _in_the_ball(attack, victim, data.images[:1].to(device), targeted)
        for images, labels in zip(
            blocks(data.images, BATCH_SIZE), torch.split(data.labels, BATCH_SIZE), strict=True
        ):
            found.append(search(images.to(device), labels).cpu())
            if progress is not None:
                progress(sum(map(len, found)), len(data))
    return torch.cat(found)


def check_installed() -> None:
    """Check, before any computation, that the extra is installed.

    Raises:
        RuntimeError: the extra is not installed.
    """
    try:
        version("adversarial-robustness-toolbox")
    except PackageNotFoundError:
        raise RuntimeError(
            "adversarial attacks need a package that is not installed: pip install 'dpmi[robustness]'"
        ) from None


def _in_the_ball(attack: str, victim: nn.Module, image: Tensor, targeted: bool) -> _Search:
    """Return a gradient attack of the toolbox for images of this shape."""
    check_installed()
    with _logging_kept():
        from art.attacks import evasion  # noqa: PLC0415 - an optional package
        from art.estimators.classification import PyTorchClassifier  # noqa: PLC0415

    kinds = {
        "fgsm": evasion.FastGradientMethod,
        "pgd": evasion.ProjectedGradientDescentPyTorch,
        "bim": evasion.BasicIterativeMethod,
    }
    classifier = PyTorchClassifier(
        model=victim,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(image.shape[1:]),
        nb_classes=victim(image).shape[1],
        clip_values=(0.0, 1.0),
        device_type="gpu" if image.is_cuda else "cpu",
    )
    quiet = {} if attack == "fgsm" else {"verbose": False}
    found = kinds[attack](classifier, targeted=targeted, batch_size=BATCH_SIZE, **ATTACKS[attack], **quiet)

    def search(images: Tensor, labels: Tensor) -> Tensor:
        return torch.from_numpy(found.generate(images.cpu().numpy(), labels.numpy()))

    return search


def _one_pixel(victim: nn.Module, targeted: bool, seed: int) -> _Search:
    """Return the one-pixel attack, differential evolution over place and value of a pixel (Su, Vargas, Sakurai 2019).

    Settings that the appendix does not specify are those of torchattacks 3.5: the initial population is random, a trial
    takes all coordinates from a mutant of the best candidate, and the search ends when the attack succeeds.
    """
    settings = ATTACKS["one_pixel"]
    random = np.random.default_rng(seed)

    def search_one(image: Tensor, label: int) -> Tensor:
        channels, height, width = image.shape
        limits = np.array([height, width, *[1] * channels], dtype=np.float64)

        def changed(points: npt.NDArray[np.float64]) -> Tensor:
            rows, columns, *values = points.reshape(2 + channels, -1)
            candidates = image.repeat(len(rows), 1, 1, 1)
            places = [np.minimum(at.astype(int), side - 1) for at, side in ((rows, height), (columns, width))]
            candidates[np.arange(len(rows)), :, places[0], places[1]] = torch.from_numpy(
                np.stack(values, axis=1)
            ).to(image)
            return candidates

        def wrongness(points: npt.NDArray[np.float64], /) -> Any:
            probability = victim(changed(points)).softmax(dim=1)[:, label].double().cpu().numpy()
            return -probability if targeted else probability

        def fooled(point: npt.NDArray[np.float64], convergence: Any) -> Any:
            return (int(victim(changed(point)).argmax()) == label) is targeted

        best = differential_evolution(
            wrongness,
            Bounds(np.zeros_like(limits), limits),
            strategy="best1bin",
            mutation=(0.5, 1.0),
            recombination=1.0,
            maxiter=int(settings["maxiter"]),
            init=random.random((int(settings["popsize"]), len(limits))) * limits,
            atol=-1.0,  # never stop because the candidates are similar
            polish=False,
            vectorized=True,
            updating="deferred",
            callback=fooled,
            seed=random,
        )
        return changed(best.x)[0]

    @torch.no_grad()
    def search(images: Tensor, labels: Tensor) -> Tensor:
        return torch.stack([search_one(x, y) for x, y in zip(images, labels.tolist(), strict=True)])

    return search


def _device(model: nn.Module, data: ImageSet) -> torch.device:
    return next((p.device for p in model.parameters()), data.images.device)


@contextmanager
def _logging_kept() -> Iterator[None]:
    """Import the toolbox without its logging configuration, which would close every handler of the process.

    Only the toolbox's own logger is silenced. Logging configurations by other threads take effect.
    """
    with _IMPORTING:  # with two concurrent imports, one would restore the replacement of the other
        configure, importing = logging.config.dictConfig, threading.get_ident()

        def configure_others(config: Any) -> None:
            if threading.get_ident() == importing:
                logging.getLogger("art").addHandler(logging.NullHandler())
            else:
                configure(config)

        logging.config.dictConfig = configure_others
        try:
            yield
        finally:
            logging.config.dictConfig = configure


@contextmanager
def _toolbox_seeded(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator, from which the toolbox draws PGD's start, and restore it afterwards."""
    state: Any = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
