"""Update-unlocked training: each segment is updated before the next one runs (fig. 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from synthgrad.schedule.base import LossFn, Schedule, Segment, Share, Step


class Unlocked(Schedule):
    """Trains a model whose interfaces cut it into segments, one segment at a time.

    The order is that of fig. 9. Segment i runs; the feedback model behind it predicts the error;
    the segment is updated at once and its graph is freed; then segment i + 1 runs on the message.
    Its own backward pass gives the real (bootstrapped) error of the message, to which the feedback
    model is fitted. Only one segment's activations are alive at any time.

    The gradients are those of inline use. The first step looks at the graph, and an optimiser is
    made for each segment from its parameters and those of the feedback models at its inputs. What
    the first pass does not use, or is frozen, is updated with the last segment when it learns.

    Args:
        model: a module with interfaces, all at ``lambda_=0``.
        optimizer: makes an optimiser from parameters, for example
            ``functools.partial(torch.optim.Adam, lr=1e-3)``.
        feedback_optimizer: the same for feedback models, where they want another one.

    Attributes:
        optimizers: by name, one per segment (and one more per segment for its feedback models, if
            asked for), in the order of the updates; empty before the first step.
    """

    if TYPE_CHECKING:

        def step(self, x: Any, loss_fn: LossFn, context: Any = None) -> Tensor:
            """As that of every schedule; there is a loss at each."""
            ...

    def run(self, step: Step) -> None:
        """A forward pass, with every segment updated on the way."""

        def settle(segment: Segment) -> None:
            step.backward(segment)
            step.fit(segment.fits)
            step.update(segment, f"{segment.name} feedback")

        step.forward(then=settle)

    def share_out(self, segments: list[Segment]) -> list[Share]:
        """An optimiser for each segment and the feedback models at its inputs."""
        taken = {p for segment in segments for p in segment.parameters}
        fitted: dict[Segment, list[nn.Parameter]] = {}
        # From the top, so that a feedback model that interfaces share goes with its last use.
        for segment in reversed(segments):
            own = [p for i in segment.fits for p in i.feedback.parameters()]
            fitted[segment] = [p for p in dict.fromkeys(own) if p not in taken]
            taken.update(own)
        shares: list[Share] = []
        for segment in segments:
            own = segment.parameters + segment.unseen
            if self._make_feedback is None:
                shares.append((segment.name, self._make, own + fitted[segment]))
            else:
                shares.append((segment.name, self._make, own))
                shares.append((f"{segment.name} feedback", self._make_feedback, fitted[segment]))
        return shares

    def state_dict(self) -> dict[str, Any]:
        """The state of every optimiser, by name; all segments go at every step, so no counts."""
        return self.optimizers.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`; before the first step, it is kept until then.

        Raises:
            ArgumentError: it belongs to a model that is cut elsewhere.
        """
        self.optimizers.load_state_dict(state)
