"""Update-unlocked training: each segment is updated before the next one runs (fig. 9)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from synthgrad import _checks
from synthgrad._values import losses
from synthgrad.context import context as in_context
from synthgrad.context import current_context
from synthgrad.errors import LockingError, SynthgradError
from synthgrad.interface import Call, Interface, routed
from synthgrad.schedule.gather import Gather
from synthgrad.schedule.guard import Guard
from synthgrad.schedule.optimizers import MakeOptimizer, Optimizers
from synthgrad.schedule.segments import Segment, find_segments


class Unlocked:
    """Trains a model whose interfaces cut it into segments, one segment at a time.

    The order is that of fig. 9. Segment i runs; the feedback model behind it predicts the error;
    the segment is updated at once and its graph is freed; then segment i + 1 runs on the message.
    Its own backward pass gives the real (bootstrapped) error of the message, to which the feedback
    model is fitted. Only one segment's activations are alive at any time.

    The gradients are those of inline use. The first step looks at the graph, and an optimiser is
    made for each segment from its parameters and those of the feedback models at its inputs.

    Args:
        model: a module with interfaces, all at ``lambda_=0``.
        optimizer: makes an optimiser from parameters, for example
            ``functools.partial(torch.optim.Adam, lr=1e-3)``.
        feedback_optimizer: the same for feedback models, where they want another one.

    Attributes:
        optimizers: by name, one per segment (and one more per segment for its feedback models, if
            asked for), in the order of the updates; empty before the first step.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: MakeOptimizer,
        *,
        feedback_optimizer: MakeOptimizer | None = None,
    ) -> None:
        self.model = _checks.module("model", model)
        _checks.function("optimizer", optimizer)
        _checks.functions(feedback_optimizer=feedback_optimizer)
        self.optimizers = Optimizers()
        self._make = optimizer
        self._make_feedback = feedback_optimizer
        self._segments: dict[Interface | None, Segment] = {}
        self._updates: dict[Interface | None, list[torch.optim.Optimizer]] = {}
        self._guard: Guard | None = None

    def step(self, x: Any, loss_fn: Callable[[Any], Tensor], context: Any = None) -> Tensor:
        """One forward pass, with every segment updated on the way.

        Args:
            x: the model's input.
            loss_fn: ``loss_fn(output)`` returns the scalar loss, or the loss of each example,
                "batch", whose mean is then taken (critics need it so).
            context: what conditional feedback models see besides, such as labels; by default that
                of :func:`synthgrad.context`.

        Returns:
            The loss, a detached scalar.

        Raises:
            LockingError: at the first step, before anything is updated: the graph does not split
                at the interfaces (a skip around a cut, a parameter in two segments, an interface
                that no gradient reaches). At any step: ``lambda_`` is not 0, an interface is in
                eval mode, a layer was exchanged, or a path joins what was cut at the first step.
            NonFiniteError: a message's synthetic error, the loss, a target or a gradient holds NaN
                or infinity. Nothing that is not finite has got into a weight, a statistic or an
                optimiser's state; segments that were updated before keep what they learned.
        """
        if not self.model.training:
            raise LockingError("the model is in eval mode; call model.train() before step()")
        _checks.function("loss_fn", loss_fn)
        if not self._segments:
            self.prepare(x, loss_fn, context)
        context = current_context() if context is None else context
        self.optimizers.clear_gradients()
        guard = self._guard
        assert guard is not None
        run = _Run(self, guard)
        try:
            with guard.step(), torch.enable_grad(), in_context(context):
                with routed(run.cut):
                    output = self.model(x)
                return run.finish(_checks.loss(loss_fn(output)))
        except RuntimeError as error:
            if not isinstance(error, SynthgradError):
                guard.explain(error, lambda: find_segments(self.model, x, loss_fn, context))
            raise

    def prepare(self, x: Any, loss_fn: Callable[[Any], Tensor], context: Any = None) -> None:
        """Finds the segments and makes their optimisers, once; the first step does it if needed.

        What this pass does not use, or is frozen, is updated with the last segment when it learns.

        Raises:
            LockingError: as for :meth:`step`.
        """
        if self._segments:
            return
        segments = find_segments(self.model, x, loss_fn, context)
        taken: set[nn.Parameter] = set()
        feedback: dict[Interface | None, list[nn.Parameter]] = {}
        # From the top, so that a feedback model that interfaces share goes with its last use.
        for segment in reversed(segments):
            own = [p for i in segment.fits for p in i.feedback.parameters()]
            feedback[segment.interface] = [p for p in dict.fromkeys(own) if p not in taken]
            taken.update(own)
        for segment in segments:
            own = segment.parameters + segment.unseen
            fitted = feedback[segment.interface]
            if self._make_feedback is None:
                asked = [(segment.name, self._make, own + fitted)]
            else:
                asked = [
                    (segment.name, self._make, own),
                    (f"{segment.name} feedback", self._make_feedback, fitted),
                ]
            for request in asked:
                self.optimizers.make(*request)
            self._updates[segment.interface] = [
                self.optimizers[name] for name, _, parameters in asked if parameters
            ]
        self.optimizers.made()
        self._guard = Guard(self.model, self.optimizers)
        self._segments = {segment.interface: segment for segment in segments}

    def state_dict(self) -> dict[str, Any]:
        """The state of every optimiser, by name."""
        return self.optimizers.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`; before the first step, it is kept until then.

        Raises:
            ArgumentError: it belongs to a model that is cut elsewhere.
        """
        self.optimizers.load_state_dict(state)


class _Run:
    """The messages of one step that still wait for their error."""

    def __init__(self, schedule: Unlocked, guard: Guard) -> None:
        self.schedule = schedule
        self.guard = guard
        self.calls: dict[Interface, Call] = {}
        self.gathering: dict[Interface, Gather] = {}

    def cut(self, interface: Interface, h: Tensor, context: Any) -> Tensor:
        segment = self._segment(interface)
        if interface in self.calls:
            raise LockingError(f"{interface.label} ran twice in this step, once in the first")
        message, call = interface.send(h, context, late=False)
        self._settle(segment)
        self.calls[interface] = call
        if not segment.shared:
            return message
        gather = self.gathering[interface] = Gather(message, call)
        return gather.received

    def finish(self, loss: Tensor) -> Tensor:
        segment = self._segment(None)
        if loss.ndim:
            loss = losses(loss).mean()
        self.guard.check_loss(loss)
        loss.backward()
        self._settle(segment)
        return loss.detach()

    def _segment(self, interface: Interface | None) -> Segment:
        segment = self.schedule._segments.get(interface)
        if segment is None:
            assert interface is not None
            raise LockingError(
                f"{interface.label} did not run in the first step; a schedule needs the same "
                "interfaces in each"
            )
        return segment

    def _settle(self, segment: Segment) -> None:
        """Fits what now has its whole error, and updates the segment."""
        for interface in segment.fits:
            if interface in self.gathering:
                self.gathering.pop(interface).deliver()
            call = self.calls.pop(interface, None)
            if call is None or not call.served:
                raise LockingError(f"{interface.label}: no gradient reached it in this step")
        checks = segment.interface is None or segment.interface.check_finite is True
        updates = self.schedule._updates[segment.interface]
        self.guard.update(segment.name, updates, checks=checks)
