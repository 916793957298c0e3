"""Synthetic inputs: models that predict what a receiver will get, so that it need not wait (3.3).

The contract is that of synthetic gradients in the other direction. ``forward(x, context)`` predicts
the message from the network's own input, and ``loss(x, message, context)`` is what fitting
minimises: ``min ‖I(x, c) - h‖²``. Any :class:`synthgrad.feedback.Regression` whose prediction has
the message's shape will do; here is the one that the paper used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from synthgrad import _checks
from synthgrad.errors import ShapeError
from synthgrad.feedback import MLP, Regression


class SyntheticInput(Regression):
    """Predicts messages "batch features" from inputs of any shape, by a multi-layer perceptron.

    The hidden layers are linear, batch norm, ReLU. Unlike a synthetic gradient, the first
    prediction is not zero: a receiver could not tell one example from another.

    Args:
        inputs: values in one input of the network, such as 784 for an image of 28 by 28.
        features: the width of the message.
        hidden: the widths of the hidden layers (the paper has one); empty for a linear model.
        context: the number of classes, or the width of a context row; 0 for none.

    Raises:
        ArgumentError: a size is not a positive integer.
    """

    def __init__(
        self, inputs: int, features: int, hidden: Sequence[int] = (256,), context: int = 0
    ) -> None:
        super().__init__()
        inputs = _checks.integer("inputs", inputs, 1)
        hidden = _checks.sizes("hidden", hidden)
        self.model = MLP(inputs, hidden, context, out_features=features)
        last = self.model.rest[-1] if hidden else self.model.first
        bound = 1 / math.sqrt(hidden[-1] if hidden else inputs + context)
        for parameter in last.parameters():
            nn.init.uniform_(parameter, -bound, bound)  # as nn.Linear starts

    def forward(self, h: Tensor, context: Any = None) -> Tensor:
        """Predicts the message.

        Args:
            h: the network's input, "batch ...".
            context: what a conditional model sees besides, such as labels.

        Raises:
            ShapeError: an input has not as many values as the model was built for.
            ContextError: the context is missing or does not fit.
        """
        _checks.suits(self, h, self.model.first.weight)
        flat = h.flatten(1) if h.ndim > 1 else h
        if flat.ndim != 2 or flat.shape[1] != self.model.features:
            raise ShapeError(
                "the synthetic input model expects a batch of inputs of "
                f"{self.model.features} values, got {tuple(h.shape)}"
            )
        return self.model(flat, context)
