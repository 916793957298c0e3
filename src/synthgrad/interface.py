"""The interface: the one place where a message goes up and a synthetic error comes back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor, nn

from synthgrad import _checks, _guards
from synthgrad._finite import Magnitude, capturing, is_finite, refusal
from synthgrad._formulas import mix, redirect
from synthgrad._graph import current_walk
from synthgrad._loss_scale import Mark, factor_of
from synthgrad._prediction import Prediction, batch_back, batch_first, context_beside
from synthgrad._values import Values, link
from synthgrad.context import current_context
from synthgrad.errors import (
    ArgumentError,
    ContextError,
    LockingError,
    NonFiniteError,
    ShapeError,
    about,
)
from synthgrad.feedback import Feedback, Regression, Zero
from synthgrad.functional import check_lambda

Route = Callable[["Interface", Tensor, Any], Tensor]
_route: ContextVar[Route | None] = ContextVar("synthgrad_route", default=None)


@contextmanager
def routed(route: Route) -> Iterator[None]:
    """Hands every message inside the block to ``route`` instead; how schedules and probes work."""
    token = _route.set(route)
    try:
        yield
    finally:
        _route.reset(token)


class Interface(nn.Module):
    r"""Sits on an edge between a sender and a receiver: the message goes up, an error comes back.

    In the forward pass it is the identity. In the backward pass, where the error δ of the message
    arrives from above, it fits its feedback model M to δ and sends down

    .. math:: \bar g = \lambda\, \delta + (1 - \lambda)\, M(h, c)

    (supplement A.2). M's gradients come from the same ``loss.backward()`` as all others, so a plain
    training loop stays as it is. With a chain of interfaces δ is itself such a mixture: the
    bootstrap of section 2.2. In ``eval()`` or without grad the interface does nothing at all.

    Args:
        feedback: predicts the per-example error.
        lambda_: the weight of the real error, a number in [0, 1] or a function of the step that
            returns one. A step is one of the optimiser that has M's parameters (of any, where M has
            none) after errors came back, be it one or those of several accumulated batches. At 1
            the network gets plain backpropagation while M is fitted already: a warm-up.
        reduction: how the loss joins a batch. "mean": the per-example error is ``batch`` times
            what autograd carries; "sum": they are the same.
        batch_dim: which axis of the message is the batch: 1 for "time batch features". Feedback
            models see messages with the batch first, whatever it is.
        name: how errors call this interface; :func:`synthgrad.decouple` gives the submodule's.
        check_finite: whether each arriving error is checked for NaN and infinity. True: at once,
            for which a GPU has to be waited for. "later": noted on the device, where the error
            came, and reported by :meth:`check_noted`. True is "later" while a CUDA graph is
            captured, and so for its replays.
        inputs: a model of the message itself (:mod:`synthgrad.inputs`), for receivers that do not
            wait for it (:class:`synthgrad.FullyUnlocked`); not used otherwise.

    Raises:
        ArgumentError: an argument is not of its kind or outside its range.
    """

    def __init__(
        self,
        feedback: Feedback,
        lambda_: float | Callable[[int], float] = 0.0,
        *,
        reduction: str = "mean",
        batch_dim: int = 0,
        name: str | None = None,
        check_finite: bool | Literal["later"] = True,
        inputs: Regression | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(feedback, Feedback):
            came = type(feedback).__name__
            raise ArgumentError(f"feedback must be a synthgrad.feedback.Feedback, got {came}")
        _checks.word("reduction", reduction, ("mean", "sum"))
        if name is not None:
            _checks.text("name", name)
        batch_dim = _checks.integer("batch_dim", batch_dim)
        later = isinstance(check_finite, str) and check_finite == "later"
        if not isinstance(check_finite, bool) and not later:
            raise ArgumentError(
                f'check_finite must be a bool or "later", got {_checks.came(check_finite)}'
            )
        if isinstance(lambda_, int | float):
            check_lambda(float(lambda_))
        elif not callable(lambda_):
            raise ArgumentError(
                f"lambda_ must be a number or a function of the step, got {lambda_!r}"
            )
        if inputs is not None and not isinstance(inputs, Regression):
            came = type(inputs).__name__
            raise ArgumentError(
                f"inputs must be a model such as synthgrad.inputs.SyntheticInput, got {came}"
            )
        self.feedback = feedback
        self.inputs = inputs
        self.lambda_ = lambda_
        self.reduction = reduction
        self.batch_dim = batch_dim
        self.name = name
        self.check_finite = check_finite
        self.step = 0
        self._noted = Magnitude()
        self._behind: tuple[nn.Module, ...] = ()  # in a tuple: the sender is no part of this module
        self.record = _guards.watch(self)

    def forward(self, h: Tensor, context: Any = None) -> Tensor:
        """Returns the message; its error is decided in the backward pass.

        Args:
            h: the message: "batch features", "batch time features" or
                "batch channels height width"; with ``batch_dim=1`` "time batch features".
            context: what a conditional feedback model sees besides; by default that of
                :func:`synthgrad.context`. Labels of every position have the message's own axes.

        Returns:
            A tensor equal to ``h``.

        Raises:
            ShapeError: the feedback model was built for other messages.
            ContextError: the context is missing or does not fit the message.
            NonFiniteError: in the backward pass, where the arriving error holds NaN or infinity.
            LockingError: in the backward pass: a second one comes through the same message at
                λ < 1, or the receiver has worked on the message in place.
        """
        self._check_message(h)
        if context is None and (context := current_context()) is None:
            context = self._context_under_way()
        learns = torch.is_grad_enabled()
        record = self.record
        if self.training:
            record.bypassed = False
            if learns:
                _guards.note_run(record, h)
        route = _route.get()
        if route is not None:
            return route(self, h, context)
        if not (self.training and learns):
            record.bypassed = learns and h.requires_grad
            return h
        call = self.call(h, context)
        link(h, call.values)
        if call.learns:
            call.expectation = _guards.expect(self)
        return call.pass_on(h)

    def send(self, h: Tensor, context: Any = None, *, late: bool = True) -> tuple[Tensor, Call]:
        """Unlocked use: the sender gets its error now, the feedback model its target later.

        Runs the sender's backward pass with ``δ̂ = M(h, c)``, which frees its graph, and returns
        the message, cut off from the sender. When the receiver's backward pass reaches it, or
        ``message.backward(delta)`` is called, the feedback model is fitted, as in inline use; a
        model that has been updated in the meantime predicts anew.

        Args:
            h: the message.
            context: as for :meth:`forward`.
            late: False where the error always comes before the feedback model is updated, which is
                a little quicker.

        Returns:
            The message, and the call that answers its error.

        Raises:
            LockingError: ``lambda_`` is not 0: any part of the real error would have to be waited
                for.
            NonFiniteError: the synthetic error holds NaN or infinity; the sender has not got it.
            ShapeError, ContextError: as for :meth:`forward`.
        """
        self._check_message(h)
        call = self.unlocked_call(h, context, late=late)
        self.check_synthetic(h, call.synthetic)
        if h.requires_grad:
            h.backward(call.synthetic)
        return self.hand_over(h, call), call

    def unlocked_call(self, h: Tensor, context: Any, *, late: bool = False) -> Call:
        """Predicts the error of ``h`` for a sender that does not wait for the real one.

        Args:
            h: the message.
            context: what the feedback model sees besides.
            late: as for :meth:`send`.

        Raises:
            LockingError, ShapeError, ContextError: as for :meth:`send`.
        """
        lambda_ = self.current_lambda()
        if lambda_ != 0:
            raise LockingError(
                f"{self.label}: lambda_ is {lambda_} at step {self.step}, so its sender has to "
                "wait for the real error and cannot be unlocked; expected lambda_=0"
            )
        _guards.note_run(self.record, h)
        call = self.call(h, context, late=late)
        link(h, call.values)
        return call

    @staticmethod
    def hand_over(h: Tensor, call: Call) -> Tensor:
        """The message for the receiver, cut off from its sender; ``call`` answers its error."""
        message = h.detach()
        call.unlocked = True
        if not call.learns:  # nothing else would make the error come back, and models may remember
            message.requires_grad_()
        return call.pass_on(message)

    def call(self, h: Tensor, context: Any, *, late: bool = False) -> Call:
        """Predicts the error of ``h``; the result answers the real one when it arrives."""
        with self.named():
            return Call(self, h, context, late=late)

    def current_lambda(self) -> float:
        """The weight of the real error at this step.

        Raises:
            ArgumentError: a function of the step returned something outside [0, 1].
        """
        value = self.lambda_(self.step) if callable(self.lambda_) else self.lambda_
        if not 0 <= value <= 1:
            raise ArgumentError(
                f"{self.label}: lambda_ must lie in [0, 1], got {value!r} at step {self.step}"
            )
        return value

    @property
    def label(self) -> str:
        """How error messages call this interface."""
        return self._label()

    def named(self) -> about:
        """Puts the name of this interface before every error of the block."""
        return about(self._label)

    def _label(self) -> str:
        if self.name is not None:
            return f"interface {self.name!r}"
        return f"interface {type(self.feedback).__name__}({self.feedback.extra_repr()})"

    def check(self, delta: Tensor) -> None:
        """Refuses an arriving error that no model should be fitted to, or notes it for later.

        Raises:
            NonFiniteError: it holds NaN or infinity.
            LockingError: the first error of all arrives while a CUDA graph is captured.
        """
        if not self.check_finite:
            return
        if self.check_finite == "later" or capturing(delta):
            if not self._noted.note(delta):
                raise LockingError(
                    f"{self.label}: no error came back yet; run a step before a CUDA graph of it "
                    "is captured"
                )
            return
        if delta.is_cuda:
            self._noted.prepare(delta)  # for a capture that may follow
        if not is_finite(delta):
            what = f"the error that came back for a message of shape {tuple(delta.shape)}"
            with self.named():
                raise refusal(delta, what, "Nothing was fitted to it.")

    def check_synthetic(self, h: Tensor, synthetic: Tensor) -> None:
        """Refuses a synthetic error that no sender should be updated with.

        Raises:
            NonFiniteError: it holds NaN or infinity, as it does where the message does.
        """
        if self.check_finite is not True or capturing(synthetic) or is_finite(synthetic):
            return
        what = f"the synthetic error of a message of shape {tuple(h.shape)}"
        blame = f"{int((~h.isfinite()).sum())} are in the message itself. "
        with self.named():
            raise refusal(synthetic, what, f"{blame}Its sender was not updated.")

    def check_noted(self) -> None:
        """Refuses what was noted since the last call (``check_finite``), and waits for the device.

        Raises:
            NonFiniteError: an error that came back held NaN or infinity.
        """
        if not math.isfinite(self._noted.take()):
            raise NonFiniteError(
                f"{self.label}: an error that came back by step {self.step} held NaN or infinity; "
                "expected finite values. The feedback model was fitted to it, since such errors "
                "are noted on the device and reported afterwards."
            )

    def count_step(self) -> None:
        """An optimiser of the feedback model steps, after errors have come back."""
        self.__dict__["step"] = self.step + 1  # around nn.Module's slow setting of attributes

    def cut_behind(self, sender: nn.Module) -> None:
        """Says which module's output this cuts."""
        self._behind = (sender,)

    def sender(self) -> nn.Module | None:
        """The module whose output this cuts, where :func:`synthgrad.decouple` put it there."""
        return self._behind[0] if self._behind else None

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In a copy, or in another process, optimisers look at it as well."""
        super().__setstate__({"batch_dim": 0, "_behind": ()} | state)
        self.record = _guards.watch(self)

    def get_extra_state(self) -> Tensor:
        """The step, which a function of the step needs to go on after a restart."""
        return torch.tensor(self.step)

    def set_extra_state(self, state: Any) -> None:
        """Restores the step; version 0.1 kept it as ``{"step": 3}``."""
        self.step = round(float(state["step"] if isinstance(state, dict) else state))

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        name = "" if self.name is None else f"{self.name!r}, "
        return f"{name}lambda_={self.lambda_}, reduction={self.reduction!r}"

    def _context_under_way(self) -> Any:
        """Where a checkpoint runs this again in a backward pass: the context of its first run.

        Raises:
            ContextError: several messages are under way, with different contexts.
        """
        if not self.record.waiting or current_walk() is None:
            return None
        given = {id(call.given): call.given for call in self.record.waiting if not call.served}
        if len(given) > 1:
            raise ContextError(
                f"{self.label}: it runs again inside a backward pass (torch.utils.checkpoint), and "
                f"{len(given)} of its messages are under way with different contexts; expected "
                "the context as an argument: interface(h, context)"
            )
        return next(iter(given.values()), None)

    def _check_message(self, h: Any) -> None:
        if not isinstance(h, Tensor) or not h.is_floating_point() or h.ndim < 2:
            came = _checks.came(h) if isinstance(h, Tensor) else type(h).__name__
            with self.named():
                raise ShapeError(f"a message is one floating-point tensor (batch, ...), got {came}")
        dim = self.batch_dim
        if dim and not -h.ndim <= dim < h.ndim:
            with self.named():
                raise ShapeError(
                    f"batch_dim={dim} is no axis of a message of shape {tuple(h.shape)}"
                )


class Call:
    """One message on its way through an interface; answers its real error when that arrives.

    The engine is :class:`Prediction`; here is the policy: checks, λ, what losses were multiplied
    by, and what a second backward pass means.

    Args:
        interface: whose message it is.
        h: the message.
        context: what the feedback model sees besides.
        late: whether the error may come after the model has been updated.

    Attributes:
        synthetic: the synthetic error on the scale that autograd carries, detached, in the
            message's own shape; until :meth:`pass_on`.
        learns: whether there is anything to fit.
        served: whether the error has arrived.
        given: the context as it was given.
        marks: what :func:`synthgrad.loss` left at the losses above; they know what each was
            multiplied by.
        values: of the loss, where the feedback model is a critic.
        unlocked: whether the sender has its error already.
    """

    def __init__(self, interface: Interface, h: Tensor, context: Any, *, late: bool) -> None:
        if isinstance(context, Tensor) and context.requires_grad:
            context = context.detach()  # it is known, not learned: no error goes into it
        self.interface = interface
        self.given = context
        self.expectation: _guards.Expectation | None = None
        self.values: Values | None = None
        self.served = self.unlocked = False
        self.marks: list[Mark] = []
        self._recomputed = current_walk()
        dim = interface.batch_dim
        feedback, message = interface.feedback, batch_first(h.detach(), dim)
        arranged = context_beside(context, dim)
        self._prediction = prediction = Prediction(
            feedback, message, arranged, interface.reduction, h.dtype, late=late
        )
        self.synthetic = batch_back(prediction.synthetic, dim)
        self.learns = prediction.learns
        if feedback.fitted_to == "loss":
            self.values = Values(feedback, prediction.message, arranged)
        if context is not None:
            interface.record.waiting.add(self)

    def pass_on(self, h: Tensor) -> Tensor:
        """The message for its receivers; this call answers the error that comes back for it."""
        prediction = self._prediction
        # Without anything to fit, the receiver may work on the message in place.
        saved = (self.synthetic, prediction.message) if self.learns else (self.synthetic,)
        result = redirect(h, self, prediction.fitted, saved)
        del self.synthetic
        prediction.release()
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
        with interface.named():
            interface.check(delta)
            if self.served:
                return self._answer_again(delta, synthetic)
            self.served = interface.record.answered = True
            if self.expectation is not None:
                self.expectation.served = True
            factor = factor_of(self.marks, recomputed=self._recomputed, unlocked=self.unlocked)
            lambda_ = interface.current_lambda()
            if factor is not None:
                synthetic = synthetic * factor.to(synthetic)
            elif lambda_ < 1 and not isinstance(self._prediction.feedback, Zero):
                interface.record.unscaled = True
            error = mix(delta, synthetic, lambda_)
            value = None
            if self.values is not None:
                value = self.values.resolve(lambda_, required=self.learns)
            delta = batch_first(delta, interface.batch_dim)
            synthetic = batch_first(synthetic, interface.batch_dim)
            message = synthetic if message is None else message  # nothing is fitted then
            fit = self._prediction.answer(delta, synthetic, message, factor, value)
            return error, *fit

    def explain(self, problem: RuntimeError) -> Exception:
        """The error to raise where the graph has not what it saved (``problem`` says why)."""
        if self.served:
            return LockingError(f"{self.interface.label}: {_SECOND_PASS}")
        return LockingError(
            f"{self.interface.label}: its receiver has changed the message in place, and the "
            "feedback model is fitted with the message as it was; expected a receiver that works "
            "on a copy, such as nn.ReLU(inplace=False)"
        )

    def _answer_again(self, delta: Tensor, synthetic: Tensor) -> Sequence[Tensor | None]:
        """A second backward pass through one message.

        Its errors add up to one, so with the real error alone below (λ = 1) everything is right:
        of the regression's gradient only that of the further error is missing. A synthetic error
        stands for the whole, and there is no telling which pass it belongs to.
        """
        interface, feedback = self.interface, self.interface.feedback
        observes = type(feedback).observe is not Feedback.observe
        by_regression = self._prediction.by_regression
        whole = interface.current_lambda() == 1 and (by_regression or not self.learns)
        if observes or not (whole or isinstance(feedback, Zero)):
            raise LockingError(_SECOND_PASS)
        error = mix(delta, synthetic, interface.current_lambda())
        return error, *self._prediction.answer_more(batch_first(delta, interface.batch_dim))


_SECOND_PASS = (
    "a second backward pass came through one message, whose whole error was answered in the first; "
    "expected one pass: add the losses up before backward(), or run the forward pass anew for each"
)
