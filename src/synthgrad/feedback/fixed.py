"""Feedback models without anything to learn or remember."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from synthgrad import _checks
from synthgrad.feedback.base import Feedback


class Zero(Feedback):
    """No feedback: the error is zero, as in the paper's "no backprop between layers".

    With ``lambda_=0`` the sender does not learn at all; it is the baseline every other model has
    to beat.
    """

    def forward(self, h: Tensor, context: Any = None) -> Tensor:
        """Returns zeros like ``h``."""
        return torch.zeros_like(_checks.suits(self, h))

    def predict_for(self, like: Tensor, h: Tensor, context: Any = None) -> Tensor:
        """Returns zeros like ``like``."""
        return self(like)
