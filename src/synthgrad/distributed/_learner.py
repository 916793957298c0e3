"""What one stage computes: its segment, the feedback model behind it, and their updates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from synthgrad import _checks
from synthgrad._optimizers import MakeOptimizer
from synthgrad._step_guard import StepGuard
from synthgrad._values import losses
from synthgrad.context import context as in_context
from synthgrad.errors import ArgumentError, LockingError, ShapeError, about
from synthgrad.feedback import Feedback, Regression
from synthgrad.functional import squared_error
from synthgrad.interface import Interface

LossFn = Callable[[Any, Tensor], Tensor]


class Learner:
    """Trains one segment. Errors are those of the mean loss, as autograd carries them.

    Interfaces inside the segment work in line; their feedback models learn in the same step.

    Args:
        segment: the network's modules in this stage.
        optimizer: makes an optimiser from parameters.
        feedback: of the message that leaves, or an interface with such a model, whose name,
            reduction, batch_dim and check_finite count; None for the last segment.
        loss_fn: ``loss_fn(output, y)``, a scalar or the loss of each example; for the last segment.
        feedback_optimizer: for feedback models and ``inputs``, where they want another.
        inputs: predicts the message that comes in.
        input_optimizer: for ``inputs``, where they want yet another.
        label: how errors call it.
        check_finite: whether NaN and infinity are refused before anything takes them in.

    Raises:
        ArgumentError: not exactly one of ``feedback`` and ``loss_fn`` is there; or the feedback
            model is fitted to values of the loss, which do not travel; or its interface is also
            part of the segment.
        LockingError: the interface's ``lambda_`` is not 0.
    """

    def __init__(
        self,
        segment: nn.Module,
        optimizer: MakeOptimizer,
        *,
        feedback: Feedback | Interface | None,
        loss_fn: LossFn | None,
        feedback_optimizer: MakeOptimizer | None = None,
        inputs: Regression | None = None,
        input_optimizer: MakeOptimizer | None = None,
        label: str = "the stage",
        check_finite: bool = True,
    ) -> None:
        _checks.module("segment", segment)
        _checks.function("optimizer", optimizer)
        _checks.functions(
            loss_fn=loss_fn,
            feedback_optimizer=feedback_optimizer,
            input_optimizer=input_optimizer,
        )
        if (feedback is None) == (loss_fn is None):
            raise ArgumentError(
                "the last stage has a loss_fn, and every other one a feedback model"
            )
        if inputs is not None:
            _checks.of_kind("inputs", inputs, Regression, "a model such as SyntheticInput")
        self.segment, self.loss_fn, self.inputs = segment, loss_fn, inputs
        self.interface: Interface | None = None
        if feedback is not None:
            self.interface = outgoing(feedback, check_finite=check_finite)
            if self.interface in segment.modules():
                raise ArgumentError(
                    f"{self.interface.label}: it is part of the segment and stands behind it as "
                    "well; expected it behind the segment alone (synthgrad.recouple takes it out)"
                )
            feedback = self.interface.feedback
        inner = [m for m in segment.modules() if isinstance(m, Interface)]
        # In an order that is the same in the process that will load this one's state.
        learned = dict.fromkeys(p for i in inner for p in i.feedback.parameters())
        own = [p for p in segment.parameters() if p not in learned]
        make = feedback_optimizer or optimizer
        asked = {
            "segment": (optimizer, own),
            "inner": (make, list(learned)),
            "feedback": (make, _parameters(feedback)),
            "inputs": (input_optimizer or make, _parameters(inputs)),
        }
        self.optimizers: dict[str, Optimizer] = {}
        for name, (maker, parameters) in asked.items():
            if trained := [p for p in parameters if p.requires_grad]:
                self.optimizers[name] = _checks.of_kind(
                    f"what makes the optimiser of {name!r}, its result,",
                    maker(trained),
                    Optimizer,
                    "a torch.optim.Optimizer",
                )
        modules = [m for m in (segment, feedback, inputs) if m is not None]
        called = "its {}".format
        self._guard = StepGuard(modules, self.optimizers, called=called, enabled=check_finite)
        self._label = label

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around :meth:`forward` and :meth:`backward`: one that fails leaves nothing behind.

        Raises:
            SynthgradError: whatever is wrong, with the stage's name.
        """
        with about(self._label), self._guard.step():
            yield

    @property
    def device(self) -> torch.device:
        """Where the segment is."""
        return next((p.device for p in self.segment.parameters()), torch.device("cpu"))

    @property
    def wants_targets(self) -> bool:
        """Whether anything is done with a target."""
        if self.interface is None:
            return False
        feedback = self.interface.feedback
        return "feedback" in self.optimizers or type(feedback).observe is not Feedback.observe

    def forward(self, h: Tensor, y: Tensor) -> Any:
        """Runs the segment, with a graph.

        Raises:
            NonFiniteError: the input holds NaN or infinity, or the message to be sent does.
        """
        self._guard.check("its input", h)
        with torch.enable_grad(), in_context(y):
            output = self.segment(h)
        if self.interface is not None:
            self._guard.check("its message", output)
        return output

    def backward(self, output: Tensor, y: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The backward pass from the synthetic error, or from the loss; then the update.

        Args:
            output: of :meth:`forward`.
            y: the labels.

        Returns:
            The loss, of the last segment; of any other the message, which :meth:`fit` takes.

        Raises:
            NonFiniteError: the loss, the synthetic error or a gradient holds NaN or infinity; there
                was no update.
        """
        self._clear("segment", "inner")
        loss = message = None
        with torch.enable_grad():
            if self.interface is None:
                assert self.loss_fn is not None
                loss = self.loss_fn(output, y)
                loss = losses(loss).mean() if loss.ndim else loss
                self._guard.check("the loss", loss)
                loss.backward()
                loss = loss.detach()
            else:
                message, _ = self.interface.send(output, y)
        self._update("segment", "inner")
        return loss, message

    def fit(self, message: Tensor, delta: Tensor, y: Tensor | None = None) -> None:
        """Fits the feedback model to the error that came back for a message.

        A model that has changed since it predicted predicts anew: what it is corrected for is
        what it would say now (:meth:`synthgrad.Interface.send`).

        Args:
            message: of :meth:`backward`; or one that came back with its error.
            delta: its error, of the mean loss.
            y: the labels of one that came back; it has no prediction yet.

        Raises:
            ShapeError: the error is not of the message's shape.
            NonFiniteError: it holds NaN or infinity; nothing was fitted to it.
        """
        assert self.interface is not None
        if delta.shape != message.shape:
            raise ShapeError(
                f"a target of shape {tuple(delta.shape)} came for a message of shape "
                f"{tuple(message.shape)}"
            )
        self._clear("feedback")
        with self.step():
            self._guard.check("the error that came back", delta)
            self._guard.check("a message that an error came back for", message)
            if y is not None:
                with torch.enable_grad():
                    message, _ = self.interface.send(message, y)
            message.backward(delta.to(message.dtype))
            self._update("feedback")

    def predict(self, x: Tensor, y: Tensor) -> Tensor:
        """The synthetic input: what the stage below would send for this batch."""
        assert self.inputs is not None
        with self.step(), torch.no_grad():
            self._guard.check("the batch that its input is predicted from", x)
            predicted = self.inputs(x, y)
            self._guard.check("the input that it predicts", predicted)
        return predicted

    def fit_inputs(self, x: Tensor, y: Tensor, h: Tensor) -> None:
        """Fits the synthetic input to the message that really came."""
        assert self.inputs is not None
        self._clear("inputs")
        with self.step(), torch.enable_grad():
            self._guard.check("the batch that its input is predicted from", x)
            self._guard.check("its input", h)
            predicted = self.inputs(x, y)
            if predicted.shape != h.shape:
                raise ShapeError(
                    f"the synthetic input has shape {tuple(predicted.shape)}, the message "
                    f"{tuple(h.shape)}"
                )
            squared_error(predicted, h).backward()
            self._update("inputs")

    @torch.no_grad()
    def evaluate(self, h: Tensor) -> Any:
        """Runs the segment in eval mode; nothing is learned, and no statistic changes."""
        self.segment.eval()
        try:
            return self.segment(h)
        finally:
            self.segment.train()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "segment": self.segment.state_dict(),
            "interface": None if self.interface is None else self.interface.state_dict(),
            "inputs": None if self.inputs is None else self.inputs.state_dict(),
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "random": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to the moment of :meth:`state_dict`."""
        self.segment.load_state_dict(state["segment"])
        if self.interface is not None:
            self.interface.load_state_dict(state["interface"])
        if self.inputs is not None:
            self.inputs.load_state_dict(state["inputs"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        torch.set_rng_state(state["random"])

    def _clear(self, *names: str) -> None:
        for name in names:
            if name in self.optimizers:
                self.optimizers[name].zero_grad()

    def _update(self, *names: str) -> None:
        there = [self.optimizers[name] for name in names if name in self.optimizers]
        self._guard.update(names[0], there)


def outgoing(feedback: Feedback | Interface, *, check_finite: bool = True) -> Interface:
    """The interface behind a segment.

    Args:
        feedback: the interface itself, or its model alone.
        check_finite: of an interface for a model alone.

    Raises:
        ArgumentError: the model is fitted to values of the loss, which do not travel.
        LockingError: the interface's ``lambda_`` is not 0.
    """
    if not isinstance(feedback, Interface):
        _checks.of_kind("feedback", feedback, Feedback, "a synthgrad.feedback.Feedback")
        feedback = Interface(feedback, name="outgoing", check_finite=check_finite)
    if feedback.feedback.fitted_to != "error":
        raise ArgumentError(
            f"{feedback.label}: {type(feedback.feedback).__name__} is fitted to values of the "
            "loss; between processes only errors travel, so expected a model that is fitted to "
            "these"
        )
    if (lambda_ := feedback.current_lambda()) != 0:
        raise LockingError(
            f"{feedback.label}: lambda_ is {lambda_} at step {feedback.step}, so its sender has to "
            "wait for the real error, which a stage does not; expected lambda_=0"
        )
    return feedback


def _parameters(module: nn.Module | None) -> list[nn.Parameter]:
    return [] if module is None else list(module.parameters())
