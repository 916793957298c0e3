"""What happens when the real error of a state arrives: the feedback model is fitted to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from synthgrad.errors import LockingError, NonFiniteError, ShapeError
from synthgrad.feedback import Feedback, Regression
from synthgrad.functional import mix, per_example, per_loss, regression_grad
from synthgrad.recurrent.arguments import naming
from synthgrad.recurrent.boundary import Chunk, Errors, cross
from synthgrad.recurrent.layout import Layout
from synthgrad.types import Float

if TYPE_CHECKING:
    from synthgrad._guards import Expectation
    from synthgrad.recurrent.bridge import RecurrentInterface


def predict(
    feedback: Feedback, message: Tensor, context: Any, width: int
) -> Float[Tensor, "batch width"]:
    """The per-example error of a state that is ``width`` wide, from the core's message.

    Raises:
        ShapeError: the feedback model returns something else than ``(batch, width)``.
    """
    batch = message.shape[0]
    like = message.new_zeros(()).expand(batch, width)
    dtype = feedback.dtype
    autocasts = isinstance(feedback, Regression) and torch.is_autocast_enabled(message.device.type)
    if dtype is not None and not autocasts:
        message, like = message.to(dtype), like.to(dtype)
    prediction = feedback.predict_for(like, message, context)
    if prediction.shape != like.shape:
        hint = f" (out_features={width} makes it that wide)"
        raise ShapeError(
            f"the state has {width} numbers per example, so the feedback model "
            f"{type(feedback).__name__} must return {tuple(like.shape)}; for the message "
            f"{tuple(message.shape)} it returned {tuple(prediction.shape)}"
            f"{hint if hasattr(feedback, 'out_features') else ''}"
        )
    return prediction


def wide(tensor: Tensor) -> Tensor:
    """In single precision at least: errors are subtracted and squared."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class Fit:
    r"""One prediction, made now for a state whose real error arrives later in the same graph.

    A regression model is fitted through the graph of the prediction, with the gradient of the
    squared error in closed form; any other through the gradient of its own loss.

    Args:
        bridge: whose feedback model it is.
        chunk: in whose graph the error arrives.
        layout: of the state.
        message: ``"batch *message"``; with a graph where the regression error flows into the core.
        context: what the feedback model knows besides.
        lambda_: the weight of the real error in what goes on below; None if nothing does.
        kind: under which name the explained variance is counted.
        expectation: told that the error arrived.
    """

    def __init__(
        self,
        bridge: RecurrentInterface,
        chunk: Chunk,
        layout: Layout,
        message: Tensor,
        context: Any,
        *,
        lambda_: float | None,
        kind: str,
        expectation: Expectation | None = None,
    ) -> None:
        feedback = bridge.feedback
        self.bridge, self.chunk, self.layout = bridge, chunk, layout
        self.context, self.lambda_, self.scale, self.kind = context, lambda_, bridge.scale, kind
        self.expectation = expectation
        self.by_regression = isinstance(feedback, Regression)
        with torch.set_grad_enabled(self.by_regression):
            prediction = predict(feedback, message, context, layout.width)
        self._synthetic = per_loss(wide(prediction.detach()), bridge.reduction)
        self._message = message.detach()
        if self.by_regression:
            self.dtype = prediction.dtype
            self._fitted = [prediction] if prediction.requires_grad else []
        else:
            self._fitted = [p for p in feedback.parameters() if p.requires_grad]
        self.fits = len(self._fitted)

    def pass_on(self, tensors: Sequence[Tensor], ended: Tensor | None = None) -> list[Tensor]:
        """The state for its receivers; this answers the error that comes back for it.

        Args:
            tensors: the state's floating-point tensors.
            ended: rows whose target is zero, ``"batch"``.
        """
        # The graph alone holds them from here on, and frees them when it has used them.
        saved = [self._synthetic, *([] if ended is None else [ended])]
        self.masks = ended is not None
        if not self.by_regression:
            saved.append(self._message)
        fitted = self._fitted
        del self._fitted, self._synthetic, self._message
        return cross(tensors, self, fitted, saved)

    def __call__(self, errors: Sequence[Tensor], *saved: Tensor) -> tuple[Errors, Errors]:
        """The errors that go on below, and a gradient for what is fitted."""
        bridge, layout = self.bridge, self.layout
        synthetic, target = saved[0], wide(layout.rows(errors))
        bridge.record.answered = True
        if self.expectation is not None:
            self.expectation.served = True
        weight = self._weight()
        if self.masks:
            target = target.masked_fill(saved[1].unsqueeze(1), 0)
        if weight is not None:
            synthetic = synthetic * weight
        grad = regression_grad(synthetic, target, bridge.reduction)
        self._record(grad, target, weight)
        below = self._below(errors, synthetic)
        feedback = bridge.feedback
        if self.by_regression and type(feedback).observe is Feedback.observe:
            return below, [grad.to(self.dtype)] * self.fits
        target = per_example(target, bridge.reduction)
        target = target if weight is None else target / weight
        feedback.observe(target)
        if self.by_regression:
            return below, [grad.to(self.dtype)] * self.fits
        with naming(bridge):
            return below, self._own_fit(target, saved[-1], weight)

    def _weight(self) -> Tensor | None:
        weight = self.chunk.weight
        if weight is None and self.chunk.has_end:
            raise LockingError(
                f"{self.bridge.label}: an error came back to begin(), but none to the scalar that "
                "end() returned for the same chunk; expected it in the loss: "
                "loss = loss + bridge.end(state, message)"
            )
        return weight

    def _below(self, errors: Sequence[Tensor], synthetic: Tensor) -> Errors:
        if self.lambda_ is None:
            return [None] * len(errors)
        if self.lambda_ == 1:
            return errors
        parts = self.layout.split(synthetic * self.scale)
        return [mix(e, p.to(e), self.lambda_) for e, p in zip(errors, parts, strict=True)]

    def _own_fit(self, target: Tensor, message: Tensor, weight: Tensor | None) -> Errors:
        """The gradients of the model's own loss; ``target`` holds per-example errors."""
        if not self.fits:
            return []
        feedback = self.bridge.feedback
        parameters = [p for p in feedback.parameters() if p.requires_grad]
        if feedback.dtype is not None:
            message, target = message.to(feedback.dtype), target.to(feedback.dtype)
        with torch.enable_grad():
            loss = feedback.loss(message, target, self.context)
        if loss is None:
            return [None] * self.fits
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        if weight is None:
            return grads
        # Of a loss that counts for nothing the target is not known, and the gradient is nothing.
        return [g if g is None else torch.where(weight == 0, 0, g * weight.to(g)) for g in grads]

    def _record(self, grad: Tensor, target: Tensor, weight: Tensor | None) -> None:
        batch = target.shape[0]
        # In per-example errors, the mean over the batch; for a mean loss they are ``batch`` times
        # the target, and for either grad is 2/batch times their difference.
        scale = batch if self.bridge.reduction == "mean" else 1 / batch
        error, size = torch.linalg.vector_norm(grad), torch.linalg.vector_norm(target)
        if self.bridge.check_finite and target.device.type == "cpu":
            self._check(size, target)
        if weight is not None:  # before they are squared, for a loss may be scaled up a lot
            error, size = error / weight, size / weight
        counted = self.bridge.explained[self.kind]
        counted.record(error.square() * (batch / 4), size.square() * scale)

    def _check(self, size: Tensor, target: Tensor) -> None:
        # A finite target may have an infinite norm, so that only says where to look.
        if not math.isfinite(size.item()) and (bad := int((~target.isfinite()).sum())):
            raise NonFiniteError(
                f"{self.bridge.label}: the error that came back for the state has {bad} non-finite "
                f"values (NaN or infinity) of {target.numel()}; expected finite ones. Nothing was "
                "fitted to it."
            )
