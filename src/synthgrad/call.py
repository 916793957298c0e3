"""A message on its way through an interface: its prediction, and the answer to its real error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from synthgrad import audit
from synthgrad.errors import LockingError, ShapeError, SynthgradError
from synthgrad.feedback import Feedback, Regression
from synthgrad.functional import mix, per_example, per_loss, redirect, regression_grad
from synthgrad.values import Values

if TYPE_CHECKING:
    from synthgrad.interface import Interface


class Call:
    """One message on its way: knows its prediction and answers the real error when it arrives.

    A regression model is fitted through the graph of its prediction, with the gradient of the
    squared error in closed form; any other through the gradient of its own loss.

    Attributes:
        synthetic: the synthetic error on the scale that autograd carries, detached; until
            :meth:`pass_on`.
        learns: whether there is anything to fit.
        served: whether the error has arrived.
    """

    def __init__(self, interface: Interface, h: Tensor, context: Any) -> None:
        feedback = interface.feedback
        if isinstance(context, Tensor) and context.requires_grad:
            context = context.detach()  # it is known, not learned: no error goes into it
        self.interface = interface
        self.context = context
        self.expectation: audit.Expectation | None = None
        self.values: Values | None = None
        self.served = False
        self.by_regression = isinstance(feedback, Regression)
        message = _for_model(h.detach(), feedback, autocasts=self.by_regression)
        prediction = feedback(message, context)
        if prediction.shape != h.shape:
            raise ShapeError(
                f"the feedback model {type(feedback).__name__} returned {tuple(prediction.shape)} "
                f"for a message {tuple(h.shape)}"
            )
        if prediction.dtype != h.dtype:
            prediction = prediction.to(h.dtype)
        self.synthetic = per_loss(prediction.detach(), interface.reduction)
        if self.by_regression:
            self.learns = prediction.requires_grad
            self._fitted: tuple[Tensor, ...] = (prediction,)
            self._saved: tuple[Tensor, ...] = (self.synthetic,)
        else:
            self._fitted = tuple(p for p in feedback.parameters() if p.requires_grad)
            self.learns = bool(self._fitted)
            # Without anything to fit, the receiver may work on the message in place.
            self._saved = (self.synthetic, message) if self.learns else (self.synthetic,)
        if feedback.fitted_to == "loss":
            self.values = Values(feedback, message, context)

    def pass_on(self, h: Tensor) -> Tensor:
        """The message for its receivers; this call answers the error that comes back for it."""
        result = redirect(h, self, self._fitted, self._saved)
        # From here on the graph alone holds them, and frees them when it has used them.
        del self.synthetic
        self._saved = ()
        if self.by_regression:
            self._fitted = ()
        return result

    def __call__(
        self, delta: Tensor, synthetic: Tensor, message: Tensor | None = None
    ) -> Sequence[Tensor | None]:
        """Fits and mixes (:func:`synthgrad.functional.redirect`).

        Returns:
            The error for the message, then a gradient for what is fitted: the prediction, or the
            parameters.
        """
        interface = self.interface
        feedback = interface.feedback
        self.served = True
        if self.expectation is not None:
            self.expectation.served = True
        interface.check(delta)
        lambda_ = interface.current_lambda()
        interface.step += 1
        error = mix(delta, synthetic, lambda_)
        if type(feedback).observe is not Feedback.observe:
            feedback.observe(per_example(delta, interface.reduction))
        if self.by_regression:
            fit = regression_grad(synthetic, delta, interface.reduction) if self.learns else None
            return error, fit
        try:
            return error, *self._fit(delta, message, lambda_)
        except SynthgradError as problem:
            raise interface.named(problem) from problem

    def _fit(
        self, delta: Tensor, message: Tensor | None, lambda_: float
    ) -> Sequence[Tensor | None]:
        if self.values is not None:
            target = self.values.resolve(lambda_, required=self.learns)
        else:
            target = per_example(delta, self.interface.reduction)
        if message is not None:
            with torch.enable_grad():
                target = target.to(message.dtype)
                loss = self.interface.feedback.loss(message, target, self.context)
            if loss is not None:
                found = torch.autograd.grad(loss, self._fitted, allow_unused=True)
                if all(grad is None for grad in found):
                    raise LockingError(
                        f"the loss of {type(self.interface.feedback).__name__} does not depend on "
                        "the parameters that predicted; were they exchanged for the forward pass "
                        "alone, as torch.func.functional_call does?"
                    )
                return found
        return (None,) * len(self._fitted)


def _for_model(h: Tensor, feedback: Feedback, *, autocasts: bool) -> Tensor:
    """The message in the feedback model's own precision, unless autocast sees to that.

    It does where all that the model computes is computed now. A loss of the model's own is computed
    in the backward pass, where autocast is off.
    """
    dtype = feedback.dtype
    if dtype is None or dtype == h.dtype:
        return h
    if autocasts and torch.is_autocast_enabled(h.device.type):
        return h
    return h.to(dtype)
