"""``sg.loss``: tells every interface below a loss what that loss was multiplied by."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from synthgrad._graph import nodes_below
from synthgrad.errors import ShapeError


class Mark:
    """One loss, as the interfaces below it know it.

    Attributes:
        factor: what it was multiplied by, a scalar tensor; None before a backward pass.
    """

    _walked: ClassVar[weakref.WeakSet[Mark]] = weakref.WeakSet()

    def __init__(self) -> None:
        self.factor: Tensor | None = None

    @classmethod
    def under_way(cls) -> bool:
        """Whether a backward pass that began at a marked loss has not ended yet."""
        return bool(cls._walked)

    def arrive(self, factor: Tensor) -> None:
        """The backward pass has come to this loss."""
        self.factor = factor.detach().reshape(())
        self._walked.add(self)
        # As torch's own data-parallel wrappers hear of the end of a pass; there is no public way.
        torch.autograd.Variable._execution_engine.queue_callback(self._end)  # type: ignore[attr-defined]

    def _end(self) -> None:
        self._walked.discard(self)


def loss(loss: Tensor) -> Tensor:
    r"""Marks the loss, so that multiplying it multiplies every gradient; the identity on it.

    A synthetic error :math:`\hat\delta` stands for that of the marked loss :math:`L`. Where
    the backward pass begins with :math:`w L` (a loss scaler, ``loss / k``, a weight), the senders
    get

    .. math:: \bar g = \lambda\, w\,\delta + (1 - \lambda)\, w\,\hat\delta,

    and feedback models get :math:`w` times the gradient of the squared error of the
    unscaled one: as everything, they end up with :math:`w` times their gradient. Without a mark the
    synthetic error cannot follow :math:`w`. ::

        loss = sg.loss(criterion(model(x), y))
        (loss / k).backward()                  # or scaler.scale(loss).backward()

    Of several losses that are added up, mark the weighted sum, or all with the same factor.

    Args:
        loss: a scalar, attached to its graph.

    Returns:
        A tensor equal to ``loss``.

    Raises:
        ShapeError: it is no tensor with exactly one value.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        came = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ShapeError(
            f"sg.loss marks one scalar loss, got {came}; of losses per example mark the mean or sum"
        )
    if not (loss.requires_grad and torch.is_grad_enabled()):
        return loss
    mark = Mark()

    def is_marked(node: Any) -> bool:  # the inner one of two marks is the nearer
        return isinstance(getattr(node, "mark", None), Mark)

    for node in nodes_below(loss, stop=is_marked):
        marks = getattr(getattr(node, "respond", None), "marks", None)
        if marks is not None:
            marks.append(mark)
    return cast(Tensor, _Marked.apply(loss, mark))


class _Marked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, mark: Mark) -> Tensor:
        ctx.mark = mark
        return loss.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.mark.arrive(factor)
        return factor, None
