"""The paper's networks (D.1)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn


def hidden_name(position: int) -> str:
    """The name of a hidden layer, counted from 1."""
    return f"hidden{position}"


def fcn(inputs: int, units: int, layers: int, classes: int) -> nn.Sequential:
    """A fully connected network of ``layers`` layers, as the paper counts.

    A hidden layer is linear, batch norm, ReLU; the last layer is the linear classifier. Takes
    images of any shape with ``inputs`` values and returns logits ``"batch classes"``.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    width = inputs
    for position in range(1, layers):
        parts[hidden_name(position)] = nn.Sequential(
            nn.Linear(width, units), nn.BatchNorm1d(units), nn.ReLU()
        )
        width = units
    parts["classifier"] = nn.Linear(width, classes)
    return nn.Sequential(parts)


def cnn(image: Sequence[int], filters: int, layers: int, classes: int) -> nn.Sequential:
    """A convolutional network of ``layers`` layers, as the paper counts.

    A hidden layer is a 5x5 convolution that keeps the resolution, batch norm, ReLU, and 3x3
    pooling: of the maximum in the first layer, of the average in the others. The last layer is the
    linear classifier. The pooling belongs to its layer, so that an interface behind the layer
    carries the pooled activations.

    The paper gives the pooling's size and not its stride. Ours is 2, with a padding of 1, so each
    hidden layer halves the resolution, rounded up (28, 14, 7, 4 on MNIST). The padding does not
    count in the averages.

    Args:
        image: channels, height and width of the images.
        filters: in each hidden layer.
        layers: the hidden layers and the classifier.
        classes: the width of the logits, ``"batch classes"``.
    """
    width, *size = image
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for position in range(1, layers):
        parts[hidden_name(position)] = nn.Sequential(
            # Batch norm subtracts the mean, so a bias before it would have no effect.
            nn.Conv2d(width, filters, 5, padding="same", bias=False),
            nn.BatchNorm2d(filters),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1)
            if position == 1
            else nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
        )
        width, size = filters, [(side + 1) // 2 for side in size]
    parts["flatten"] = nn.Flatten()
    parts["classifier"] = nn.Linear(width * size[0] * size[1], classes)
    return nn.Sequential(parts)
