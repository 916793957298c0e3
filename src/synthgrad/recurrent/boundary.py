"""The two places where the engine meets a boundary: an error enters there, and one leaves there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from synthgrad._graph import current_walk
from synthgrad.recurrent.layout import Layout

Errors = Sequence[Tensor | None]
Answer = Callable[..., tuple[Errors, Errors]]


class Chunk:
    """What the nodes in one chunk's graph have to know of each other.

    Attributes:
        weight: what the loss was multiplied by before the backward pass (a loss scaler, an
            average over several chunks): the gradient of :meth:`RecurrentInterface.end`'s scalar.
            Whoever compares errors with predictions needs it. None before the backward pass.
        has_end: whether there is such a scalar.
        walk: which backward pass brought the weight; None before it.
    """

    def __init__(self) -> None:
        self.weight: Tensor | None = None
        self.has_end = False
        self.walk: int | None = None


def cross(
    tensors: Sequence[Tensor], answer: Answer, fitted: Sequence[Tensor], saved: Sequence[Tensor]
) -> list[Tensor]:
    """:func:`synthgrad.functional.redirect` for several tensors that get their errors together.

    Args:
        tensors: a state's floating-point tensors; the identity on them.
        answer: ``answer(errors, *saved)`` returns the error of each tensor and the gradient of each
            of ``fitted``, once the errors of all tensors have arrived.
        fitted: a feedback model's prediction, or its parameters.
        saved: held as autograd holds saved tensors.
    """
    return list(cast(Any, _Cross.apply(answer, len(tensors), saved, *tensors, *fitted)))


class _Cross(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, answer: Answer, count: int, saved: Sequence[Tensor], *rest: Tensor
    ) -> Any:
        ctx.answer = answer
        ctx.saves = bool(saved)
        ctx.save_for_backward(*saved)
        return tuple(tensor.detach() for tensor in rest[:count])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *errors: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        below, fitted = ctx.answer(errors, *(ctx.saved_tensors if ctx.saves else ()))
        return (None, None, None, *below, *fitted)


def consume(
    tensors: Sequence[Tensor], chunk: Chunk, layout: Layout, error: Tensor | None
) -> Tensor:
    """A scalar zero whose gradient with respect to the state is ``error``, whatever the state is.

    Args:
        tensors: the state's floating-point tensors.
        chunk: learns the weight of the loss.
        layout: of the tensors.
        error: ``"batch width"``, on the scale that autograd carries; None for no error at all.
    """
    return cast(Tensor, _Consume.apply(chunk, layout, error, *tensors))


class _Consume(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, chunk: Chunk, layout: Layout, error: Tensor | None, *tensors: Tensor
    ) -> Tensor:
        ctx.chunk = chunk
        ctx.layout = layout
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        ctx.save_for_backward(*([] if error is None else [error]))
        # In single precision at least, for the weight that comes back is what a loss was scaled by.
        return tensors[0].new_zeros((), dtype=torch.promote_types(tensors[0].dtype, torch.float32))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        saved = ctx.saved_tensors  # once: torch.utils.checkpoint unpacks no tensor twice
        ctx.chunk.weight, ctx.chunk.walk = weight, current_walk()
        if not saved:
            return (None, None, None, *(None for _ in ctx.dtypes))
        parts = ctx.layout.split(saved[0] * weight)
        return (None, None, None, *(p.to(d) for p, d in zip(parts, ctx.dtypes, strict=True)))
