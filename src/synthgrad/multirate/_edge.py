"""Messages between nodes, from when they are sent until their whole error has come back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from synthgrad import _checks
from synthgrad.errors import ShapeError
from synthgrad.feedback import Feedback
from synthgrad.interface import Interface


@dataclass(eq=False)
class Post:
    """One message on one edge.

    Attributes:
        message: as it was sent, detached.
        context: what the feedback model sees besides.
        delta: the error that has come back from uses whose graph is gone.
        uses: what the receiver took in its place, at each of its ticks.
    """

    message: Tensor
    context: Any
    delta: Tensor | None = None
    uses: list[Tensor] = field(default_factory=list)

    def take(self) -> Tensor:
        """What the receiver computes with at a tick."""
        use = self.message.detach().requires_grad_()
        self.uses.append(use)
        return use.clone()  # no leaf, and memory of its own: the receiver may work in place

    def collect(self) -> Tensor | None:
        """Adds up what the receiver's backward pass left at the uses; None for nothing."""
        found = [use.grad for use in self.uses if use.grad is not None]
        for grad in found:
            self.delta = grad if self.delta is None else self.delta + grad
        self.uses = []
        return self.delta if found else None


class Edge:
    """From a sender to a receiver.

    Args:
        label: what it is called, "sender -> receiver".
        interface: predicts the error of the sender's messages; None to send none back.

    Attributes:
        held: the newest message; None before the first.
    """

    def __init__(self, label: str, interface: Interface | None) -> None:
        self.label = label
        self.interface = interface
        self.held: Post | None = None
        self._waiting: list[Post] = []

    def send(self, h: Tensor, context: Any, *, learns: bool) -> Tensor | None:
        """Replaces the message that is held.

        Args:
            h: the message.
            context: what the feedback model sees besides.
            learns: whether an error is wanted for it, and its own awaited.

        Returns:
            The synthetic error for the sender, on the scale that autograd carries; None for none.

        Raises:
            ShapeError: the message is no tensor, or none that an error can be predicted for.
            LockingError: ``lambda_`` of the interface is not 0.
            NonFiniteError: the synthetic error holds NaN or infinity.
        """
        if self.interface is not None:
            _checks.dense("a message", h)
        elif not isinstance(h, Tensor):
            raise ShapeError(f"a message must be a tensor, got {_checks.came(h)}")
        self.held = Post(h.detach(), context)
        if self.interface is None or not learns:
            return None
        self._waiting.append(self.held)
        with torch.no_grad():
            error = self.interface.unlocked_call(h, context).synthetic
        self.interface.check_synthetic(h, error)
        return error

    def receive(self, *, learns: bool) -> Tensor:
        """The message that is held, for the receiver, which may work on it in place."""
        assert self.held is not None
        awaited = learns and self.held in self._waiting
        return self.held.take() if awaited else self.held.message.clone()

    def collect(self) -> None:
        """After the receiver's backward pass: takes in the errors that it left.

        Raises:
            NonFiniteError: one holds NaN or infinity.
        """
        for post in self._waiting:
            delta = post.collect()
            if delta is not None and self.interface is not None:
                self.interface.check(delta)

    def fit(self, *, now: bool) -> Feedback | None:
        """Fits the feedback model to every whole error.

        Args:
            now: the held message will not be used again, although none has replaced it yet.

        Returns:
            The feedback model, where there was any.
        """
        if self.interface is None:
            return None
        done = [post for post in self._waiting if now or post is not self.held]
        self._waiting = [post for post in self._waiting if post not in done]
        answered = [post for post in done if post.delta is not None]
        for post in answered:
            call = self.interface.call(post.message, post.context)
            self.interface.hand_over(post.message, call).backward(post.delta)
        return self.interface.feedback if answered else None

    def forget(self) -> None:
        """Awaits no error any more."""
        self._waiting = []

    def kept(self) -> dict[str, Any]:
        """What the next tick depends on, between updates of the receiver; a nest."""
        waiting = self._waiting if self.held is None else [*self._waiting, self.held]
        return {
            "posts": [(p.message, p.context, p.delta) for p in dict.fromkeys(waiting)],
            "waiting": len(self._waiting),
            "held": self.held is not None,
        }

    def restore(self, kept: dict[str, Any]) -> None:
        """Goes back to :meth:`kept`."""
        posts = [Post(*post[:3]) for post in kept["posts"]]
        self._waiting = posts[: kept["waiting"]]
        self.held = posts[-1] if kept["held"] else None
