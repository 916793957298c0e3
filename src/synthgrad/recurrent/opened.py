"""A chunk between its begin() and its end()."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from synthgrad import _guards
from synthgrad._sandbox import preserved
from synthgrad.recurrent import ahead
from synthgrad.recurrent.boundary import Chunk
from synthgrad.recurrent.episodes import either, mask_of
from synthgrad.recurrent.fit import Fit, predict
from synthgrad.recurrent.layout import layout
from synthgrad.recurrent.pending import Waiting

if TYPE_CHECKING:
    from synthgrad.recurrent.bridge import RecurrentInterface


class Opened:
    """What end() has to know of its chunk's beginning: the predictions that wait for a target.

    Args:
        bridge: whose chunk it is.
        state: what the state looks like.
    """

    def __init__(self, bridge: RecurrentInterface, state: str) -> None:
        self.bridge = bridge
        self.state = state
        self.chunk = Chunk()
        self._ended: Tensor | None = None
        self._before: tuple[Tensor, Any] | None = None

    def answer(
        self, waiting: Waiting, tensors: Sequence[Tensor], ended: Tensor | bool
    ) -> list[Tensor]:
        """Predicts the last chunk's error again, and answers the real one when it arrives here.

        Args:
            waiting: what the last chunk left.
            tensors: the state's floating-point tensors; leaves.
            ended: rows whose episode ended in between.

        Returns:
            The tensors to run this chunk from.
        """
        bridge = self.bridge
        last_core, messages = bridge.last_core, waiting.messages
        if last_core is not None:
            messages = ahead.with_graph(messages, last_core(*waiting.inputs))
        message = messages[-1] if bridge.feedback_into_core else waiting.messages[-1]
        self._ended = either(waiting.ended, mask_of(ended, len(message), message.device))
        if bridge.auxiliary is not None:
            self._before = (messages, waiting.context)
        fit = Fit(
            bridge,
            self.chunk,
            layout(tensors, len(message), bridge.batch_dim),
            message,
            waiting.context,
            lambda_=None,
            kind="boundary",
            expectation=_guards.expect(cast(Any, bridge)),
        )
        return fit.pass_on(tensors, self._ended)

    def ahead(self, messages: Tensor, context: Any, predicted: Tensor) -> Tensor | None:
        """The auxiliary loss of what the last chunk said of this one's synthetic errors.

        Args:
            messages: this chunk's, ``"steps batch *message"``, detached.
            context: what M knows besides.
            predicted: M's error at the last step, ``"batch width"``.

        Returns:
            None in the first chunk.

        Raises:
            ShapeError: the auxiliary model is not as wide as the state.
        """
        auxiliary = self.bridge.auxiliary
        if auxiliary is None:
            return None
        if self._before is None:  # its first fit is a chunk away; that it cannot be is known now
            with torch.no_grad(), preserved(auxiliary):
                predict(auxiliary, messages[-1], context, predicted.shape[1])
            return None
        targets = ahead.synthetic(self.bridge.feedback, messages, context, predicted)
        loss, square = ahead.loss(auxiliary, *self._before, targets, self._ended)
        self.bridge.explained["auxiliary"].record(loss.detach(), square)
        return loss
