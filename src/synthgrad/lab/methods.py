"""From a method's name to the interfaces that stand for it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from synthgrad.decouple import decouple
from synthgrad.feedback import MLP, Conv, Feedback, Regression, Stale, Zero
from synthgrad.inputs import SyntheticInput
from synthgrad.lab.config import FeedForwardConfig
from synthgrad.lab.errors import UsageError
from synthgrad.lab.models import hidden_name


@dataclass(frozen=True)
class PaperHidden:
    """The hidden layers of the paper's synthetic gradient models for one network (D.1).

    Attributes:
        dni: widths, or filters, in the unconditional model; empty for a linear one.
        cdni: the same in the model that sees the label.
    """

    dni: tuple[int, ...]
    cdni: tuple[int, ...]


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
    paper_hidden: PaperHidden,
) -> nn.Module:
    """Puts the interfaces of ``config.method`` into a network.

    Synthetic gradients are those of an MLP for a message of features, and of a convolutional
    model for a message of channels.

    Args:
        model: one of :mod:`synthgrad.lab.models`.
        config: which method, where, and at which lambda.
        example: a few inputs, to infer sizes from.
        classes: the labels that cdni sees.
        paper_hidden: the feedback models' hidden layers, unless ``config.feedback_hidden`` gives
            others.
    """
    positions = config.positions()
    if not positions:
        return model
    hidden = config.feedback_hidden
    if hidden is None:
        hidden = paper_hidden.cdni if config.method == "cdni" else paper_hidden.dni
    context = classes if config.method == "cdni" else 0

    def make(h: Tensor) -> Feedback:
        if config.method == "none":
            return Zero()
        if config.method == "stale":
            return Stale(config.decay)
        if h.ndim == 4:
            return Conv(h.shape[1], hidden=hidden, context=context)
        return MLP(h.shape[1], hidden=hidden, context=context)

    def make_input(x: Tensor, h: Tensor) -> Regression:
        if h.ndim != 2:
            raise UsageError(
                "--unlock full predicts messages of features, as those of a fully connected "
                f"network; this network's are {tuple(h.shape[1:])} for an example"
            )
        assert config.input_hidden is not None  # settled
        return SyntheticInput(x[0].numel(), h.shape[1], config.input_hidden)

    lambda_ = WarmUp(config.warmup, config.lambda_) if config.warmup else config.lambda_
    return decouple(
        model,
        [hidden_name(position) for position in positions],
        make,
        lambda_=lambda_,
        example_inputs=example,
        inputs=make_input if config.unlock == "full" else None,
    )
