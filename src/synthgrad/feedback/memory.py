"""Feedback models that remember past errors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from synthgrad import _checks
from synthgrad.errors import ArgumentError, ShapeError
from synthgrad.feedback.base import Feedback


class Stale(Feedback):
    r"""The paper's stale baseline (C): an exponential average of past errors as feedback.

    .. math:: a \leftarrow d\, a + (1 - d) \frac1B \sum_b \delta_b, \qquad \hat\delta_b = a

    The past errors belong to other examples, so the average runs over the batch as well, and
    every example gets the same error. It starts at zero.

    Args:
        decay: ``d`` in [0, 1).

    Raises:
        ArgumentError: ``decay`` is outside [0, 1).
    """

    average: Tensor

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = _checks.number("decay", decay)
        if not 0 <= self.decay < 1:
            raise ArgumentError(f"decay must lie in [0, 1), got {decay!r}")
        # Takes the shape of one message when the first error arrives.
        self.register_buffer("average", torch.zeros(()))
        self.register_load_state_dict_pre_hook(_take_shape)

    def forward(self, h: Tensor, context: Any = None) -> Tensor:
        """Returns the average, once for each example.

        Raises:
            ShapeError: the remembered errors belong to messages of another shape.
        """
        _checks.suits(self, h)
        if self.average.ndim and self.average.shape != h.shape[1:]:
            raise ShapeError(
                f"the feedback model Stale remembers errors of shape (batch, "
                f"{', '.join(map(str, self.average.shape))}), got a message {tuple(h.shape)}"
            )
        # A copy, since the average changes in place while the error is still on its way.
        return self.average.to(h, copy=True).expand_as(h)

    def predict_for(self, like: Tensor, h: Tensor, context: Any = None) -> Tensor:
        """Returns the average, once for each example of ``like``."""
        return self(like)

    @torch.no_grad()
    def observe(self, target: Tensor) -> None:
        """Moves the average towards the mean of a batch of per-example errors.

        Where the mean is not finite the average stays as it was, or one overflow would be
        remembered for good.
        """
        if _checks.dense("an error to remember", target).ndim < 2 or not len(target):
            raise ShapeError(f"an error to remember is (batch, ...), got {tuple(target.shape)}")
        mean = target.mean(dim=0)
        known = self.average
        old = known.to(mean)
        new = torch.where(mean.isfinite(), self.decay * old + (1 - self.decay) * mean, old)
        if (known.shape, known.dtype, known.device) == (mean.shape, mean.dtype, mean.device):
            known.copy_(new)  # in place: a replayed CUDA graph finds it where it was
        else:
            self.average = new

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"decay={self.decay}"


# A function of the module, not a bound method: a copy of the model must not load into the original.
def _take_shape(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    stored = state_dict.get(prefix + "average")
    if isinstance(module, Stale) and stored is not None and stored.shape != module.average.shape:
        module.average = torch.zeros_like(stored, device=module.average.device)
