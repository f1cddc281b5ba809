"""Knowledge extraction score [SHK24]: the accuracy of a student that is trained on the reconstructions alone.

The student's accuracy on private images shows how much of the differences between the classes the reconstructions
reveal. A higher score means more leakage. Published scores use ResNet-50 ([YQF25]: ResNet-152); scores are comparable
only for the same student.
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

#: The training recipe of [SHK24].
LEARNING_RATE = 0.1
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
EPOCHS = 75
BATCH_SIZE = 32


@dataclass(frozen=True)
class KnowledgeExtraction:
    """Accuracies of the student on private images, in [0, 1].

    Args:
        train: accuracy on the target's training images, the score of the papers.
        test: accuracy on held-out images of the same classes.

    >>> images = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]).view(2, 1, 2, 2)
    >>> private = ImageSet(images, torch.tensor([0, 1]))
    >>> student = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> knowledge_extraction(student, images, private.labels, private, private)
    KnowledgeExtraction(train=1.0, test=1.0)
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

    The global random generators are restored afterwards.

    Args:
        student: untrained, maps images (n, C, H, W) to logits (n, K); it is not changed.
        recons: float32 (R, C, H, W) in [0, 1].
        labels: int64 (R,) in [0, K), the attacked class of each.
        private_train: the target's training images.
        private_test: held-out private images.
        epochs: passes over the reconstructions, at least 1.
        batch_size: reconstructions per step, at least 1.
        learning_rate: initial learning rate, above 0; it decays to 0 at the last step.
        seed: seed of the order of the reconstructions, and of the student's own draws, such as Dropout.

    Raises:
        ValueError: images, labels and student do not fit, or a setting is out of range.
        FloatingPointError: the student's loss is not finite; lower the learning rate.

    >>> from dpmi import data, models
    >>> digits = data.load("digits")
    >>> student = models.build("softmax", image_shape=digits.image_shape, num_classes=10, seed=0)
    >>> recons, labels = digits.train.images[:100], digits.train.labels[:100]  # in place of reconstructions
    >>> found = knowledge_extraction(student, recons, labels, digits.train, digits.test, epochs=5)
    >>> found.test > 0.5
    True
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
        # Raises an error now that would otherwise occur after training.
        accuracy(student, images[extremes], classes[extremes])
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
            # Batches of equal size, because BatchNorm fails on a last batch of a single image.
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
