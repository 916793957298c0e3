"""Sporadic training: after a forward pass each segment is updated with some probability (3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from synthgrad.schedule._chance import Chance, Order, Probability
from synthgrad.schedule.base import LossFn, MakeOptimizer, Schedule, Segment, Step


class Sporadic(Schedule):
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
        super().__init__(model, optimizer, feedback_optimizer=feedback_optimizer)
        self._chance = Chance(p_update, order, generator)

    if TYPE_CHECKING:

        def step(self, x: Any, loss_fn: LossFn, context: Any = None) -> Tensor:
            """As that of every schedule; there is a loss at each."""
            ...

    def run(self, step: Step) -> None:
        """A forward pass, then the updates of the segments that go."""
        going = [self.segments[position] for position in self._chance.draw()]
        step.forward(going)
        for segment in going:
            step.backward(segment)
            step.update(segment)

    def adopt(self, segments: list[Segment]) -> None:
        """Raises ArgumentError where a probability is given for a segment that is not there."""
        self._chance.among([segment.name for segment in segments])
        super().adopt(segments)
