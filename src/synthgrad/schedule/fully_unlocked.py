"""Complete unlocking: no part waits for another, neither for its input nor for its error (3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from synthgrad import _checks
from synthgrad._values import losses
from synthgrad.context import context as in_context
from synthgrad.context import current_context
from synthgrad.errors import (
    ArgumentError,
    LockingError,
    NonFiniteError,
    ShapeError,
    SynthgradError,
)
from synthgrad.functional import squared_error
from synthgrad.interface import Interface
from synthgrad.schedule.chance import Chance, Order, Probability
from synthgrad.schedule.guard import Guard
from synthgrad.schedule.optimizers import Counted, MakeOptimizer, Optimizers
from synthgrad.schedule.parts import Part, find_parts


class FullyUnlocked(Counted):
    """Trains the parts of a sequential model without any of them waiting for another (fig. 6).

    At every step each part is free with probability ``p_update``, and otherwise busy: it does
    nothing at all. A free part i

    - takes the synthetic input ``ĥ = I_i(x)`` in place of the message (the first part: ``x``);
    - runs, and goes back from the synthetic error ``M(h_i)`` of its own message (the last part:
      from the loss);
    - is updated, and so is the feedback model of the message it received: the error that came back
      to ``ĥ`` is its target.

    When the part below was free too, ``I_i`` is fitted to the message that it sent. To use the
    model, call it as any module: its parts are joined, and synthetic inputs are not used.

    Args:
        model: an ``nn.Sequential`` with interfaces, all at ``lambda_=0`` and with ``inputs``
            (``sg.decouple(..., inputs=...)``).
        optimizer: makes an optimiser from the parameters of a part, a feedback model or a
            synthetic input model, for example ``functools.partial(torch.optim.Adam, lr=1e-3)``.
        p_update: the probability for every part, or for each by name: the name of the interface
            at its end, "output" for the last one. Parts not named are always free.
        order: in which free parts go: "random", or "forward", from the input to the loss.
        feedback_optimizer: the same as ``optimizer`` for feedback and synthetic input models,
            where they want another.
        input_optimizer: the same for synthetic input models, where they want yet another. They have
            to follow what the part below sends, although they are fitted less often than it is
            updated (both parts have to be free): a part whose receiver sees only an old idea of
            its message hears the same error again and again. A rate above that of the parts, which
            does not fall with theirs, keeps them together.
        generator: where the choices come from; by default PyTorch's.

    Attributes:
        optimizers: by name: one per part, per feedback model and per synthetic input model.
        updates: how often each part has been updated, by name.

    Raises:
        ArgumentError: a probability lies outside [0, 1] or is for a part that the model has not,
            the order is unknown, or an interface has no ``inputs``.
        LockingError: the model is no sequence of parts, or two parts share a parameter.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: MakeOptimizer,
        p_update: Probability = 1.0,
        *,
        order: Order = "random",
        feedback_optimizer: MakeOptimizer | None = None,
        input_optimizer: MakeOptimizer | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.model = _checks.module("model", model)
        _checks.function("optimizer", optimizer)
        _checks.functions(feedback_optimizer=feedback_optimizer, input_optimizer=input_optimizer)
        self.parts = find_parts(model)
        self.optimizers = Optimizers()
        self.updates = {part.name: 0 for part in self.parts}
        self._chance = Chance(p_update, order, generator)
        self._chance.among(list(self.updates))
        taken: set[nn.Parameter] = set()
        makes = {"feedback": feedback_optimizer or optimizer}
        makes["input"] = input_optimizer or makes["feedback"]
        for part in self.parts:
            # Frozen ones as well, which may learn later; but each in one optimiser.
            own = [p for p in part.parameters() if p not in taken]
            taken.update(own)
            self.optimizers.make(part.name, optimizer, own)
            if (interface := part.above) is None:
                continue
            if interface.inputs is None:
                raise ArgumentError(
                    f"{interface.label} has no synthetic input model; give one by "
                    "sg.decouple(..., inputs=...) or sg.Interface(..., inputs=...)"
                )
            for kind, module in (("feedback", interface.feedback), ("input", interface.inputs)):
                if any(p in taken and p.requires_grad for p in module.parameters()):
                    raise LockingError(
                        f"the {kind} model of {interface.label} is shared; parts that do not wait "
                        "for each other each need their own"
                    )
                own = [p for p in module.parameters() if p not in taken]
                taken.update(own)
                self.optimizers.make(f"{part.name} {kind}", makes[kind], own)
        self._guard = Guard(model, self.optimizers)

    def step(
        self, x: Tensor, loss_fn: Callable[[Any], Tensor], context: Any = None
    ) -> Tensor | None:
        """One step of the free parts.

        Args:
            x: the model's input.
            loss_fn: ``loss_fn(output)`` returns the scalar loss, or the loss of each example,
                "batch", whose mean is then taken (critics need it so).
            context: what conditional models see besides, such as labels; by default that of
                :func:`synthgrad.context`.

        Returns:
            The loss, a detached scalar; None where the last part was busy.

        Raises:
            LockingError: the model is in eval mode, or an interface's ``lambda_`` is not 0.
            ShapeError, ContextError: a model does not fit its message or the context; ``x`` is not
                a tensor.
            NonFiniteError: a synthetic error, the loss, a target (an error or a message) or a
                gradient holds NaN or infinity. A message that nobody takes is no target. Nothing
                that is not finite has got into a weight, a statistic or an optimiser's state.
        """
        if not self.model.training:
            raise LockingError("the model is in eval mode; call model.train() before step()")
        _checks.function("loss_fn", loss_fn)
        if not isinstance(x, Tensor):
            raise ShapeError(f"synthetic inputs are made from one tensor, got {type(x).__name__}")
        context = current_context() if context is None else context
        self.optimizers.clear_gradients()
        going = [self.parts[position] for position in self._chance.draw()]
        run = _Run(self, self._guard, going, x, loss_fn)
        with self._guard.step(), torch.enable_grad(), in_context(context):
            for part in going:
                run.go(part, context)
        return run.loss


class _Run:
    """One step: what the free parts sent, and what they took instead of what others sent.

    Both are kept only until the synthetic input has been fitted to the message.
    """

    def __init__(
        self,
        schedule: FullyUnlocked,
        guard: Guard,
        going: list[Part],
        x: Tensor,
        loss_fn: Callable[[Any], Tensor],
    ) -> None:
        self.schedule = schedule
        senders = {part.above for part in going}
        self.awaited = {part.below for part in going if part.below in senders}
        self.guard = guard
        self.x = x
        self.loss_fn = loss_fn
        self.loss: Tensor | None = None
        self.sent: dict[Interface, Tensor] = {}
        self.taken: dict[Interface, Tensor] = {}

    def go(self, part: Part, context: Any) -> None:
        self.guard.expect_no_gradient(part.name, part.parameters())
        h, own_context = part.run(self._input(part, context))
        if part.above is None:
            loss = _checks.loss(self.loss_fn(h))
            loss = losses(loss).mean() if loss.ndim else loss
            self.guard.check_loss(loss)
            self.loss = loss.detach()
            loss.backward()
        else:
            call = part.above.unlocked_call(h, own_context)
            part.above.check_synthetic(h, call.synthetic)
            if part.above in self.awaited:
                self.sent[part.above] = h.detach()
            if h.requires_grad:
                h.backward(call.synthetic)
        checked = part.above is None or part.above.check_finite is True
        below = [] if part.below is None else [f"{self._name(part.below)} feedback"]
        self._update(part.name, part.name, *below, checks=checked)
        self.schedule.updates[part.name] += 1
        self._fit_input(part.below)
        self._fit_input(part.above)

    def _fit_input(self, interface: Interface | None) -> None:
        """Fits a synthetic input to its message, once both are there."""
        if interface not in self.sent or interface not in self.taken:
            return
        assert interface is not None
        sent, predicted = self.sent.pop(interface), self.taken.pop(interface)
        if not predicted.requires_grad:
            return
        if sent.shape != predicted.shape:
            raise ShapeError(
                f"{interface.label}: the synthetic input has shape {tuple(predicted.shape)}, "
                f"the message {tuple(sent.shape)}"
            )
        if interface.check_finite and not sent.isfinite().all():
            raise NonFiniteError(
                f"{interface.label}: the message that its synthetic input model should be "
                "fitted to holds NaN or infinity; expected finite values"
            )
        squared_error(predicted, sent).backward()
        name = f"{self._name(interface)} input"
        self._update(name, name, checks=interface.check_finite is True)

    def _input(self, part: Part, context: Any) -> Tensor:
        interface = part.below
        if interface is None:
            return self.x
        assert interface.inputs is not None
        with _blaming(interface, "its synthetic input model"):
            predicted = interface.inputs(self.x, context)
        if interface in self.awaited:
            self.taken[interface] = predicted
        message = predicted.detach()
        with _blaming(interface, "the message that its synthetic input model predicted"):
            call = interface.unlocked_call(message, context)
        return interface.hand_over(message, call)

    def _name(self, interface: Interface) -> str:
        return next(part.name for part in self.schedule.parts if part.above is interface)

    def _update(self, name: str, *optimizers: str, checks: bool) -> None:
        there = self.schedule.optimizers
        self.guard.update(name, [there[o] for o in optimizers if o in there], checks=checks)


@contextmanager
def _blaming(interface: Interface, what: str) -> Iterator[None]:
    """Says of an error of ours which interface it is about, and what there is at fault."""
    try:
        yield
    except SynthgradError as error:
        said = str(error).removeprefix(f"{interface.label}: ")
        raise type(error)(f"{interface.label}, {what}: {said}") from error
