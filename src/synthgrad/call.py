"""A message on its way through an interface: its prediction, and the answer to its real error."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from synthgrad import _guards
from synthgrad._graph import current_walk
from synthgrad._loss_scale import Mark
from synthgrad._values import Values
from synthgrad.errors import LockingError, ShapeError, SynthgradError
from synthgrad.feedback import Feedback, Regression, Zero
from synthgrad.functional import mix, per_example, per_loss, redirect, regression_grad

if TYPE_CHECKING:
    from synthgrad.interface import Interface


class Call:
    """One message on its way: knows its prediction and answers the real error when it arrives.

    A regression model is fitted through the graph of its prediction, with the gradient of the
    squared error in closed form; any other through the gradient of its own loss. Inside, the batch
    is always the first axis.

    Args:
        interface: whose message it is.
        h: the message.
        context: what the feedback model sees besides.
        late: whether the error may come after the model has been updated. Then it predicts anew:
            what it is corrected for is what it would say now.

    Attributes:
        synthetic: the synthetic error on the scale that autograd carries, detached, in the
            message's own shape; until :meth:`pass_on`.
        learns: whether there is anything to fit.
        served: whether the error has arrived.
        given: the context as it was given.
        marks: what :func:`synthgrad.loss` left at the losses above; they know what each was
            multiplied by.
        unlocked: whether the sender has its error already.
    """

    def __init__(self, interface: Interface, h: Tensor, context: Any, *, late: bool) -> None:
        feedback = interface.feedback
        if isinstance(context, Tensor) and context.requires_grad:
            context = context.detach()  # it is known, not learned: no error goes into it
        self.interface = interface
        self.given = context
        self.context = context = interface.arrange_context(context)
        self.expectation: _guards.Expectation | None = None
        self.values: Values | None = None
        self.served = self.unlocked = False
        self.marks: list[Mark] = []
        self._late = late
        self._recomputed = current_walk() is not None
        self.by_regression = isinstance(feedback, Regression)
        message = _for_model(interface.rows(h.detach()), feedback, autocasts=self.by_regression)
        with _unguarded() if late and self.by_regression else nullcontext():
            prediction = self._predict(message, h.dtype)
        self.synthetic = interface.unrows(per_loss(prediction.detach(), interface.reduction))
        if self.by_regression:
            self.learns = prediction.requires_grad
            self._fitted: tuple[Tensor, ...] = (prediction,)
        else:
            self._fitted = tuple(p for p in feedback.parameters() if p.requires_grad)
            self.learns = bool(self._fitted)
        # Without anything to fit, the receiver may work on the message in place.
        self._saved = (self.synthetic, message) if self.learns else (self.synthetic,)
        self._versions = feedback.versions() if self.learns else ()
        if feedback.fitted_to == "loss":
            self.values = Values(feedback, message, context)
        if context is not None:
            interface.record.waiting.add(self)

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
        if self.served:
            return self._answer_again(delta, synthetic)
        self.served = interface.record.answered = True
        if self.expectation is not None:
            self.expectation.served = True
        interface.check(delta)
        factor = self._factor()
        if factor is not None:
            synthetic = synthetic * factor.to(synthetic)
        lambda_ = interface.current_lambda()
        if lambda_ < 1 and factor is None and not isinstance(interface.feedback, Zero):
            interface.record.unscaled = True
        error = mix(delta, synthetic, lambda_)
        delta, synthetic = interface.rows(delta), interface.rows(synthetic)
        feedback = interface.feedback
        if type(feedback).observe is not Feedback.observe:
            feedback.observe(per_example(_unscaled(delta, factor), interface.reduction))
        if self.by_regression:
            return error, self._regress(delta, synthetic, message, factor)
        try:
            return error, *self._fit(delta, message, lambda_, factor)
        except SynthgradError as problem:
            raise interface.named(problem) from problem

    def explain(self, problem: RuntimeError) -> Exception:
        """The error to raise where the graph has not what it saved (``problem`` says why)."""
        if self.served:
            return LockingError(self._second_pass())
        return LockingError(
            f"{self.interface.label}: its receiver has changed the message in place, and the "
            "feedback model is fitted with the message as it was; expected a receiver that works "
            "on a copy, such as nn.ReLU(inplace=False)"
        )

    def _predict(self, message: Tensor, dtype: torch.dtype) -> Tensor:
        feedback = self.interface.feedback
        prediction = feedback(message, self.context)
        if not isinstance(prediction, Tensor):
            raise ShapeError(
                f"the feedback model {type(feedback).__name__} returned "
                f"{type(prediction).__name__}, expected a tensor of shape {tuple(message.shape)}"
            )
        if prediction.shape != message.shape:
            raise ShapeError(
                f"the feedback model {type(feedback).__name__} returned {tuple(prediction.shape)} "
                f"for a message {tuple(message.shape)}"
            )
        return prediction if prediction.dtype == dtype else prediction.to(dtype)

    def _factor(self) -> Tensor | None:
        """What the loss was multiplied by; None where nobody said.

        Raises:
            LockingError: several losses say different things, or one that should say is not in
                this backward pass, or the message was recomputed and none can reach it.
        """
        label = self.interface.label
        if not self.marks:
            if self._recomputed and Mark.under_way():
                raise LockingError(
                    f"{label}: it ran again inside a backward pass, as torch.utils.checkpoint does "
                    "with use_reentrant=True, where synthgrad.loss cannot reach it; expected "
                    "use_reentrant=False"
                )
            return None
        factors = [mark.factor for mark in self.marks]
        told = [factor for factor in factors if factor is not None]
        if not told or len(told) < len(factors):
            raise LockingError(
                f"{label}: an error came back, but none through {len(factors) - len(told)} of the "
                f"{len(factors)} losses above it that synthgrad.loss marked; expected the sum of "
                "all in one backward pass"
            )
        if any(factor is not told[0] and not torch.equal(factor, told[0]) for factor in told):
            raise LockingError(
                f"{label}: the losses above it were multiplied by {[float(f) for f in told]}; "
                "its feedback model predicts the error of their sum, so expected one mark around "
                "it: synthgrad.loss(w1 * loss1 + w2 * loss2)"
            )
        if self.unlocked and float(told[0]) != 1:
            raise LockingError(
                f"{label}: the loss above it was multiplied by {float(told[0])} after its sender "
                "had been updated; where senders do not wait, expected the factor inside: "
                "synthgrad.loss(w * loss)"
            )
        return told[0]

    def _answer_again(self, delta: Tensor, synthetic: Tensor) -> Sequence[Tensor | None]:
        """A second backward pass through one message.

        Its errors add up to one, so with the real error alone below (λ = 1) everything is right:
        of the regression's gradient only that of the further error is missing. A synthetic error
        stands for the whole, and there is no telling which pass it belongs to.
        """
        interface, feedback = self.interface, self.interface.feedback
        interface.check(delta)
        observes = type(feedback).observe is not Feedback.observe
        whole = interface.current_lambda() == 1 and (self.by_regression or not self.learns)
        if observes or not (whole or isinstance(feedback, Zero)):
            raise LockingError(self._second_pass())
        error = mix(delta, synthetic, interface.current_lambda())
        fit = None
        if self.learns:
            rows = interface.rows(delta)
            fit = regression_grad(torch.zeros_like(rows), rows, interface.reduction)
        return (error, fit) if self.by_regression else (error, *(None for _ in self._fitted))

    def _second_pass(self) -> str:
        return (
            f"{self.interface.label}: a second backward pass came through one message, whose whole "
            "error was answered in the first; expected one pass: add the losses up before "
            "backward(), or run the forward pass anew for each"
        )

    def _regress(
        self, delta: Tensor, synthetic: Tensor, message: Tensor | None, factor: Tensor | None
    ) -> Tensor | None:
        """The gradient for the prediction, of the squared error times ``factor``."""
        interface = self.interface
        if not self.learns:
            return None
        if interface.feedback.versions() == self._versions or message is None:
            return regression_grad(synthetic, delta, interface.reduction)
        if not self._late:
            raise LockingError(
                f"{interface.label}: its feedback model was updated between a message and its "
                "error; expected the error first, or Interface.send() for errors that come late"
            )
        # The prediction's graph belongs to parameters that are gone.
        with torch.enable_grad():
            prediction = self._predict(message, delta.dtype)
            fresh = per_loss(prediction.detach(), interface.reduction)
            fresh = fresh if factor is None else fresh * factor.to(fresh)
        torch.autograd.backward(prediction, regression_grad(fresh, delta, interface.reduction))
        return None

    def _fit(
        self, delta: Tensor, message: Tensor | None, lambda_: float, factor: Tensor | None
    ) -> Sequence[Tensor | None]:
        if self.values is not None:
            target = self.values.resolve(lambda_, required=self.learns)
        else:
            target = per_example(_unscaled(delta, factor), self.interface.reduction)
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
                return [grad if grad is None else _scaled(grad, factor) for grad in found]
        return (None,) * len(self._fitted)


def _unguarded() -> torch.autograd.graph.saved_tensors_hooks:
    """A graph that does not mind when parameters change; whoever uses it has to look."""
    return torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach(), lambda t: t)


def _unscaled(delta: Tensor, factor: Tensor | None) -> Tensor:
    return delta if factor is None else delta / factor.to(delta)


def _scaled(grad: Tensor, factor: Tensor | None) -> Tensor:
    if factor is None:
        return grad
    # Of a loss that counts for nothing the target is not known, and the gradient is nothing.
    factor = factor.to(grad)
    return torch.where(factor == 0, torch.zeros_like(grad), grad * factor)


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
