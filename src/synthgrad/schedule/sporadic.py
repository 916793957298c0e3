"""Sporadic training: after a forward pass each segment is updated with some probability (3.3)."""

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
from synthgrad.schedule.chance import Chance, Order, Probability
from synthgrad.schedule.gather import Gather
from synthgrad.schedule.guard import Guard
from synthgrad.schedule.optimizers import Counted, MakeOptimizer, Optimizers
from synthgrad.schedule.segments import Segment, find_segments

_UNSEEN = "not seen at first"
"""The optimiser of parameters that no segment used in the first pass; no interface is called so."""


class Sporadic(Counted):
    """Updates each segment independently, with probability ``p_update``, in random order.

    After the forward pass, a segment that goes runs its backward pass from the synthetic error of
    its message (the last segment: from the loss) and is updated. So the feedback models at its
    inputs get their target, and are fitted. A segment that skips costs no backward work: neither
    its own, nor that of the feedback models at its inputs.

    A message that several segments receive has its whole error, and its model a target, only when
    all of them go.

    Args:
        model: a module with interfaces, all at ``lambda_=0``.
        optimizer: makes an optimiser from the parameters of a segment or of a feedback model, for
            example ``functools.partial(torch.optim.Adam, lr=1e-3)``.
        p_update: the probability for every segment, or for each by name: the name of the interface
            at its end, "output" for the last one. Segments not named go at every step.
        order: in which segments go: "random", or "forward", from the input to the loss.
        feedback_optimizer: the same as ``optimizer`` for feedback models, where they want another.
        generator: where the choices come from; by default PyTorch's.

    Attributes:
        optimizers: by name, one per segment and one per feedback model; empty before the first
            step.
        updates: how often each segment has been updated, by name.

    Raises:
        ArgumentError: a probability lies outside [0, 1], or the order is none of the two. At the
            first step: a probability is given for a segment that the model has not.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: MakeOptimizer,
        p_update: Probability = 1.0,
        *,
        order: Order = "random",
        feedback_optimizer: MakeOptimizer | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.model = _checks.module("model", model)
        _checks.function("optimizer", optimizer)
        _checks.functions(feedback_optimizer=feedback_optimizer)
        self._chance = Chance(p_update, order, generator)
        self.optimizers = Optimizers()
        self.updates = {}
        self._make = optimizer
        self._make_feedback = feedback_optimizer or optimizer
        self._segments: dict[Interface | None, Segment] = {}
        self._receivers: dict[Interface, list[Segment]] = {}
        self._fitters: dict[Interface, set[str]] = {}
        self._guard: Guard | None = None

    def step(self, x: Any, loss_fn: Callable[[Any], Tensor], context: Any = None) -> Tensor:
        """One forward pass, then the updates of the segments that go.

        Args:
            x: the model's input.
            loss_fn: ``loss_fn(output)`` returns the scalar loss, or the loss of each example,
                "batch", whose mean is then taken (critics need it so).
            context: what conditional feedback models see besides, such as labels; by default that
                of :func:`synthgrad.context`.

        Returns:
            The loss, a detached scalar.

        Raises:
            LockingError, NonFiniteError: as for :meth:`synthgrad.Unlocked.step`.
        """
        if not self.model.training:
            raise LockingError("the model is in eval mode; call model.train() before step()")
        _checks.function("loss_fn", loss_fn)
        if not self._segments:
            self.prepare(x, loss_fn, context)
        context = current_context() if context is None else context
        self.optimizers.clear_gradients()
        segments = list(self._segments.values())
        going = [segments[position] for position in self._chance.draw()]
        guard = self._guard
        assert guard is not None
        run = _Run(self, guard, going)
        try:
            with guard.step(), torch.enable_grad(), in_context(context):
                with routed(run.cut):
                    output = self.model(x)
                run.check_seen()
                loss = _checks.loss(loss_fn(output))
                run.tops[None] = loss = losses(loss).mean() if loss.ndim else loss
                guard.check_loss(loss)
                for segment in going:
                    run.go(segment)
                run.fit()
        except RuntimeError as error:
            if not isinstance(error, SynthgradError):
                guard.explain(error, lambda: find_segments(self.model, x, loss_fn, context))
            raise
        return loss.detach()

    def prepare(self, x: Any, loss_fn: Callable[[Any], Tensor], context: Any = None) -> None:
        """Finds the segments and makes their optimisers, once; the first step does it if needed.

        What this pass does not use, or is frozen, has an optimiser of its own, which goes when an
        error has reached it.

        Raises:
            LockingError: as for :meth:`step`.
            ArgumentError: a probability is given for a segment that the model has not.
        """
        if self._segments:
            return
        segments = find_segments(self.model, x, loss_fn, context)
        self._chance.among([segment.name for segment in segments])
        self._receivers = {}
        for segment in segments:
            self.optimizers.make(segment.name, self._make, segment.parameters)
            for interface in segment.inputs:
                self._receivers.setdefault(interface, []).append(segment)
        self.optimizers.make(_UNSEEN, self._make, segments[-1].unseen)
        # Interfaces that share a feedback model share its optimiser.
        owner: dict[nn.Parameter, str] = {}
        for segment in segments:
            if (interface := segment.interface) is not None:
                name = f"{segment.name} feedback"
                own = list(interface.feedback.parameters())
                self.optimizers.make(name, self._make_feedback, [p for p in own if p not in owner])
                owner = dict.fromkeys(own, name) | owner
                self._fitters[interface] = {owner[p] for p in own}
        self.optimizers.made()
        self.updates = {s.name: self.updates.get(s.name, 0) for s in segments}
        self._guard = Guard(self.model, self.optimizers)
        self._segments = {segment.interface: segment for segment in segments}


class _Run:
    """One step: what was sent in the forward pass, and what came back."""

    def __init__(self, schedule: Sporadic, guard: Guard, going: list[Segment]) -> None:
        self.schedule = schedule
        self.guard = guard
        self.going = {segment.interface for segment in going}
        self.seen: set[Interface] = set()
        self.tops: dict[Interface | None, Tensor] = {}
        self.errors: dict[Interface, Tensor] = {}
        self.calls: dict[Interface, Call] = {}
        self.gathering: list[Gather] = []

    def cut(self, interface: Interface, h: Tensor, context: Any) -> Tensor:
        receivers = self.schedule._receivers.get(interface)
        if receivers is None:
            raise LockingError(
                f"{interface.label} did not run in the first step; a schedule needs the same "
                "interfaces in each"
            )
        if interface in self.seen:
            raise LockingError(f"{interface.label} ran twice in this step, once in the first")
        self.seen.add(interface)
        sends = interface in self.going
        fits = all(segment.interface in self.going for segment in receivers)
        if not (sends or fits):
            return h.detach()
        call = interface.unlocked_call(h, context)
        if sends:
            interface.check_synthetic(h, call.synthetic)
            self.tops[interface], self.errors[interface] = h, call.synthetic
        if not fits:
            return h.detach()
        self.calls[interface] = call
        message = interface.hand_over(h, call)
        if len(receivers) == 1:
            return message
        self.gathering.append(Gather(message, call))
        return self.gathering[-1].received

    def go(self, segment: Segment) -> None:
        """One segment's backward pass and update."""
        # Taken out, so that its activations go with its graph.
        top = self.tops[None] if segment.interface is None else self.tops.pop(segment.interface)
        self.guard.expect_no_gradient(segment.name, segment.parameters)
        if top.requires_grad:
            top.backward(None if segment.interface is None else self.errors[segment.interface])
        checks = segment.interface is None or segment.interface.check_finite is True
        self._update(segment.name, segment.name, checks=checks)
        self.schedule.updates[segment.name] += 1

    def check_seen(self) -> None:
        """Refuses a pass that left an interface out, before anything is updated."""
        for interface in self.schedule._segments:
            if interface is not None and interface not in self.seen:
                raise LockingError(
                    f"{interface.label} did not run in this step; a schedule needs the same "
                    "interfaces in each"
                )

    def fit(self) -> None:
        """Updates the feedback models whose messages now have their whole error."""
        for gather in self.gathering:
            gather.deliver()
        for interface, call in self.calls.items():
            if not call.served:
                raise LockingError(f"{interface.label}: no gradient reached it in this step")
        fitted = (self.schedule._fitters[interface] for interface in self.calls)
        for name in dict.fromkeys(name for names in fitted for name in names):
            self._update(name, name)
        self._update(_UNSEEN, _UNSEEN)

    def _update(self, name: str, segment: str, *, checks: bool = True) -> None:
        if name in self.schedule.optimizers:
            self.guard.update(segment, [self.schedule.optimizers[name]], checks=checks)
