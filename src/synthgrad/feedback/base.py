"""The contract of every feedback model: which error does a message get?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn


class Feedback(nn.Module, ABC):
    """Says which error a message gets before the real one is known: ``δ̂ = M(h, c)``.

    A subclass answers with :meth:`forward`. If it learns, :meth:`loss` says what it is fitted to;
    if it remembers, :meth:`observe` sees every real error. Nothing else in the library has to
    know about a new feedback model.
    """

    fitted_to: ClassVar[Literal["error", "loss"]] = "error"
    """What :meth:`loss` takes as ``target``: the error at the message, or the value of the loss."""

    _dtype: tuple[torch.dtype | None] | None = None
    _fitted: list[nn.Parameter] | None = None

    @property
    def dtype(self) -> torch.dtype | None:
        """The precision that this model computes in: its first parameter's; None without any."""
        if self._dtype is None:
            self._dtype = (next((p.dtype for p in self.parameters()), None),)
        return self._dtype[0]

    def versions(self) -> tuple[int, ...]:
        """How often each parameter has been changed; differs once the model has been updated."""
        if self._fitted is None:
            self._fitted = list(self.parameters())
        return tuple([parameter._version for parameter in self._fitted])

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        self._dtype = self._fitted = None  # .to(), .double() and the like all come through here
        return super()._apply(fn, recurse)

    @abstractmethod
    def forward(self, h: Tensor, context: Any = None) -> Tensor:
        """Predicts the per-example error of ``h``.

        Args:
            h: the message, ``"batch *message"``, detached from the sender's graph.
            context: whatever the caller knows besides, such as labels; None if nothing.

        Returns:
            ``δ̂``, of the shape of ``h``: the per-example error, that is, ``batch`` times the
            gradient of a mean loss.
        """

    def predict_for(self, like: Tensor, h: Tensor, context: Any = None) -> Tensor:
        """Predicts the per-example error of something else than the message, from the message.

        Over time the message is a core's output, and what gets the error is the core's whole
        state. A model that maps the one to the other only needs :meth:`forward`; one that answers
        whatever the message holds (``Zero``, ``Stale``) answers for ``like`` instead.

        Args:
            like: a tensor of the shape, precision and device of what gets the error,
                ``"batch width"``; its values say nothing.
            h: the message, as for :meth:`forward`.
            context: as for :meth:`forward`.

        Returns:
            ``δ̂``, of the shape of ``like``.
        """
        return self(h, context)

    def loss(self, h: Tensor, target: Tensor, context: Any = None) -> Tensor | None:
        """The scalar that fitting this model minimises, or None where nothing is learned.

        Args:
            h: the message that was sent, detached.
            target: the real per-example error, like ``h``; for models ``fitted_to`` the loss,
                its values per example, ``"batch"``.
            context: as for :meth:`forward`.
        """
        return None

    def observe(self, target: Tensor) -> None:
        """Sees each real per-example error when it arrives; for models that remember."""
