"""Small classifiers without BatchNorm.

BatchNorm couples the records of a batch: the gradient of a bucket would depend on the records of other buckets.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

ImageShape = tuple[int, int, int]

#: Hidden units of the multilayer perceptron in M. Fredrikson, S. Jha, T. Ristenpart, CCS 2015.
FREDRIKSON_HIDDEN_UNITS = 3000


def cnn(image_shape: ImageShape, num_classes: int, activation: type[nn.Module]) -> nn.Sequential:
    """Return two convolutions and two fully connected layers; 26,010 parameters for (1, 28, 28) and 10 classes.

    The network for DP-SGD on MNIST of N. Papernot et al., "Tempered Sigmoid Activations for Deep Learning with
    Differential Privacy", AAAI 2021, and of Opacus's MNIST example. Papernot et al. find that the bounded Tanh keeps
    gradients small and loses less accuracy to clipping than ReLU.
    """
    body = [
        nn.Conv2d(image_shape[0], 16, kernel_size=8, stride=2, padding=3),
        activation(),
        nn.MaxPool2d(kernel_size=2, stride=1),
        nn.Conv2d(16, 32, kernel_size=4, stride=2),
        activation(),
        nn.MaxPool2d(kernel_size=2, stride=1),
        nn.Flatten(),
    ]
    return nn.Sequential(
        *body, nn.Linear(width(body, image_shape), 32), activation(), nn.Linear(32, num_classes)
    )


def cnn_small(image_shape: ImageShape, num_classes: int) -> nn.Sequential:
    """Return two convolutions and two fully connected layers for images as small as 8x8."""
    body = [
        nn.Conv2d(image_shape[0], 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    ]
    return nn.Sequential(
        *body, nn.Linear(width(body, image_shape), 64), nn.ReLU(), nn.Linear(64, num_classes)
    )


class Affine(nn.Module):
    """x * scale + shift with public constants, not statistics of the private data."""

    def __init__(self, scale: float, shift: float = 0.0) -> None:
        super().__init__()
        self.scale = scale
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        """Return x * scale + shift, element by element."""
        return x * self.scale + self.shift

    def extra_repr(self) -> str:
        """Return the constants for ``repr``."""
        return f"scale={self.scale:.4g}, shift={self.shift:.4g}"


def cnn_compact(image_shape: ImageShape, num_classes: int) -> nn.Sequential:
    """Return two convolutions and two fully connected layers; 7,706 parameters for (1, 28, 28) and 10 classes.

    The network is designed for noisy gradients. The noise of a step grows with the square root of the number of
    parameters, so there are few. Pixels are normalized by the usual constants of MNIST, and logits are multiplied by 4:
    the mean gradients of subclasses then exceed the clipping norm 3 of [Z20]. Shorter gradients would be small relative
    to the noise, which is scaled to the norm 3.
    """
    body = [
        Affine(scale=1 / 0.3081, shift=-0.1307 / 0.3081),
        nn.Conv2d(image_shape[0], 16, kernel_size=5, stride=2, padding=2),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 16, kernel_size=3, padding=1),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    ]
    return nn.Sequential(
        *body,
        nn.Linear(width(body, image_shape), 32),
        nn.Tanh(),
        nn.Linear(32, num_classes),
        Affine(scale=4.0),
    )


def softmax_normalized(image_shape: ImageShape, num_classes: int) -> nn.Sequential:
    """Return softmax regression on images that are individually normalized to mean 0 and variance 1.

    Raw photographs share a bright background, so the gradients of all people have nearly the same direction, and the
    differences between people are small relative to the noise of class-level DP.
    """
    normalize = nn.LayerNorm(image_shape, eps=1e-3, elementwise_affine=False)
    return nn.Sequential(normalize, nn.Flatten(), nn.Linear(math.prod(image_shape), num_classes))


def softmax(image_shape: ImageShape, num_classes: int) -> nn.Sequential:
    """Return softmax regression, the face recogniser of Fredrikson et al., CCS 2015, and of [Z20] on Faces94."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(image_shape), num_classes))


def linear(image_shape: ImageShape, num_classes: int) -> nn.Sequential:
    """Return softmax regression without bias, whose weights are zero: a head on centred features.

    Initial weights of random directions would only add to the distance that noisy steps have to go.
    """
    layer = nn.Linear(math.prod(image_shape), num_classes, bias=False)
    nn.init.zeros_(layer.weight)
    return nn.Sequential(nn.Flatten(), layer)


def mlp(image_shape: ImageShape, num_classes: int) -> nn.Sequential:
    """Return one hidden layer of sigmoid units, the second face recogniser of Fredrikson et al., CCS 2015."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(image_shape), FREDRIKSON_HIDDEN_UNITS),
        nn.Sigmoid(),
        nn.Linear(FREDRIKSON_HIDDEN_UNITS, num_classes),
    )


def width(body: Iterable[nn.Module], image_shape: ImageShape) -> int:
    """Return the number of features per image that ``body`` computes."""
    # Evaluation mode: BatchNorm would update its statistics, and fail on a single value per channel.
    layers = nn.Sequential(*body).eval()
    with torch.no_grad():
        features = layers(torch.zeros(1, *image_shape)).numel()
    layers.train()
    return int(features)
