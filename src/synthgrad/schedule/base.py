"""The contract of schedules: *when* the segments of a model run, and when each is updated."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from synthgrad import _checks, _sandbox
from synthgrad._optimizers import MakeOptimizer, Optimizers
from synthgrad._step_guard import StepGuard
from synthgrad._values import losses
from synthgrad.context import context as in_context
from synthgrad.context import current_context
from synthgrad.errors import ArgumentError, LockingError, SynthgradError, SynthgradWarning
from synthgrad.interface import Call, Interface, routed
from synthgrad.schedule._cuts import Segment, find_segments
from synthgrad.schedule._fan_in import Gather

LossFn = Callable[[Any], Tensor]
Share = tuple[str, MakeOptimizer, list[nn.Parameter]]
"""An optimiser's name, what makes it, and its parameters."""

_UNSEEN = "not seen at first"
"""The optimiser of parameters that no segment used in the first pass; no interface is called so."""


class Schedule(ABC):
    """Trains a model whose interfaces cut it into segments, each updated by itself.

    A schedule of your own derives from this and tells in :meth:`run` what happens in one step, in
    the words of :class:`Step`. All else is here: the first step looks at the graph, refuses one
    that does not split at the interfaces, and makes the optimisers; a step that fails leaves
    nothing behind that is not finite; states are saved and restored.

    Args:
        model: a module with interfaces, all at ``lambda_=0``.
        optimizer: makes an optimiser from parameters, for example
            ``functools.partial(torch.optim.Adam, lr=1e-3)``.
        feedback_optimizer: the same for feedback models, where they want another.

    Attributes:
        segments: in the order in which they run; empty before the first step.
        optimizers: by name; empty before the first step.
        updates: how often each segment has been updated, by name.

    Raises:
        ArgumentError: an argument is not of its kind.
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
        self.segments: list[Segment] = []
        self.optimizers = Optimizers()
        self.updates: dict[str, int] = {}
        self._make = optimizer
        self._make_feedback = feedback_optimizer
        self._guard: StepGuard | None = None
        self._ending_at: dict[Interface | None, Segment] = {}
        self._fitters: dict[Interface, list[str]] = {}

    @abstractmethod
    def run(self, step: Step) -> None:
        """What happens in one step.

        Feedback models whose messages have had their whole error by the end, and that this has not
        fitted itself, are fitted afterwards.
        """

    def step(self, x: Any, loss_fn: LossFn, context: Any = None) -> Tensor | None:
        """One step.

        Args:
            x: the model's input: one argument, a tuple of positional or a mapping of keyword
                arguments.
            loss_fn: ``loss_fn(output)`` returns the scalar loss, or the loss of each example,
                "batch", whose mean is then taken (critics need it so).
            context: what conditional feedback models see besides, such as labels; by default that
                of :func:`synthgrad.context`.

        Returns:
            The loss, a detached scalar; None where the last segment did not run.

        Raises:
            LockingError: at the first step, before anything is updated: the graph does not split
                at the interfaces (a skip around a cut, a parameter in two segments, an interface
                that no gradient reaches). At any step: ``lambda_`` is not 0, the model or an
                interface is in eval mode, a layer was exchanged, or a path joins what was cut at
                the first step.
            ShapeError, ContextError: a message, the loss or the context does not fit.
            NonFiniteError: a message's synthetic error, the loss, a target or a gradient holds NaN
                or infinity. Nothing that is not finite has got into a weight, a statistic or an
                optimiser's state; segments that were updated before keep what they learned.
        """
        if not self.model.training:
            raise LockingError("the model is in eval mode; call model.train() before step()")
        _checks.function("loss_fn", loss_fn)
        if not self.segments:
            self.prepare(x, loss_fn, context)
        assert self._guard is not None
        context = current_context() if context is None else context
        self.optimizers.clear_gradients()
        step = Step(self, self._guard, x, loss_fn, context)
        try:
            with self._guard.step(), torch.enable_grad(), in_context(context):
                self.run(step)
                step.finish()
        except RuntimeError as error:
            if not isinstance(error, SynthgradError):
                self._explain(error, x, loss_fn, context)
            raise
        return step.loss

    def prepare(self, x: Any, loss_fn: LossFn, context: Any = None) -> None:
        """Finds the segments and makes their optimisers, once; the first step does it if needed.

        Raises:
            LockingError: as for :meth:`step`.
            ArgumentError: an optimiser is none, or leaves parameters out; or a state that was
                loaded belongs to a model that is cut elsewhere.
        """
        if not self.segments:
            self.adopt(self.look(x, loss_fn, context))

    def look(self, x: Any, loss_fn: LossFn, context: Any = None) -> list[Segment]:
        """Finds the segments by a forward pass that leaves no trace."""
        return find_segments(self.model, x, loss_fn, context)

    def adopt(self, segments: list[Segment]) -> None:
        """Makes the optimisers of the segments that were found; called once."""
        if len(segments) == 1:  # a forgotten cut trains, only not as was meant
            warnings.warn(
                f"{type(self.model).__name__} has no interface, so this schedule is plain "
                "backpropagation; expected one at least, by sg.decouple() or as a submodule",
                SynthgradWarning,
                stacklevel=4,
            )
        shares = self.share_out(segments)
        for share in shares:
            self.optimizers.make(*share)
        self.optimizers.made()
        owner = {p: name for name, _, parameters in reversed(shares) for p in parameters}
        own = {p for segment in segments for p in segment.parameters}
        for interface in (i for segment in segments for i in segment.fits):
            fitted = [p for p in interface.feedback.parameters() if p in owner and p not in own]
            self._fitters[interface] = list(dict.fromkeys(owner[p] for p in fitted))
        self._ending_at = {segment.interface: segment for segment in segments}
        self.updates = {s.name: self.updates.get(s.name, 0) for s in segments}
        self._guard = StepGuard([self.model], self.optimizers)
        self.segments = segments

    def share_out(self, segments: list[Segment]) -> list[Share]:
        """Which parameters have an optimiser of their own: here each segment's and each model's.

        Interfaces that share a feedback model share its optimiser. What the first pass did not use,
        or is frozen, has another, which goes when an error has reached it.
        """
        shares = [(segment.name, self._make, segment.parameters) for segment in segments]
        shares.append((_UNSEEN, self._make, segments[-1].unseen))
        taken = {p for _, _, parameters in shares for p in parameters}
        for segment in segments:
            if segment.interface is not None:
                own = [p for p in segment.interface.feedback.parameters() if p not in taken]
                taken.update(own)
                shares.append((f"{segment.name} feedback", self._make_feedback or self._make, own))
        return shares

    def state_dict(self) -> dict[str, Any]:
        """The state of every optimiser, and how often each segment was updated.

        A generator that was given to a schedule is its user's to save.
        """
        return {"optimizers": self.optimizers.state_dict(), "updates": dict(self.updates)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`; before the first step, it may be kept until then.

        Raises:
            ArgumentError: it is no such state, or belongs to a model that is cut elsewhere.
        """
        if state.keys() != {"optimizers", "updates"}:
            raise ArgumentError(
                f"expected a state with 'optimizers' and 'updates', got one with {list(state)}"
            )
        counts = dict(state["updates"])
        if self.optimizers and counts and counts.keys() != self.updates.keys():
            raise ArgumentError(
                f"the state counts updates of {list(counts)}, this model has {list(self.updates)}"
            )
        self.optimizers.load_state_dict(state["optimizers"])
        self.updates = counts or dict.fromkeys(self.updates, 0)

    def _explain(self, error: RuntimeError, x: Any, loss_fn: LossFn, context: Any) -> None:
        """Looks whether the graph is still that of the first step, where PyTorch refused it.

        Raises:
            LockingError: it is another, and says how.
        """
        try:
            self.look(x, loss_fn, context)
        except LockingError as reason:
            raise LockingError(f"since the first step the model has changed: {reason}") from error
        except Exception:  # not what went wrong first
            return


class Step:
    """One step under way, and what a schedule can do in it.

    Attributes:
        x: the model's input.
        context: what conditional feedback models see besides.
        loss: a detached scalar; None as long as there is none.
        guard: watches over what is updated.
    """

    def __init__(
        self, schedule: Schedule, guard: StepGuard, x: Any, loss_fn: LossFn, context: Any
    ) -> None:
        self.x = x
        self.context = context
        self.loss: Tensor | None = None
        self.guard = guard
        self._schedule = schedule
        self._loss_fn = loss_fn
        self._going: set[Segment] | None = None
        self._then: Callable[[Segment], None] | None = None
        self._ran: set[Interface] = set()
        self._gone: set[Segment] = set()
        self._tops: dict[Segment, tuple[Tensor, Tensor | None]] = {}
        self._calls: dict[Interface, Call] = {}
        self._gathers: dict[Interface, Gather] = {}

    def forward(
        self,
        going: Collection[Segment] | None = None,
        then: Callable[[Segment], None] | None = None,
    ) -> None:
        """Runs the whole model, its segments cut off from each other; then makes the loss.

        Args:
            going: those that may go back in this step, where that is known; a message that none
                of them sends or answers costs no prediction.
            then: called when a segment has run, before the next one does.

        Raises:
            LockingError: other interfaces ran than in the first step, or one ran twice.
        """
        self._going = None if going is None else set(going)
        self._then = then
        with routed(self._cut):
            output = _sandbox.run(self._schedule.model, self.x)
        for interface in self._schedule._ending_at:
            if interface is not None and interface not in self._ran:
                raise LockingError(
                    f"{interface.label}: no gradient reached it in this step, since it did not "
                    "run; a schedule needs the same interfaces in each"
                )
        last = self._schedule.segments[-1]
        self._tops[last] = self.finish_loss(output), None
        if then is not None:
            then(last)

    def finish_loss(self, output: Any) -> Tensor:
        """The loss of the model's output, a finite scalar with its graph.

        Raises:
            ShapeError: it is neither a scalar nor one loss per example.
            NonFiniteError: it is NaN or infinite.
        """
        loss = _checks.loss(self._loss_fn(output))
        loss = losses(loss).mean() if loss.ndim else loss
        self.guard.check("the loss", loss)
        self.loss = loss.detach()
        return loss

    def error(self, segment: Segment) -> Tensor | None:
        """The synthetic error that a segment has to go back from; None for the last one.

        Raises:
            LockingError: it cannot go back (any more).
        """
        return self._top(segment)[1]

    def backward(self, segment: Segment) -> None:
        """A segment's backward pass, from the synthetic error of its message, or from the loss.

        Its activations go with its graph. It gives its inputs' feedback models their targets.

        Raises:
            LockingError: it cannot go back (any more), or something has reached its parameters
                before.
        """
        top, error = self._top(segment)
        del self._tops[segment]
        self.guard.expect_no_gradient(segment.name, segment.parameters)
        # A message without a graph has nothing to learn behind it. A loss without one is the
        # user's mistake, of which PyTorch tells, unless its graph ended at those who stay.
        if top.requires_grad or (error is None and self._going is None):
            top.backward(error)
        self._gone.add(segment)

    def fit(self, interfaces: Iterable[Interface]) -> None:
        """Gives feedback models their gradients: all who received their messages have gone back.

        Raises:
            LockingError: no error came back for one of the messages.
        """
        for interface in interfaces:
            if interface in self._gathers:
                self._gathers.pop(interface).deliver()
            call = self._calls.pop(interface, None)
            if call is None or not call.served:
                raise LockingError(f"{interface.label}: no gradient reached it in this step")

    def update(self, segment: Segment, *others: str) -> None:
        """Steps the optimiser of a segment that has gone back, unless a gradient is not finite.

        Args:
            segment: which it is.
            others: the names of optimisers that step with it; those that there are not are left
                out.

        Raises:
            NonFiniteError: a gradient holds NaN or infinity; none of them has stepped.
        """
        checks = segment.interface is None or segment.interface.check_finite is True
        self._advance(segment.name, (segment.name, *others), checks)
        self._schedule.updates[segment.name] += 1

    def advance(self, name: str, *, checks: bool = True) -> None:
        """Steps one optimiser, where there is one of that name, unless a gradient is not finite.

        Raises:
            NonFiniteError: a gradient holds NaN or infinity; it has not stepped.
        """
        if name in self._schedule.optimizers:
            self._advance(name, (name,), checks)

    def finish(self) -> None:
        """Fits and updates the feedback models that are left, and whose whole error is there."""
        ending_at = self._schedule._ending_at
        whole = [i for i in self._calls if self._gone.issuperset(ending_at[i].receivers)]
        self.fit(whole)
        fitters = (self._schedule._fitters[interface] for interface in whole)
        for name in dict.fromkeys(name for names in fitters for name in names):
            self.advance(name)
        self.advance(_UNSEEN)

    def _cut(self, interface: Interface, h: Tensor, context: Any) -> Tensor:
        """What the receivers of a message get in its place."""
        segment = self._schedule._ending_at.get(interface)
        if segment is None:
            raise LockingError(
                f"{interface.label} did not run in the first step; a schedule needs the same "
                "interfaces in each"
            )
        if interface in self._ran:
            raise LockingError(f"{interface.label} ran twice in this step, once in the first")
        self._ran.add(interface)
        going = self._going
        sends = going is None or segment in going
        fits = going is None or going.issuperset(segment.receivers)
        message = None
        if sends or fits:
            call = interface.unlocked_call(h, context)
            if sends:
                interface.check_synthetic(h, call.synthetic)
                self._tops[segment] = h, call.synthetic
            if fits:
                message = self._send(segment, interface.hand_over(h, call), call)
        if self._then is not None:
            self._then(segment)
        return h.detach() if message is None else message

    def _send(self, segment: Segment, message: Tensor, call: Call) -> Tensor:
        self._calls[call.interface] = call
        if len(segment.receivers) == 1:
            return message
        gather = self._gathers[call.interface] = Gather(message, call)
        return gather.received

    def _top(self, segment: Segment) -> tuple[Tensor, Tensor | None]:
        if segment not in self._tops:
            raise LockingError(
                f"the segment ending at {segment.name!r} cannot go back: it has already, has not "
                "run yet, or is not among those that were to go in this step"
            )
        return self._tops[segment]

    def _advance(self, name: str, optimizers: Iterable[str], checks: bool) -> None:
        there = self._schedule.optimizers
        self.guard.update(name, [there[o] for o in optimizers if o in there], checks=checks)
