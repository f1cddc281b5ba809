"""Knowledge extraction score: how well a classifier does that has seen nothing but the reconstructions.

[Struppek, Hintersdorf, Kersting, ICLR 2024]: a student that is trained on what an attack found knows private images
as well as that told it what tells the classes apart. Higher means that more leaked. Published numbers are of ResNet-50
([CALoR]: ResNet-152) and compare for one student only.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR

from dpmi.data import ImageSet
from dpmi.models import seeded

from .accuracy import accuracy
from .distance import check_labelled

#: The recipe of Struppek et al.
LEARNING_RATE = 0.1
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
EPOCHS = 75
BATCH_SIZE = 32


@dataclass(frozen=True)
class KnowledgeExtraction:
    """Accuracies of the student on private images, in [0, 1].

    Args:
        train: on the target's training images: the score of the papers.
        test: on held-out images of the same classes.
    """

    train: float
    test: float


def knowledge_extraction(
    student: nn.Module,
    recons: Tensor,
    labels: Tensor,
    private_train: ImageSet,
    private_test: ImageSet,
    *,
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
) -> KnowledgeExtraction:
    """Train a copy of the student on reconstructions, by SGD with a cosine schedule, and test it on private images.

    The global random generators are put back as they were.

    Args:
        student: untrained, maps images (n, C, H, W) to logits (n, K); it is left as it is.
        recons: float32 (R, C, H, W) in [0, 1].
        labels: int64 (R,) in [0, K), the class that each is meant to show.
        private_train: the target's training images.
        private_test: held-out private images.
        epochs: passes over the reconstructions, at least 1.
        batch_size: reconstructions per step, at least 1.
        learning_rate: above 0, at the start; it falls to 0 at the last step.
        seed: of the order of the reconstructions, and of what the student draws, such as Dropout.

    Raises:
        ValueError: images or labels that do not fit each other or the student, or a setting out of range.
        FloatingPointError: the student's loss is not finite; lower the learning rate.
    """
    check_labelled("recons", recons, labels)
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be above 0 and finite; got {learning_rate}")
    for images, classes in (
        (recons, labels),
        (private_train.images, private_train.labels),
        (private_test.images, private_test.labels),
    ):
        extremes = torch.stack([classes.argmin(), classes.argmax()])
        accuracy(
            student, images[extremes], classes[extremes]
        )  # refuses now what it would refuse after training
    student = copy.deepcopy(student)
    _train(
        student,
        ImageSet(recons, labels),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    return KnowledgeExtraction(
        train=accuracy(student, private_train.images, private_train.labels),
        test=accuracy(student, private_test.images, private_test.labels),
    )


def _train(
    student: nn.Module, data: ImageSet, *, epochs: int, batch_size: int, learning_rate: float, seed: int
) -> None:
    device = next(student.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    batches = math.ceil(len(data) / batch_size)
    optimizer = torch.optim.SGD(
        student.parameters(), lr=learning_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    scheduler = CosineAnnealingLR(optimizer, T_max=epochs * batches)
    student.train()
    with seeded(student, seed), torch.enable_grad():
        for epoch in range(epochs):
            order = torch.randperm(len(data), generator=generator)
            # Of equal size: BatchNorm has no variance of the single image that a cut could leave for the last one.
            for rows in torch.tensor_split(order, batches):
                optimizer.zero_grad()
                images, labels = data.images[rows].to(device), data.labels[rows].to(device)
                loss = F.cross_entropy(student(images), labels)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                scheduler.step()
            if not math.isfinite(loss.item()):
                raise FloatingPointError(
                    f"the student's loss is {loss.item()} after {epoch + 1} of {epochs} epochs; "
                    f"lower learning_rate ({learning_rate})"
                )
