"""Synthetic gradients: models that predict the error of a message and are fitted to the real one.

The last layer of each starts at zero, weights and bias, so that the first synthetic gradient is
exactly zero (D.1).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, cast, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synthgrad import _checks
from synthgrad.errors import ShapeError
from synthgrad.feedback.base import Feedback
from synthgrad.feedback.encode import encode
from synthgrad.functional import squared_error
from synthgrad.types import Float


class Regression(Feedback):
    """A feedback model that is fitted by regression: ``min ‖M(h, c) - δ‖²`` (section 2.2).

    A subclass has only to predict. The loss is fixed, so an interface can take the gradient of
    the prediction in closed form and push it through the graph of the one forward pass.
    """

    @final
    def loss(self, h: Tensor, target: Tensor, context: Any = None) -> Tensor:
        """``(1/batch) Σ ‖M(h, c) - target‖²``, with weight 1; both sides are per-example errors.

        Raises:
            ShapeError: ``target`` has not the shape of the prediction, which is that of ``h``
                unless the model was built with ``out_features``.
        """
        prediction = self(h, context)
        _checks.dense("target", target)
        if target.shape != prediction.shape:
            raise ShapeError(
                f"the target has shape {tuple(target.shape)}, its message {tuple(h.shape)}, the "
                f"prediction {tuple(prediction.shape)}"
            )
        return squared_error(prediction, target)


class Affine(nn.Module):
    """``W [h; c] + b``, with the two blocks of W held apart.

    The sum of two products is the product with the concatenation, without the copy and without
    the odd width that slows the product of the wide block. The context's block is stored
    transposed, ``(context, out)``: its gradient is then the quicker of the two products.

    Args:
        features: the width of ``h``.
        context: the width of ``c``; 0 for none.
        out: the width of the result.
        bias: whether there is a ``b``.
    """

    def __init__(self, features: int, context: int, out: int, *, bias: bool) -> None:
        super().__init__()
        bound = 1 / math.sqrt(features + context)  # nn.Linear's, for the joint width
        self.weight = nn.Parameter(torch.empty(out, features).uniform_(-bound, bound))
        self.context_weight = (
            nn.Parameter(torch.empty(context, out).uniform_(-bound, bound)) if context else None
        )
        self.bias = nn.Parameter(torch.empty(out).uniform_(-bound, bound)) if bias else None

    def forward(self, h: Tensor, rows: Tensor | None) -> Tensor:
        """Maps ``"*positions features"`` and ``"*positions context"`` to ``"*positions out"``."""
        result = F.linear(h, self.weight, self.bias)
        if self.context_weight is None or rows is None:
            return result
        # Adds within the product, and in place; autocast may mix precisions and does neither.
        if result.ndim == 2 and result.dtype == rows.dtype == self.context_weight.dtype:
            return result.addmm_(rows, self.context_weight)
        return result + rows @ self.context_weight


def zero(layer: nn.Module) -> None:
    """Sets every parameter of a layer to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class _OfOne:
    """Batch norm that also trains on one value a channel: with the statistics of those before it.

    A variance of one value is none, and PyTorch refuses it.
    """

    def forward(self, input: Tensor) -> Tensor:
        norm = cast(nn.modules.batchnorm._BatchNorm, self)
        if norm.training and input.numel() == input.shape[1]:
            return F.batch_norm(
                input,
                norm.running_mean,
                norm.running_var,
                norm.weight,
                norm.bias,
                training=False,
                eps=norm.eps,
            )
        return super().forward(input)  # pyright: ignore[reportAttributeAccessIssue]


class BatchNorm1d(_OfOne, nn.BatchNorm1d):
    """For rows."""


class BatchNorm2d(_OfOne, nn.BatchNorm2d):
    """For images."""


class MLP(Regression):
    """Hidden layers (linear, batch norm, ReLU), then a linear map that starts at zero (D.1).

    It acts on the last axis: messages ``"batch features"`` or ``"batch time features"``.

    Args:
        features: the width of the message.
        hidden: the widths of the hidden layers; empty for a linear model.
        context: the number of classes, or the width of a context row; 0 for an unconditional
            model. The encoded context is concatenated to the message.
        out_features: the width of the error where it is not the message's: over time a core's
            output is the message, and the error that of its whole state (D.2).
        batch_norm: whether the hidden layers have it; without, they have biases. A batch of one
            is normalised by the running statistics, and leaves them as they are.

    Raises:
        ArgumentError: a size is not a positive integer.
    """

    def __init__(
        self,
        features: int,
        hidden: Sequence[int] = (1024, 1024),
        context: int = 0,
        *,
        out_features: int | None = None,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        self.features = features = _checks.integer("features", features, 1)
        self.context = context = _checks.integer("context", context, 0)
        self.out_features = (
            features if out_features is None else _checks.integer("out_features", out_features, 1)
        )
        hidden = _checks.sizes("hidden", hidden)
        _checks.flag("batch_norm", batch_norm)
        widths = [*hidden, self.out_features]
        _checks.affordable(
            f"{type(self).__name__} with features={features}, context={context}, hidden={hidden}, "
            f"out_features={self.out_features}",
            (features + context) * widths[0] + sum(a * b for a, b in itertools.pairwise(widths)),
        )
        # Batch norm subtracts the mean, so a bias before it would have no effect.
        self.first = Affine(features, context, widths[0], bias=not (hidden and batch_norm))
        rest: list[nn.Module] = []
        for layer, (units, above) in enumerate(itertools.pairwise(widths), start=1):
            rest += [BatchNorm1d(units)] if batch_norm else []
            biased = layer == len(hidden) or not batch_norm
            rest += [nn.ReLU(), nn.Linear(units, above, bias=biased)]
        self.rest = nn.Sequential(*rest)
        zero(self.rest[-1] if rest else self.first)

    def forward(
        self, h: Float[Tensor, "batch *time features"], context: Any = None
    ) -> Float[Tensor, "batch *time out_features"]:
        """Predicts the per-example error of ``h``, or of what is ``out_features`` wide.

        Raises:
            ShapeError: the last axis of ``h`` is not ``features`` wide.
            ContextError: the model is conditional and the context is missing or does not fit.
        """
        _checks.suits(self, h, self.first.weight)
        if h.ndim not in (2, 3) or h.shape[-1] != self.features:
            raise ShapeError(
                f"the feedback model {type(self).__name__} was built for messages (batch, "
                f"{self.features}) or (batch, time, {self.features}), got {tuple(h.shape)}"
            )
        rows = None
        if self.context:
            rows = encode(context, h.shape[:-1], self.context, h.dtype)
        x = self.first.forward(h, rows)  # no hooks to run on a part of one layer
        if self.rest:
            x = self.rest(x.flatten(0, -2)).unflatten(0, h.shape[:-1])
        return x

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        out = "" if self.out_features == self.features else f", out_features={self.out_features}"
        return f"features={self.features}, context={self.context}{out}"


class Linear(MLP):
    """An affine feedback model, ``δ̂ = W [h; c] + b``, which starts at zero.

    With the label as context it is the best model of the paper's cDNI (fig. 14).

    Args:
        features: the width of the message, its last axis.
        context: as for :class:`MLP`.
        out_features: as for :class:`MLP`.

    Raises:
        ArgumentError: a size is not a positive integer.
    """

    def __init__(self, features: int, context: int = 0, *, out_features: int | None = None) -> None:
        super().__init__(features, hidden=(), context=context, out_features=out_features)


class Conv(Regression):
    """A convolutional feedback model that keeps the resolution (D.1).

    Hidden layers (convolution with same padding, batch norm, ReLU), then a convolution that
    starts at zero. Messages are ``"batch channels height width"``.

    Args:
        channels: the channels of the message.
        hidden: the channels of the hidden layers; empty for a linear model.
        kernel_size: of every convolution.
        context: the number of label channels; the channel of an example's label is all ones,
            the others zeros.

    Raises:
        ArgumentError: a size is not a positive integer.
    """

    def __init__(
        self,
        channels: int,
        hidden: Sequence[int] = (64, 64),
        kernel_size: int = 5,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.channels = channels = _checks.integer("channels", channels, 1)
        self.context = context = _checks.integer("context", context, 0)
        kernel_size = _checks.integer("kernel_size", kernel_size, 1)
        hidden = _checks.sizes("hidden", hidden)
        widths = [channels + context, *hidden, channels]
        _checks.affordable(
            f"Conv with channels={channels}, context={context}, hidden={hidden}, "
            f"kernel_size={kernel_size}",
            kernel_size**2 * sum(a * b for a, b in itertools.pairwise(widths)),
        )
        layers: list[nn.Module] = []
        width = channels + context
        for units in hidden:
            layers += [
                nn.Conv2d(width, units, kernel_size, padding="same", bias=False),
                BatchNorm2d(units),
                nn.ReLU(),
            ]
            width = units
        self.hidden = nn.Sequential(*layers)
        self.out = nn.Conv2d(width, channels, kernel_size, padding="same")
        zero(self.out)

    def forward(
        self, h: Float[Tensor, "batch channels height width"], context: Any = None
    ) -> Float[Tensor, "batch channels height width"]:
        """Predicts the per-example error of ``h``.

        Raises:
            ShapeError: ``h`` is not 4-dimensional or has another number of channels.
            ContextError: the model is conditional and the context is missing or does not fit.
        """
        _checks.suits(self, h, self.out.weight)
        if h.ndim != 4 or h.shape[1] != self.channels:
            raise ShapeError(
                f"the feedback model Conv was built for messages (batch, {self.channels}, "
                f"height, width), got {tuple(h.shape)}"
            )
        x = h
        if self.context:
            planes = encode(context, h.shape[:1], self.context, h.dtype)
            planes = planes[:, :, None, None].expand(-1, -1, *h.shape[2:])
            x = torch.cat([h, planes], dim=1)
        return self.out(self.hidden(x))

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"channels={self.channels}, context={self.context}"
