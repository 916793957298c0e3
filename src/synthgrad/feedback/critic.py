"""A scalar critic: predicts the loss, and its gradient is the error (supplement A.4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from synthgrad import _checks
from synthgrad.errors import ShapeError
from synthgrad.feedback.base import Feedback


class Critic(Feedback):
    r"""Predicts each example's loss from its message; the prediction's gradient is the error.

    .. math:: v(h, c) \approx \mathbb E[L \mid h, c], \qquad
              \hat\delta_b = \partial v(h_b, c_b) / \partial h_b

    It is fitted to values of the loss: those of the critic above where there is one (the
    bootstrap), else the real ones, which :func:`synthgrad.losses` shows to it.

    Args:
        value: ``value(h, context)`` returns the predicted loss of each example, ``"batch"``. It
            should treat examples independently (no batch norm), or their errors mix.
    """

    fitted_to = "loss"

    def __init__(self, value: nn.Module) -> None:
        super().__init__()
        self.value = _checks.module("value", value)

    def forward(self, h: Tensor, context: Any = None) -> Tensor:
        """The per-example error ``∂v_b/∂h_b``.

        Raises:
            ShapeError: ``value`` does not return one number per example.
        """
        _checks.suits(self, h)
        with torch.enable_grad():
            leaf = h.detach().requires_grad_()
            (delta_hat,) = torch.autograd.grad(
                self.values(leaf, context).sum(), leaf, allow_unused=True, materialize_grads=True
            )
        return delta_hat

    def values(self, h: Tensor, context: Any = None) -> Tensor:
        """The predicted loss of each example, ``"batch"``.

        Raises:
            ShapeError: ``value`` does not return one number per example.
        """
        if _checks.suits(self, h).ndim < 1:
            raise ShapeError(f"a critic's message is (batch, ...), got {_checks.came(h)}")
        values = self.value(h, context)
        if not _checks.is_dense(values) or values.shape != h.shape[:1]:
            raise ShapeError(
                f"a critic's value must have shape ({h.shape[0]},), one loss per example; "
                f"{type(self.value).__name__} returned {_checks.came(values)}"
            )
        return values

    def loss(self, h: Tensor, target: Tensor, context: Any = None) -> Tensor:
        """``(1/batch) Σ (v(h_b, c_b) - target_b)²``.

        Args:
            h: the message, detached.
            target: values of the loss, one per example, ``"batch"``.
            context: as for :meth:`forward`.

        Raises:
            ShapeError: ``target`` is not one number per example.
        """
        if not _checks.is_dense(target) or target.shape != _checks.suits(self, h).shape[:1]:
            raise ShapeError(
                "a critic is fitted to one loss per example: expected shape "
                f"{tuple(_checks.suits(self, h).shape[:1])}, got {_checks.came(target)}"
            )
        return (self.values(h, context) - target).square().mean()
