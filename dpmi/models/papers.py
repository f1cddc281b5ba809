"""The target and evaluation classifiers of the papers on model inversion, as published.

They use BatchNorm, as published; the suffix ``+groupnorm`` of a name replaces it by GroupNorm.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn
from torchvision.models import resnet
from torchvision.models.vgg import cfgs, make_layers

from .anatomy import feature_size
from .classifiers import ImageShape, width
from .vision import take_channels

#: Slope of LeakyReLU below 0.
_SLOPE = 0.2

#: Length of the embedding in ``resnet34``, as in the face recognisers of the same papers.
_EMBEDDING = 512


def lenet3(image_shape: ImageShape, num_classes: int) -> nn.Sequential:
    """Return two convolutions and two fully connected layers; 3,136 = 64 * 7 * 7 flat features for (1, 28, 28).

    The target for MNIST in Y. Zhang et al., "The Secret Revealer", CVPR 2020.
    """
    body = OrderedDict(
        layer1=nn.Sequential(
            nn.Conv2d(image_shape[0], 32, kernel_size=5, padding=2), nn.ReLU(), nn.MaxPool2d(2)
        ),
        layer2=nn.Sequential(nn.Conv2d(32, 64, kernel_size=5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        flatten=nn.Flatten(),
    )
    body["fc1"] = nn.Linear(width(body.values(), image_shape), 1024)
    body["relu"] = nn.ReLU()
    body["fc"] = nn.Linear(1024, num_classes)
    return nn.Sequential(body)


def mcnn(image_shape: ImageShape, num_classes: int) -> nn.Sequential:
    """Return three convolutions and the head; 1.03 million parameters for (1, 32, 32) and 5 classes.

    The target for MNIST of KED-MI (S. Chen et al., ICCV 2021) and of BiDO, whose latents are its three layers.
    """
    body = OrderedDict(
        layer1=_convolution(image_shape[0], 64, kernel_size=7, padding=1, pool=True),
        layer2=_convolution(64, 128, kernel_size=5, pool=True),
        layer3=_convolution(128, 256, kernel_size=5),
        flatten=nn.Flatten(),
    )
    body["fc"] = nn.Linear(width(body.values(), image_shape), num_classes)
    return nn.Sequential(body)


def scnn(image_shape: ImageShape, num_classes: int) -> nn.Sequential:
    """Return five convolutions and the head, the evaluation classifier of KED-MI and BiDO for MNIST.

    Kernels and channels are as published. The padding of the third convolution is not published; the value here gives
    one position with 512 features for (1, 32, 32).
    """
    body = OrderedDict(
        layer1=_convolution(image_shape[0], 32, kernel_size=7, padding=1, pool=True),
        layer2=_convolution(32, 64, kernel_size=5, pool=True),
        layer3=_convolution(64, 128, kernel_size=5, padding=2),
        layer4=_convolution(128, 256, kernel_size=3),
        layer5=_convolution(256, 512, kernel_size=3),
        flatten=nn.Flatten(),
    )
    body["fc"] = nn.Linear(width(body.values(), image_shape), num_classes)
    return nn.Sequential(body)


def vgg16(image_shape: ImageShape, num_classes: int) -> nn.Sequential:
    """Return the convolutions of VGG16 with BatchNorm and a linear head; for (3, 64, 64), 16.8 million parameters.

    There are then 2,048 features. The target for faces of GMI, KED-MI, BiDO and TL-DMI. They freeze the bias of the
    features' BatchNorm at 0; it is omitted here.
    """
    body = OrderedDict[str, nn.Module](
        features=take_channels(make_layers(cfgs["D"], batch_norm=True), image_shape[0]), flatten=nn.Flatten()
    )
    features = width(body.values(), image_shape)
    body["bn"] = nn.BatchNorm1d(features)
    body["bn"].register_parameter("bias", None)
    body["fc"] = nn.Linear(features, num_classes)
    return nn.Sequential(body)


def resnet34(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Return a ResNet-34 with BatchNorm, an embedding and BatchNorm between the pooled features and the head.

    The target for faces of VMI (K.-C. Wang et al., NeurIPS 2021), also used by BiDO and TL-DMI. The length of the
    embedding is not published.
    """
    model: nn.Module = take_channels(resnet.resnet34(), image_shape[0])
    features = feature_size(model)
    model.fc = nn.Sequential(
        nn.BatchNorm1d(features),
        nn.Linear(features, _EMBEDDING),
        nn.BatchNorm1d(_EMBEDDING),
        nn.Linear(_EMBEDDING, num_classes),
    )
    return model


def _convolution(
    channels: int, features: int, *, kernel_size: int, padding: int = 0, pool: bool = False
) -> nn.Sequential:
    layers = [
        nn.Conv2d(channels, features, kernel_size, padding=padding),
        nn.BatchNorm2d(features),
        nn.LeakyReLU(_SLOPE),
    ]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))
