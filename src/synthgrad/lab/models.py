"""The paper's networks (D.1)."""

from __future__ import annotations

from collections import OrderedDict

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
