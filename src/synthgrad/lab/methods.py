"""From a method's name to the interfaces that stand for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from synthgrad.decouple import decouple
from synthgrad.feedback import MLP, Feedback, Stale, Zero
from synthgrad.lab.config import FeedForwardConfig
from synthgrad.lab.models import hidden_name


@dataclass(frozen=True)
class WarmUp:
    """``lambda_`` as a function of the step: 1 for the first ``steps``, then ``after``."""

    steps: int
    after: float

    def __call__(self, step: int) -> float:
        """The weight at a step."""
        return 1.0 if step < self.steps else self.after


def put_in(
    model: nn.Module,
    config: FeedForwardConfig,
    example: Tensor,
    classes: int,
    paper_hidden: Sequence[int],
) -> nn.Module:
    """Puts the interfaces of ``config.method`` into a network.

    Args:
        model: one of :mod:`synthgrad.lab.models`.
        config: which method, where, and at which lambda.
        example: a few inputs, to infer sizes from.
        classes: the labels that cdni sees.
        paper_hidden: the hidden layers of the paper's unconditional feedback model; its
            conditional one is linear.
    """
    positions = config.positions()
    if not positions:
        return model
    hidden = config.feedback_hidden

    def make(h: Tensor) -> Feedback:
        width = h.shape[1]
        if config.method == "none":
            return Zero()
        if config.method == "stale":
            return Stale(config.decay)
        if config.method == "cdni":
            return MLP(width, hidden=hidden or (), context=classes)
        return MLP(width, hidden=paper_hidden if hidden is None else hidden)

    lambda_ = WarmUp(config.warmup, config.lambda_) if config.warmup else config.lambda_
    return decouple(
        model,
        [hidden_name(position) for position in positions],
        make,
        lambda_=lambda_,
        example_inputs=example,
    )
