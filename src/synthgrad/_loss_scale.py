"""``sg.loss``: tells every interface below a loss what that loss was multiplied by."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from synthgrad._graph import current_walk, nodes_below
from synthgrad.errors import LockingError, ShapeError


class Mark:
    """One loss, as the interfaces below it know it.

    Attributes:
        factor: what it was multiplied by, a scalar tensor; None before a backward pass.
    """

    _walked: ClassVar[weakref.WeakSet[Mark]] = weakref.WeakSet()

    def __init__(self) -> None:
        self.factor: Tensor | None = None
        self._walk: int | None = None

    @classmethod
    def is_in(cls, walk: int) -> bool:
        """Whether a backward pass has come through a marked loss."""
        return any(mark._walk == walk for mark in list(cls._walked))

    def arrive(self, factor: Tensor) -> None:
        """The backward pass has come to this loss."""
        self.factor = factor.detach().reshape(())
        self._walk = current_walk()
        self._walked.add(self)


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


def factor_of(marks: Sequence[Mark], *, recomputed: int | None, unlocked: bool) -> Tensor | None:
    """What the losses above a message were multiplied by; None where nobody said.

    Args:
        marks: those of the losses above.
        recomputed: the backward pass that the message was sent in; None outside of any.
        unlocked: whether its sender has been updated already.

    Raises:
        LockingError: several losses say different things, or one that should say is not in this
            backward pass, or the message was recomputed and none can reach it.
    """
    if not marks:
        if recomputed is not None and Mark.is_in(recomputed):
            raise LockingError(
                "it ran again inside a backward pass, as torch.utils.checkpoint does with "
                "use_reentrant=True, where synthgrad.loss cannot reach it; expected "
                "use_reentrant=False"
            )
        return None
    factors = [mark.factor for mark in marks]
    told = [factor for factor in factors if factor is not None]
    if not told or len(told) < len(factors):
        raise LockingError(
            f"an error came back, but none through {len(factors) - len(told)} of the "
            f"{len(factors)} losses above it that synthgrad.loss marked; expected the sum of all "
            "in one backward pass"
        )
    if any(factor is not told[0] and not torch.equal(factor, told[0]) for factor in told):
        raise LockingError(
            f"the losses above it were multiplied by {[float(f) for f in told]}; its feedback "
            "model predicts the error of their sum, so expected one mark around it: "
            "synthgrad.loss(w1 * loss1 + w2 * loss2)"
        )
    if unlocked and float(told[0]) != 1:
        raise LockingError(
            f"the loss above it was multiplied by {float(told[0])} after its sender had been "
            "updated; where senders do not wait, expected the factor inside: "
            "synthgrad.loss(w * loss)"
        )
    return told[0]


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
