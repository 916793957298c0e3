"""What waits between two chunks: the last prediction's message, until its target comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from synthgrad import _checks
from synthgrad._nest import every, transform
from synthgrad.errors import ArgumentError, ShapeError
from synthgrad.feedback import Feedback, Regression


@dataclass
class Waiting:
    """The predictions of one chunk that have no target yet; all tensors detached.

    Attributes:
        messages: ``"steps batch *message"``; the last is the boundary's, and the only one unless
            the auxiliary task runs at every step.
        context: what the feedback model knew besides.
        inputs: of the last core, from which it can be run again.
        ended: the rows whose episode ended with the chunk, ``"batch"``, or None.
        state: what the state looked like, for comparison.
    """

    messages: Tensor
    context: Any
    inputs: Any
    ended: Tensor | None
    state: str

    def messages_by(self, last_core: Callable[..., Tensor]) -> Tensor:
        """The messages; those that the core computes again carry its graph.

        Args:
            last_core: returns the last step's, ``"batch *message"``; or those of all steps.

        Raises:
            ShapeError: it returns neither.
        """
        kept, again = self.messages, last_core(*self.inputs)
        if again.shape == kept.shape:
            return again.to(kept.dtype)
        if again.shape == kept.shape[1:]:
            again = again.to(kept.dtype).unsqueeze(0)
            # torch.compile fails on an empty part.
            return again if len(kept) == 1 else torch.cat([kept[:-1], again])
        raise ShapeError(
            f"last_core must return the message it returned in the chunk before, "
            f"{tuple(kept.shape[1:])}, or those of all steps, {tuple(kept.shape)}; it returned "
            f"{tuple(again.shape)}"
        )


class Pending:
    """Keeps one :class:`Waiting`, always in the same memory while shapes stay the same.

    A CUDA graph that captured a chunk reads what its own last replay wrote. What is handed out are
    copies, since graphs hold on to them while the memory is written again.
    """

    def __init__(self) -> None:
        self._kept: Waiting | None = None
        self._is_due = False

    def __bool__(self) -> bool:
        return self._is_due

    @torch.no_grad()
    def keep(self, waiting: Waiting) -> None:
        """Remembers copies of what waits, in place of what waited before."""
        old = self._kept
        self._kept = Waiting(
            _keep(old and old.messages, waiting.messages),
            _keep(old and old.context, waiting.context),
            _keep(old and old.inputs, waiting.inputs),
            _keep(old and old.ended, waiting.ended),
            waiting.state,
        )
        self._is_due = True

    def look(self) -> Waiting | None:
        """A copy of what waits; it goes on waiting."""
        return self.apply_to_copy(torch.clone) if self._is_due else None

    def drop(self) -> None:
        """Nothing waits any more."""
        self._is_due = False

    def apply(self, change: Callable[[Tensor], Tensor]) -> None:
        """Moves or casts what is kept, as ``nn.Module.to`` does with parameters."""
        self._kept = self.apply_to_copy(change)

    def apply_to_copy(self, change: Callable[[Tensor], Tensor]) -> Waiting | None:
        """What is kept with every tensor changed."""
        if self._kept is None:
            return None
        fields = vars(self._kept).items()
        return Waiting(**{name: transform(value, change) for name, value in fields})

    def state(self) -> dict[str, Any] | None:
        """A copy of what waits, made of plain containers and tensors."""
        waiting = self.look()
        return None if waiting is None else vars(waiting)

    def restore(self, state: dict[str, Any] | None, device: torch.device | None) -> None:
        """Takes over what :meth:`state` returned."""
        self._kept, self._is_due = None, state is not None
        if state is not None:
            self._kept = Waiting(**state)
            self._kept = self.apply_to_copy(lambda t: t.to(device or t.device, copy=True))


def _keep(old: Any, new: Any) -> Any:
    spare = iter(every(old))
    return transform(new, lambda tensor: _keep_one(next(spare, None), tensor))


def _keep_one(place: Tensor | None, tensor: Tensor) -> Tensor:
    """In ``place``, if it is of the tensor's kind; else in new memory."""
    kind = (tensor.shape, tensor.dtype, tensor.device)
    if place is not None and (place.shape, place.dtype, place.device) == kind:
        return place.copy_(tensor)
    return tensor.detach().clone()


def check_last_core(
    last_core: Any, feedback_into_core: bool, feedback: Feedback, auxiliary: Feedback | None
) -> None:
    """Refuses options that need each other.

    Raises:
        ArgumentError: M's error shall flow into the core and cannot; or nothing would flow there.
    """
    _checks.functions(last_core=last_core)
    _checks.flag("feedback_into_core", feedback_into_core)
    if feedback_into_core and last_core is None:
        raise ArgumentError(
            "feedback_into_core=True needs last_core, a function that computes the last message "
            "again: the graph of the one that was sent is gone when its error arrives"
        )
    if feedback_into_core and not isinstance(feedback, Regression):
        raise ArgumentError(
            "feedback_into_core=True needs a feedback model fitted by regression, got "
            f"{type(feedback).__name__}"
        )
    if last_core is not None and not feedback_into_core and auxiliary is None:
        raise ArgumentError(
            "last_core carries regression errors into the core; without an auxiliary model and "
            "with feedback_into_core=False there is none"
        )


def check_inputs(inputs: Any, last_core: Any) -> None:
    """Refuses inputs without a core that takes them, and a core without inputs.

    Raises:
        ArgumentError: one of them is missing, or ``inputs`` is no tuple.
    """
    if last_core is None and inputs is not None:
        raise ArgumentError("inputs are those of last_core, and this interface has none")
    if last_core is not None and not isinstance(inputs, tuple):
        raise ArgumentError(
            "end() needs inputs=(...), a tuple of the arguments of last_core at the chunk's last "
            f"step; got {type(inputs).__name__}"
        )
