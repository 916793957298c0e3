"""Complete unlocking: no part waits for another, neither for its input nor for its error (3.3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from synthgrad import _checks
from synthgrad.errors import ArgumentError, LockingError, NonFiniteError, ShapeError, about
from synthgrad.functional import squared_error
from synthgrad.interface import Interface, routed
from synthgrad.schedule._chance import Chance, Order, Probability
from synthgrad.schedule._cuts import find_parts
from synthgrad.schedule.base import LossFn, MakeOptimizer, Schedule, Segment, Share, Step


class FullyUnlocked(Schedule):
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
        super().__init__(model, optimizer, feedback_optimizer=feedback_optimizer)
        _checks.functions(input_optimizer=input_optimizer)
        self._make_input = input_optimizer or feedback_optimizer or optimizer
        self._chance = Chance(p_update, order, generator)
        self.adopt(find_parts(model))

    def run(self, step: Step) -> None:
        """What the free parts do, one after the other.

        Raises:
            ShapeError: the model's input is not one tensor.
        """
        if not isinstance(step.x, Tensor):
            came = type(step.x).__name__
            raise ShapeError(f"synthetic inputs are made from one tensor, got {came}")
        going = [self.segments[position] for position in self._chance.draw()]
        joined = _Joined(step.x, step.context, going)
        for part in going:
            step.guard.expect_no_gradient(part.name, part.parameters)
            h, context = _run_alone(part, joined.receive(part))
            if part.interface is None:
                step.finish_loss(h).backward()
            else:
                call = part.interface.unlocked_call(h, context)
                part.interface.check_synthetic(h, call.synthetic)
                joined.send(part, h)
                if h.requires_grad:
                    h.backward(call.synthetic)
            step.update(part, *(f"{self._ending_at[below].name} feedback" for below in part.inputs))
            for interface in (*part.inputs, part.interface):
                if interface is not None and joined.fit(interface):
                    name = f"{self._ending_at[interface].name} input"
                    step.advance(name, checks=interface.check_finite is True)

    def look(self, x: Any, loss_fn: LossFn, context: Any = None) -> list[Segment]:
        """Finds the parts; no forward pass is needed."""
        return find_parts(self.model)

    def adopt(self, segments: list[Segment]) -> None:
        """Raises ArgumentError where a probability is given for a part that is not there."""
        self._chance.among([segment.name for segment in segments])
        super().adopt(segments)

    def share_out(self, segments: list[Segment]) -> list[Share]:
        """An optimiser for each part, feedback model and synthetic input model.

        Raises:
            ArgumentError: an interface has no synthetic input model.
            LockingError: interfaces share a model.
        """
        shares: list[Share] = []
        taken: set[nn.Parameter] = set()

        def share(name: str, make: MakeOptimizer, parameters: list[nn.Parameter]) -> None:
            # Frozen ones as well, which may learn later; but each in one optimiser.
            shares.append((name, make, [p for p in parameters if p not in taken]))
            taken.update(parameters)

        for part in segments:
            share(part.name, self._make, part.parameters)
            if (interface := part.interface) is None:
                continue
            if interface.inputs is None:
                raise ArgumentError(
                    f"{interface.label} has no synthetic input model; give one by "
                    "sg.decouple(..., inputs=...) or sg.Interface(..., inputs=...)"
                )
            for kind, model, make in (
                ("feedback", interface.feedback, self._make_feedback or self._make),
                ("input", interface.inputs, self._make_input),
            ):
                if any(p in taken and p.requires_grad for p in model.parameters()):
                    raise LockingError(
                        f"the {kind} model of {interface.label} is shared; parts that do not wait "
                        "for each other each need their own"
                    )
                share(f"{part.name} {kind}", make, list(model.parameters()))
        return shares


def _run_alone(part: Segment, x: Any) -> tuple[Any, Any]:
    """What a part makes of its input, and the context that its interface sees.

    Raises:
        LockingError: its interface does not come last.
    """
    seen: list[tuple[Tensor, Any]] = []

    def cut(interface: Interface, h: Tensor, context: Any) -> Tensor:
        seen.append((h, context))
        return h

    with routed(cut):
        for module in part.modules:
            x = module(x)
    if part.interface is None:
        return x, None
    if len(seen) != 1 or seen[0][0] is not x:
        raise LockingError(
            f"{part.interface.label} ran {len(seen)} times in its part, or its message went on "
            "inside it; it has to come last, once"
        )
    return seen[0]


class _Joined:
    """The interfaces at both ends of which a part is free: what was sent, and what was predicted.

    Both are kept only until the synthetic input has been fitted to the message.
    """

    def __init__(self, x: Tensor, context: Any, going: list[Segment]) -> None:
        self.x = x
        self.context = context
        senders = {part.interface for part in going}
        self.awaited = {below for part in going for below in part.inputs if below in senders}
        self.sent: dict[Interface, Tensor] = {}
        self.predicted: dict[Interface, Tensor] = {}

    def send(self, part: Segment, h: Tensor) -> None:
        """Notes the message at the end of a part, where it will be wanted."""
        if part.interface in self.awaited:
            self.sent[part.interface] = h.detach()

    def receive(self, part: Segment) -> Tensor:
        """What a part takes in: the synthetic input, whose error fits the feedback model."""
        if not part.inputs:
            return self.x
        (interface,) = part.inputs
        assert interface.inputs is not None
        with about(lambda: f"{interface.label}, its synthetic input model"):
            predicted = interface.inputs(self.x, self.context)
        if interface in self.awaited:
            self.predicted[interface] = predicted
        message = predicted.detach()
        with about(
            lambda: f"{interface.label}, the message that its synthetic input model predicted"
        ):
            call = interface.unlocked_call(message, self.context)
        return interface.hand_over(message, call)

    def fit(self, interface: Interface) -> bool:
        """Gives a synthetic input its gradients, once its message is there; whether it did.

        Raises:
            ShapeError: the message has another shape.
            NonFiniteError: it holds NaN or infinity.
        """
        if interface not in self.sent or interface not in self.predicted:
            return False
        sent, predicted = self.sent.pop(interface), self.predicted.pop(interface)
        if not predicted.requires_grad:
            return False
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
        return True
