"""The one engine: a feedback model's prediction, and what fits the model when the error arrives.

Feed-forward messages, boundaries of chunks, edges between rates and stages all do it by this. What
differs between them, the policy (names, λ, steps, checks, masks), is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from synthgrad._formulas import per_example, per_loss, regression_grad
from synthgrad.errors import LockingError, ShapeError
from synthgrad.feedback import Feedback, Regression


class Prediction:
    r"""What a feedback model M says of one message before the real error is known.

    .. math:: \hat\delta = M(h, c), \qquad \min_M \frac1B \sum_b \lVert \hat\delta_b - \delta_b
              \rVert^2

    A regression model is fitted through the graph of its prediction, with the gradient of the
    squared error in closed form; any other through the gradient of its own loss. Here the batch is
    the first axis.

    Args:
        feedback: M.
        message: ``"batch *message"``; its graph counts where M's regression error flows into it.
        context: what M sees besides.
        reduction: how the loss joins a batch, "mean" or "sum".
        dtype: the precision in which errors are compared.
        width: of what gets the error, ``"batch width"``; None where that is the message itself.
        late: whether the error may come after M has been updated. Then M predicts anew: what it is
            corrected for is what it would say now.

    Attributes:
        synthetic: the synthetic error on the scale that autograd carries, detached; taken away by
            whoever lets a graph hold it.
        message: as M saw it, detached; likewise.
        fitted: what gets a gradient from :meth:`answer`: the prediction, or M's parameters.
        learns: whether there is any.

    Raises:
        ShapeError: M returned something else than an error for what gets it.
    """

    __slots__ = (
        "_context",
        "_dtype",
        "_late",
        "_reduction",
        "_versions",
        "_width",
        "by_regression",
        "feedback",
        "fitted",
        "learns",
        "message",
        "synthetic",
    )

    def __init__(
        self,
        feedback: Feedback,
        message: Tensor,
        context: Any,
        reduction: str,
        dtype: torch.dtype,
        *,
        width: int | None = None,
        late: bool = False,
    ) -> None:
        self.feedback, self._context, self._reduction = feedback, context, reduction
        self._dtype, self._width, self._late = dtype, width, late
        self.by_regression = by_regression = isinstance(feedback, Regression)
        message = in_precision(message, feedback, autocasts=by_regression)
        if by_regression:
            with _unguarded() if late else nullcontext():
                prediction = self._predict(message)
            self.learns = prediction.requires_grad
            self.fitted: Sequence[Tensor] = (prediction,) if self.learns else ()
        else:
            with torch.no_grad():
                prediction = self._predict(message)
            self.fitted = tuple([p for p in feedback.parameters() if p.requires_grad])
            self.learns = bool(self.fitted)
        self.synthetic = per_loss(prediction.detach(), reduction)
        self.message = message.detach()
        self._versions = feedback.versions() if by_regression and self.learns else ()

    def answer(
        self,
        delta: Tensor,
        synthetic: Tensor,
        message: Tensor,
        factor: Tensor | None = None,
        value: Tensor | None = None,
    ) -> Sequence[Tensor | None]:
        r"""M is fitted to the real error.

        With a loss that was multiplied by :math:`w`, both errors are :math:`w` times those of the
        loss, and M gets :math:`w` times the gradient of its own squared error.

        Args:
            delta: the real error, on the scale that autograd carries.
            synthetic: the attribute, times ``factor``.
            message: the attribute.
            factor: what the loss was multiplied by, a scalar; None for 1.
            value: what a model that is fitted to values of the loss is fitted to, ``"batch"``.

        Returns:
            A gradient for each of ``fitted``.

        Raises:
            LockingError: M was updated since it predicted, though its error was not to come late;
                or its loss does not depend on the parameters that predicted.
        """
        feedback = self.feedback
        if type(feedback).observe is not Feedback.observe:
            feedback.observe(self._per_example(delta, factor))
        if not self.learns:
            return ()
        if not self.by_regression:
            target = self._per_example(delta, factor) if value is None else value
            return self._own_fit(message, target, factor)
        if feedback.versions() == self._versions:
            return (regression_grad(synthetic, delta, self._reduction),)
        if not self._late:
            raise LockingError(
                "its feedback model was updated between a message and its error; expected the "
                "error first, or Interface.send() for errors that come late"
            )
        self._answer_anew(delta, message, factor)
        return (None,)

    def answer_more(self, delta: Tensor) -> Sequence[Tensor | None]:
        """A further part of an error that was answered: the rest of the regression's gradient."""
        if not self.learns:
            return ()
        if not self.by_regression:
            return (None,) * len(self.fitted)
        return (regression_grad(torch.zeros_like(delta), delta, self._reduction),)

    def release(self) -> None:
        """The graph alone holds what it has saved from here on, and frees it."""
        del self.synthetic, self.message
        if self.by_regression:
            self.fitted = ()

    def _predict(self, message: Tensor) -> Tensor:
        prediction = predict(self.feedback, message, self._context, self._width)
        return prediction if prediction.dtype == self._dtype else prediction.to(self._dtype)

    def _per_example(self, delta: Tensor, factor: Tensor | None) -> Tensor:
        delta = delta if factor is None else delta / factor.to(delta)
        return per_example(delta, self._reduction)

    def _answer_anew(self, delta: Tensor, message: Tensor, factor: Tensor | None) -> None:
        """The prediction's graph belongs to parameters that are gone."""
        with torch.enable_grad():
            prediction = self._predict(message)
        synthetic = per_loss(prediction.detach(), self._reduction)
        synthetic = synthetic if factor is None else synthetic * factor.to(synthetic)
        grad = regression_grad(synthetic, delta, self._reduction)
        torch.autograd.backward(prediction, grad)

    def _own_fit(
        self, message: Tensor, target: Tensor, factor: Tensor | None
    ) -> Sequence[Tensor | None]:
        feedback = self.feedback
        with torch.enable_grad():
            loss = feedback.loss(message, target.to(message.dtype), self._context)
        if loss is None:
            return (None,) * len(self.fitted)
        found = torch.autograd.grad(loss, self.fitted, allow_unused=True)
        if all(grad is None for grad in found):
            raise LockingError(
                f"the loss of {type(feedback).__name__} does not depend on the parameters that "
                "predicted; were they exchanged for the forward pass alone, as "
                "torch.func.functional_call does?"
            )
        return [grad if grad is None else _times(grad, factor) for grad in found]


def predict(feedback: Feedback, message: Tensor, context: Any, width: int | None = None) -> Tensor:
    """The per-example error that a feedback model predicts from a message.

    Args:
        feedback: M.
        message: ``"batch *message"``, in M's precision.
        context: what M sees besides.
        width: of what gets the error, ``"batch width"``; None where that is the message itself.

    Raises:
        ShapeError: M returned something else.
    """
    if width is None:
        prediction, expected = feedback(message, context), message.shape
    else:
        like = message.new_zeros(()).expand(message.shape[0], width)
        prediction, expected = feedback.predict_for(like, message, context), like.shape
    if isinstance(prediction, Tensor) and prediction.shape == expected:
        return prediction
    name = type(feedback).__name__
    if not isinstance(prediction, Tensor):
        raise ShapeError(
            f"the feedback model {name} returned {type(prediction).__name__}, expected a tensor of "
            f"shape {tuple(expected)}"
        )
    if width is None:
        raise ShapeError(
            f"the feedback model {name} returned {tuple(prediction.shape)} for a message "
            f"{tuple(message.shape)}"
        )
    hint = f" (out_features={width} makes it that wide)"
    raise ShapeError(
        f"the state has {width} numbers per example, so the feedback model {name} must return "
        f"{tuple(expected)}; for the message {tuple(message.shape)} it returned "
        f"{tuple(prediction.shape)}{hint if hasattr(feedback, 'out_features') else ''}"
    )


def in_precision(message: Tensor, feedback: Feedback, *, autocasts: bool) -> Tensor:
    """The message in the feedback model's own precision, unless autocast sees to that.

    Args:
        message: any.
        feedback: the model.
        autocasts: whether all that the model computes is computed now. A loss of the model's own is
            computed in the backward pass, where autocast is off.
    """
    dtype = feedback.dtype
    if dtype is None or dtype == message.dtype:
        return message
    if autocasts and torch.is_autocast_enabled(message.device.type):
        return message
    return message.to(dtype)


def batch_first(tensor: Tensor, batch_dim: int) -> Tensor:
    """What has a message's axes, with the batch first."""
    return tensor.movedim(batch_dim, 0) if batch_dim else tensor


def batch_back(tensor: Tensor, batch_dim: int) -> Tensor:
    """The inverse of :func:`batch_first`."""
    return tensor.movedim(0, batch_dim) if batch_dim else tensor


def context_beside(context: Any, batch_dim: int) -> Any:
    """The context beside a message with the batch first.

    One row for each example is so already; what has the message's axes (labels of two or more,
    rows of three or more) is moved like it.
    """
    if not batch_dim or not isinstance(context, Tensor):
        return context
    is_labels = not (context.is_floating_point() or context.dtype == torch.bool)
    return batch_first(context, batch_dim) if context.ndim >= (2 if is_labels else 3) else context


def _unguarded() -> torch.autograd.graph.saved_tensors_hooks:
    """A graph that does not mind when parameters change; whoever uses it has to look."""
    return torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach(), lambda t: t)


def _times(grad: Tensor, factor: Tensor | None) -> Tensor:
    if factor is None:
        return grad
    # Of a loss that counts for nothing the target is not known, and the gradient is nothing.
    factor = factor.to(grad)
    return torch.where(factor == 0, torch.zeros_like(grad), grad * factor)
