"""A message that several segments receive, each of which answers in its own time."""

from __future__ import annotations

from torch import Tensor

from synthgrad.functional import redirect
from synthgrad.interface import Call


class Gather:
    """Adds up the errors that come back for a message, to deliver them as one.

    Args:
        message: what :meth:`synthgrad.Interface.hand_over` returned.
        call: what answers its error.

    Attributes:
        received: what the segments receive in its place.
    """

    def __init__(self, message: Tensor, call: Call) -> None:
        self.message = message
        self.values = call.values
        self.received = redirect(message.detach().requires_grad_(), self)
        self._delta: Tensor | None = None

    def __call__(self, delta: Tensor) -> tuple[None]:
        """Notes one segment's part of the error (:func:`synthgrad.functional.redirect`)."""
        self._delta = delta if self._delta is None else self._delta + delta
        return (None,)

    def deliver(self) -> None:
        """Sends on what has come back, if anything has."""
        if self._delta is not None:
            self.message.backward(self._delta)
